"""Cache of features on disk, keyed by the hashes of the file and of the network.

A renamed file keeps its features; a changed file or network gets new ones. Entries are written atomically, so several runs
can share a folder; a damaged entry is computed again.
"""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.files import atomic_write

Features = dict[str, NDArray[np.generic]]


class FeatureCache:
    """A folder of features; without a folder nothing is cached."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: tuple[str, ...], make: Callable[[], Mapping[str, NDArray[np.generic]]]) -> Features:
        """The arrays stored under `key` (content, network, settings); if missing, computed by `make` and stored.

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
    with atomic_write(path, shared=True) as partial, partial.open("wb") as file:
        np.savez(file, **features)  # type: ignore[arg-type]  # numpy's stub reads **kwargs as allow_pickle
