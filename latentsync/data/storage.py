"""Reading and writing whole files in folders on any file system of fsspec (a local path, s3://, gs://, hdfs://).

A written file appears under its name when it is complete. On a local disk and on HDFS it is written as `NAME.partial` and
renamed; an object store shows an object when its upload is complete.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper

from latentsync.files import PARTIAL, atomic_write
from latentsync.system import flush_to_disk, replace_file


class Folder:
    """A folder, local or remote; names in it are relative POSIX paths. It is pickled as its address.

    Raises ValueError if the file system of the address is unknown or its package is not installed.
    """

    def __init__(self, address: str | Path):
        text = str(address)
        self.is_local = "://" not in text or text.startswith("file://")
        if self.is_local:
            self.root = os.path.abspath(os.path.expanduser(text.removeprefix("file://")))
            self.address = self.root
        else:
            self.address = text.rstrip("/")
            try:
                self._fs, self.root = fsspec.core.url_to_fs(self.address)
            except (ImportError, ValueError) as error:
                known = "give a path, or s3://, gs:// or hdfs:// with fsspec's package for it installed"
                raise ValueError(f"{text} cannot be reached ({error}): {known}.") from error

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.address,)

    def __repr__(self) -> str:
        return f"Folder({self.address!r})"

    def under(self, name: str) -> "Folder":
        return Folder(f"{self.address}/{name}")

    def beside(self) -> "Folder":
        """The folder that contains this one."""
        parent = self.address.rpartition("/")[0]
        if not parent or parent.endswith("/"):
            raise ValueError(f"{self.address} has no folder above it; choose another with --output_dir.")
        return Folder(parent)

    def contains(self, other: "Folder") -> bool:
        """Whether `other` is this folder or is inside it."""
        if self.is_local and other.is_local:
            return Path(os.path.realpath(other.root)).is_relative_to(os.path.realpath(self.root))
        return f"{other.address}/".startswith(f"{self.address}/")

    def is_folder(self) -> bool:
        return os.path.isdir(self.root) if self.is_local else self._fs.isdir(self.root)

    def files(self) -> dict[str, int]:
        """Size in bytes by name of all files below, sorted by name, without unfinished and hidden ones."""
        found = self._local_files() if self.is_local else self._remote_files()
        names = ((name, size) for name, size in found if not _is_hidden(name) and not name.endswith(PARTIAL))
        return dict(sorted(names))

    def exists(self, name: str) -> bool:
        return os.path.isfile(self._path(name)) if self.is_local else self._fs.isfile(self._path(name))

    def modified_at(self, name: str) -> float:
        """When a local file was last written, in seconds since 1970; 0 where the folder is remote."""
        return os.stat(self._path(name)).st_mtime if self.is_local else 0.0

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError if there is no such file."""
        return Path(self._path(name)).read_bytes() if self.is_local else self._fs.cat_file(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, replacing an older one; it appears when it is complete."""
        if not self.is_local:
            self._fs.pipe_file(self._path(name), content)
            return
        path = Path(self._path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as partial:
            partial.write_bytes(content)
            flush_to_disk(partial)

    def fetch(self, name: str, staging: Path) -> Path:
        """A local path of the file: itself, or a copy in `staging`."""
        if self.is_local:
            return Path(self._path(name))
        copy = staging / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(copy) as partial:
                self._fs.get_file(self._path(name), str(partial))
        return copy

    def publish(self, staged: Path, name: str, staging: Path) -> None:
        """Move a finished local file here as `name`; for a remote folder a local copy remains, which `fetch` returns."""
        path = self._path(name)
        if not self.is_local:
            self._upload(staged, path)
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(staged, staging / name)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        flush_to_disk(staged)
        try:
            replace_file(staged, path)
        except OSError as error:
            if error.errno != errno.EXDEV:  # the staging folder is on another disk
                raise
            with atomic_write(path, shared=True) as partial:
                shutil.copyfile(staged, partial)
            staged.unlink()

    def _upload(self, staged: Path, path: str) -> None:
        if isinstance(self._fs, ArrowFSWrapper):  # HDFS shows a file while it grows
            self._fs.makedirs(os.path.dirname(path), exist_ok=True)
            self._fs.put_file(str(staged), path + PARTIAL)
            if self._fs.exists(path):  # HDFS does not rename over a file
                self._fs.rm_file(path)
            self._fs.mv(path + PARTIAL, path)
        else:
            self._fs.put_file(str(staged), path)

    def remove(self, name: str) -> None:
        """Remove one file if it exists."""
        if self.is_local:
            Path(self._path(name)).unlink(missing_ok=True)
            return
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def prune(self) -> None:
        """Remove empty local folders below, and this one if it becomes empty."""
        if not self.is_local:
            return
        for path, _, _ in os.walk(self.root, topdown=False):
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(path)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _local_files(self) -> Iterator[tuple[str, int]]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if path.is_file():
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def _remote_files(self) -> Iterator[tuple[str, int]]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self.root, detail=True)
        except FileNotFoundError:
            return
        for path, facts in found.items():
            yield path.removeprefix(self.root).lstrip("/"), int(facts["size"] or 0)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def remove_tree(folder: Path) -> None:
    """Remove a folder of our own temporary files, file by file; a link is removed, not followed."""
    for path, folders, names in os.walk(folder, topdown=False):
        for name in [*names, *folders]:
            entry = Path(path, name)
            if entry.is_dir() and not entry.is_symlink():
                entry.rmdir()
            else:
                entry.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()
