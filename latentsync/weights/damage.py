"""Checks of a checkpoint file before its tensors are read: its first bytes, its size and its table of contents.

They take milliseconds for any size, and depend on the content, not on the suffix.
"""

import json
import zipfile
from pathlib import Path
from typing import Literal

from latentsync.weights.table import CheckpointError, how_to_get

Format = Literal["safetensors", "zip", "pickle", "torchscript"]

HEAD_BYTES = 512
MAX_TEXT_BYTES = 1_000_000  # a larger file is not an error message of a server
MAX_HEADER_BYTES = 100_000_000  # of safetensors, by its specification
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive: unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (0, b"Rar!", "a RAR archive: unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive: unpack it first"),
    (0, b"GGUF", "a GGUF file, which is not supported: use the PyTorch or safetensors version"),
    (0, b"\x89HDF", "an HDF5 file, which is not supported: use the PyTorch or safetensors version"),
    (0, b"\x93NUMPY", "a NumPy array, not weights: check the path"),
    (0, b"\x89PNG", "an image, not weights: check the path"),
    (0, b"\xff\xd8\xff", "an image, not weights: check the path"),
    (0, b"RIFF", "a sound or video, not weights: check the path"),
    (4, b"ftyp", "a video, not weights: check the path"),
)


def check_file(path: Path | str) -> Format:
    """The format of a checkpoint file.

    Raises:
        CheckpointError: it is missing, a folder, empty, a Git LFS pointer, a web page, text, of an unsupported format or
            truncated; each has its own message.
    """
    path = Path(path)
    head, size = _head(path)
    _check_text(path, head, size)
    for offset, magic, kind in FOREIGN:
        if head[offset:].startswith(magic):
            raise CheckpointError(f"{path} is {kind}.")
    if head.startswith(ZIP_MAGIC):
        return _check_zip(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _check_safetensors(path, head, size)
    if not head.startswith(PICKLE_MAGIC):
        start = head[:8].hex(" ")
        raise CheckpointError(f"{path} is not a checkpoint (it begins with {start}): check it, or {how_to_get(path)}.")
    return "pickle"


def without_remedy(error: CheckpointError, path: Path | str) -> str:
    """The problem in an error's message, without its full stop and without how to get the file."""
    text = str(error).rstrip(".").removesuffix(how_to_get(path))
    return text.removesuffix(" or ").rstrip(" :;,")


def _head(path: Path) -> tuple[bytes, int]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint: give the file inside it.")
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} does not exist: {how_to_get(path)}.")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened ({error.strerror}): check its permissions.") from error
    if not head:
        raise CheckpointError(
            f"{path} is empty: the download stopped at its start or the disk was full; {how_to_get(path)}."
        )
    return head, path.stat().st_size


def _check_text(path: Path, head: bytes, size: int) -> None:
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer ({size} bytes), not the weights: run `git lfs pull` where it was cloned, or"
            f" {how_to_get(path)}."
        )
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        raise CheckpointError(f"{path} is a web page, not the weights: the download failed; {how_to_get(path)}.")
    if size <= MAX_TEXT_BYTES and text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        start = text[:60].decode("ascii").splitlines()[0]
        raise CheckpointError(
            f"{path} is text ({start!r}), not weights, perhaps an error message of a server: {how_to_get(path)}."
        )


def _check_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise _truncated(path, "the table of contents at its end is missing") from error
    parts = {name.partition("/")[2] for name in names}
    if "constants.pkl" in parts:
        return "torchscript"
    if "data.pkl" not in parts:
        raise CheckpointError(f"{path} is a zip archive of other files ({', '.join(names[:3])}): unpack it first.")
    return "zip"


def _check_safetensors(path: Path, head: bytes, size: int) -> Format:
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER_BYTES or head[8:9] != b"{":
        raise CheckpointError(f"{path} is not in the safetensors format, or its header is damaged: {how_to_get(path)}.")
    if size < 8 + length:
        raise _truncated(path, f"{size} bytes are less than its header")
    try:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} has a damaged header: {how_to_get(path)}.") from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise _truncated(path, f"{size} of {expected} bytes")
    return "safetensors"


def _truncated(path: Path, detail: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated ({detail}): the download or the copy stopped early; {how_to_get(path)}."
    )
