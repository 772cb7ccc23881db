"""Features that are kept between runs: by what the file contains and by which network looked at it.

A file that moves or is renamed keeps its features; one whose content changes, or another network, gets new ones. Entries
appear complete by rename, so that several runs can share a folder; a damaged entry is made anew.
"""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

BLOCK_BYTES = 1 << 20
SHOWN_DIGITS = 12  # of a fingerprint

Features = dict[str, NDArray[np.generic]]


def content_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def array_hash(array: NDArray[np.generic]) -> str:
    """SHA-256 of an array's shape, type and values, in hexadecimal."""
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def network_fingerprint(network: nn.Module) -> str:
    """Twelve digits that tell a network's weights from any others': a hash over names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {array_hash(tensor.detach().cpu().float().numpy())}".encode())
    return digest.hexdigest()[:SHOWN_DIGITS]


class FeatureCache:
    """A folder of features; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: tuple[str, ...], make: Callable[[], Mapping[str, NDArray[np.generic]]]) -> Features:
        """The arrays stored under `key` (content, network, settings), made and stored where they are missing.

        Raises:
            OSError: the folder cannot be written to.
        """
        if self.folder is None:
            return dict(make())
        path = self.folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:40]}.npz"
        stored = _read(path)
        if stored is None:
            stored = dict(make())
            _write(path, stored)
        return stored


def _read(path: Path) -> Features | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):  # absent or damaged
        return None


def _write(path: Path, features: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **features)  # type: ignore[arg-type]  # numpy's stub reads **kwargs as allow_pickle
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
