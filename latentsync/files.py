"""Files that appear complete or not at all; hashes of files, arrays and networks; and whether a file's owner lives."""

import hashlib
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentsync.system import process_runs, replace_file

if TYPE_CHECKING:
    from torch import Tensor, nn  # media reads files without PyTorch

PathLike: TypeAlias = str | os.PathLike[str]

PARTIAL = ".partial"  # ending of a file that is being written
BLOCK_BYTES = 1 << 20
NETWORK_HASH_DIGITS = 12


def partial_path(path: PathLike) -> Path:
    """The name `PATH.partial`, under which a file is written before it gets its own."""
    return Path(f"{os.fspath(path)}{PARTIAL}")


@contextmanager
def atomic_write(path: PathLike, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success rename it to `path`, which it replaces, else remove it.

    A killed process leaves `PATH.partial`, which the next write replaces. With `shared`, for files that several processes may
    write at once, the temporary name is unique.
    """
    partial = partial_path(f"{os.fspath(path)}.{uuid.uuid4().hex}" if shared else path)
    try:
        yield partial
        replace_file(partial, path)
    except BaseException:
        with suppress(OSError):  # it was never created, or the folder was removed
            partial.unlink()
        raise


def process_lives(host: str, pid: int) -> bool:
    """Whether a process still runs, as far as this machine can see: one of another `host` is taken to live."""
    if host != socket.gethostname():
        return True
    return process_runs(pid)


class Hasher(Protocol):
    """A hash object of `hashlib`."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def file_hash(path: PathLike, hasher: Hasher | None = None) -> str:
    """Hash of a file's content in hexadecimal digits: SHA-256, or that of a new hash object `hasher`.

    Raises OSError if the file cannot be read.
    """
    hasher = hasher or hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def array_hash(array: NDArray[np.generic]) -> str:
    """SHA-256 of an array's shape, type and values, in hexadecimal digits."""
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def network_hash(network: "nn.Module", values_per_tensor: int | None = None) -> str:
    """Hash of a network's weights (names, shapes and values) in 12 hexadecimal digits.

    With `values_per_tensor` only the first values of each tensor are read, which takes a moment for a network on a GPU.
    """
    return tensors_hash(network.state_dict(), values_per_tensor)


def tensors_hash(tensors: "Mapping[str, Tensor]", values_per_tensor: int | None = None) -> str:
    """`network_hash` of a network with these tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach() if values_per_tensor is None else tensor.detach().flatten()[:values_per_tensor]
        digest.update(f"{name} {array_hash(values.float().cpu().numpy())}".encode())
    return digest.hexdigest()[:NETWORK_HASH_DIGITS]
