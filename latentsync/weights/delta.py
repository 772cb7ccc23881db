"""Weights stored as a delta: a network that was trained in part, or distilled, keeps only what differs from its base checkpoint."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.weights.table import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor  # slow to import, and not needed to tell what is missing

    from latentsync.weights.files import Checkpoint

BASE_ENTRY = "rest_of"  # metadata entry of a delta: path of the base checkpoint, and a checksum of what the two share


def delta_of(tensors: Mapping[str, "Tensor"], base: "Checkpoint") -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """The `tensors` that differ from those of `base` in any bit, and the metadata entry by which `with_base` finds it."""
    own = {name: tensor for name, tensor in tensors.items() if not same(tensor, base.tensors.get(name))}
    shared = {name: base.tensors[name] for name in tensors if name not in own}
    return own, {BASE_ENTRY: {"file": str(base.path), "crc32": checksum(shared)}}


def same(first: "Tensor", second: "Tensor | None") -> bool:
    """Whether two tensors are equal in type, shape and every value."""
    return second is not None and first.dtype == second.dtype and first.equal(second.to(first.device))


def with_base(checkpoint: "Checkpoint", read: Callable[[Path], "Checkpoint"]) -> "Checkpoint":
    """A delta together with the tensors of its base checkpoint; any other checkpoint unchanged.

    The base is searched beside the delta, then at the path stored in it. Its checksum is not compared where `read` returns
    tensors on the meta device.

    Raises:
        CheckpointError: the base is missing, or is not the file that the delta was made from.
    """
    if BASE_ENTRY not in checkpoint.metadata:
        return checkpoint
    entry, path = checkpoint.metadata[BASE_ENTRY], checkpoint.path
    places = [path.with_name(Path(entry["file"]).name), Path(entry["file"])]
    found = next((place for place in places if place.is_file() and place.absolute() != path.absolute()), None)
    if found is None:
        raise CheckpointError(
            f"{path} is a delta: it holds only the weights that differ from {places[0].name}. Put that file beside it."
        )
    base = read(found).tensors
    shared = {name: base[name] for name in base if name not in checkpoint.tensors}
    has_numbers = not any(tensor.is_meta for tensor in shared.values())
    if has_numbers and checksum(shared) != entry["crc32"]:
        raise CheckpointError(f"{path} is a delta to another file than {found}: put that {places[0].name} beside it.")
    return replace(checkpoint, tensors={**shared, **checkpoint.tensors})


def checksum(tensors: Mapping[str, "Tensor"]) -> str:
    """CRC-32 of names and bytes, in the order of the names, as eight hexadecimal digits."""
    import torch

    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(), crc)
    return f"{crc:08x}"
