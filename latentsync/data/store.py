"""Content-addressed caches on disk that several processes may write at the same time.

A key is a hash of content, never a file name: files with equal names do not collide, and a replaced file gets a new key. Files are
written by atomic rename, so readers never see a partial one; all writers of a key write the same content.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from latentsync.files import atomic_write, file_hash
from latentsync.weights import FETCH_INFERENCE, write_tensors

if TYPE_CHECKING:
    from torch import Tensor  # slow to import, and not needed to list clips

KEY_BYTES = 16
UNREADABLE = (
    OSError,
    RuntimeError,
    SafetensorError,
)  # PyTorch's is a RuntimeError where a file goes while it is opened


def digest_of(*parts: str) -> str:
    """Hash of strings, 32 hexadecimal digits."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=KEY_BYTES).hexdigest()


def content_key(path: Path | str) -> str:
    """Hash of a file's bytes, 32 hexadecimal digits; OSError if it cannot be read."""
    return file_hash(path, hashlib.blake2b(digest_size=KEY_BYTES))


def network_key(path: Path | str) -> str:
    """Hash of a weights file, or of the names and contents of all files in a folder; 32 hexadecimal digits.

    Raises:
        ValueError: the file does not exist, or the folder has no file.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise ValueError(f"There are no weights at {path}: fetch the official ones with `{FETCH_INFERENCE}`.")
    return content_key(path) if path.is_file() else digest_of(*(part for file in files for part in _named(file)))


def _named(file: Path) -> tuple[str, str]:
    return file.name, content_key(file)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path, then rename the file to `path`.

    Raises:
        ValueError: the folder is not writable, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as partial:
            write(partial)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"The cache file {path} cannot be written ({error}): free disk space or choose another folder."
        ) from error


class RecordStore:
    """Small JSON records, stored by key."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> dict[str, Any] | None:
        """The record, or None if it is missing or damaged."""
        try:
            return json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Store a record; ValueError if the folder cannot be written."""
        text = json.dumps(record)
        write_whole(self.path(key), lambda partial: partial.write_text(text, encoding="utf-8"))


class TensorStore:
    """Named tensors, stored by key; ranges of rows can be read without loading the whole file."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        return self.path(key).is_file()

    def put(self, key: str, tensors: Mapping[str, "Tensor"]) -> None:
        """Store tensors; ValueError if the folder cannot be written."""
        write_whole(self.path(key), lambda partial: write_tensors(partial, tensors))


def tensor_length(path: Path, name: str, dim: int = 0) -> int | None:
    """Size of a stored tensor along `dim`, or None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_slice(name).get_shape()[dim]
    except UNREADABLE:
        return None


def tensor_rows(path: Path, name: str, start: int, stop: int) -> "Tensor | None":
    """Rows start ... stop - 1 of a stored tensor, or None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_slice(name)[start:stop]
    except UNREADABLE:
        return None
