"""Checkpoints in parts: each process writes its own part of the tensors, and any number of processes reads them again.

With FSDP no process has room for the whole state. PyTorch's distributed checkpoint (`torch.distributed.checkpoint`) stores
which part of which tensor is in which file, so that other processes read what they need.
"""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from latentsync.weights import CheckpointError

PARTS, METADATA, DATA_SUFFIX = "parts", ".metadata", ".distcp"
OPTIMIZER = "optimizer."
# What the list of parts is made of; it is a pickle, and other classes in it are refused.
PLAIN_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
PLAIN_NAMES = {
    *(("torch", name) for name in ("Size", "device", "strided", "preserve_format", "contiguous_format")),
    *(("torch", str(value).removeprefix("torch.")) for value in vars(torch).values() if isinstance(value, torch.dtype)),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
}


def wants_parts() -> bool:
    """Whether accelerate is configured to store the state in parts: `fsdp_state_dict_type: SHARDED_STATE_DICT`."""
    return os.environ.get("FSDP_STATE_DICT_TYPE", "").upper() == "SHARDED_STATE_DICT"


def write_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors, sharded or the same in all processes. All processes call it, with one folder that they all see.

    Raises:
        OSError: in all processes, if one of them cannot write its part.
    """
    try:
        dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(folder), no_dist=not dist.is_initialized())
    except dcp.CheckpointException as error:
        raise OSError("; ".join(str(each) for each, _ in error.failures.values())) from error


def read_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read stored tensors into these, of the same names and shapes, however they are sharded. All processes call it.

    Raises:
        CheckpointError: in all processes, if a part is missing or damaged.
    """
    try:
        dcp.load(dict(tensors), storage_reader=dcp.FileSystemReader(folder), no_dist=not dist.is_initialized())
    except dcp.CheckpointException as error:
        reasons = "; ".join(str(each) for each, _ in error.failures.values())
        raise CheckpointError(f"{folder} cannot be read ({' '.join(reasons.split())[:160]}).") from error


def stored_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every stored tensor, by name; CheckpointError if the list of parts is missing or damaged."""
    try:
        with (folder / METADATA).open("rb") as file:
            stored = _PlainUnpickler(file).load().state_dict_metadata
        return {name: (each.size, each.properties.dtype) for name, each in stored.items()}
    except (OSError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder / METADATA} cannot be read ({error}).") from error


def files_of(folder: Path) -> dict[str, int]:
    """Size in bytes, by name, of the files that `write_parts` has written into a folder."""
    found = (path for path in folder.glob("*") if path.name == METADATA or path.suffix == DATA_SUFFIX)
    return {path.name: path.stat().st_size for path in found}


def optimizer_tensors(state: Mapping[int, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The tensors of an optimizer's state, by `optimizer.PARAMETER.ENTRY`."""
    return {f"{OPTIMIZER}{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def empty_optimizer_tensors(
    stored: Mapping[str, tuple[torch.Size, torch.dtype]], parameters: list[torch.nn.Parameter]
) -> dict[int, dict[str, Tensor]]:
    """Tensors to read an optimizer's stored state into: those of a parameter's shape are sharded as it is."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, (size, dtype) in stored.items():
        if not key.startswith(OPTIMIZER):
            continue
        number, name = key.removeprefix(OPTIMIZER).split(".", 1)
        if int(number) < len(parameters):
            like = parameters[int(number)]
            empty = (
                torch.zeros_like(like, dtype=dtype).detach() if like.shape == size else torch.zeros(size, dtype=dtype)
            )
            entries.setdefault(int(number), {})[name] = empty
    return entries


class _PlainUnpickler(pickle.Unpickler):
    """Reads a list of parts, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in PLAIN_MODULES or (module, name) in PLAIN_NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a checkpoint")
