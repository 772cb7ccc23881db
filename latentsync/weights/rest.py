"""Weights stored as what differs from another file: a network that was trained in part, or distilled, takes little room."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentsync.weights.table import CheckpointError

if TYPE_CHECKING:
    from latentsync.weights.files import Checkpoint

REST = "rest_of"  # entry of the metadata: the file that holds the other tensors, and their checksum


def changes(tensors: Mapping[str, Tensor], rest: "Checkpoint") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Those of `tensors` that `rest` does not hold bit by bit, and the metadata entries by which `completed` finds it."""
    own = {name: tensor for name, tensor in tensors.items() if not same(tensor, rest.tensors.get(name))}
    shared = {name: rest.tensors[name] for name in tensors if name not in own}
    return own, {REST: {"file": str(rest.path), "crc32": checksum(shared)}}


def same(first: Tensor, second: Tensor | None) -> bool:
    """Equal in type, shape and every value."""
    return second is not None and first.dtype == second.dtype and first.equal(second.to(first.device))


def completed(checkpoint: "Checkpoint", read: Callable[[Path], "Checkpoint"]) -> "Checkpoint":
    """The checkpoint with the tensors that it leaves to another file, beside it or where that was; as it is if it leaves none.

    Whether it is the same file is known from numbers, so not where `read` gives tensors of the meta device.

    Raises:
        CheckpointError: that file is missing, or another one than when the checkpoint was written.
    """
    if REST not in checkpoint.metadata:
        return checkpoint
    entry, path = checkpoint.metadata[REST], checkpoint.path
    places = [path.with_name(Path(entry["file"]).name), Path(entry["file"])]
    found = next((place for place in places if place.is_file() and place.absolute() != path.absolute()), None)
    if found is None:
        raise CheckpointError(f"{path} holds only what was trained; the rest is in {places[0].name}: put it beside it.")
    rest = read(found).tensors
    shared = {name: rest[name] for name in rest if name not in checkpoint.tensors}
    has_numbers = not any(tensor.is_meta for tensor in shared.values())
    if has_numbers and checksum(shared) != entry["crc32"]:
        raise CheckpointError(
            f"{path} was trained from another file than {found}: put that {places[0].name} beside it."
        )
    return replace(checkpoint, tensors={**shared, **checkpoint.tensors})


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of names and bytes, in the order of the names."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(), crc)
    return f"{crc:08x}"
