"""Functions of `os` that refuse what Windows refuses, as far as Linux can imitate it.

- A file or folder in which something is open, or mapped into memory, is not renamed, replaced or deleted.
- There are no symbolic or hard links, and no `os.kill(pid, 0)`.
- Files that were opened for reading are not flushed to the disk.
"""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from latentsync import system

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it asks Linux which files are open")

Patch = Callable[[Any, str, Any], None]


def open_files() -> set[str]:
    """Paths of what this process has open or mapped into memory."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    with open("/proc/self/maps", encoding="utf-8") as maps:
        found |= {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if len(line.split(maxsplit=5)) == 6}
    return found


def is_used(path: str | os.PathLike[str]) -> bool:
    """Whether a file, or anything in a folder, is open."""
    real = os.path.realpath(path)
    return any(each.startswith(f"{real}/") if os.path.isdir(real) else each == real for each in open_files())


def refused(path: object) -> PermissionError:
    return PermissionError(errno.EACCES, "The process cannot access the file because it is being used", str(path))


def unlinked(function: Callable[..., None]) -> Callable[..., None]:
    def remove(path: Any, *arguments: Any, **named: Any) -> None:
        folder = named.get("dir_fd")  # of `shutil.rmtree`
        if is_used(path if folder is None else f"{os.readlink(f'/proc/self/fd/{folder}')}/{path}"):
            raise refused(path)
        function(path, *arguments, **named)

    return remove


def renamed(function: Callable[..., None], replaces: bool) -> Callable[..., None]:
    def rename(source: Any, target: Any, **named: Any) -> None:
        if is_used(source) or (os.path.exists(target) and is_used(target)):
            raise refused(target)
        if not replaces and os.path.exists(target):
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(target))
        function(source, target, **named)

    return rename


def no_links(source: Any, target: Any, *arguments: Any, **named: Any) -> None:
    raise OSError(errno.EPERM, "A required privilege is not held by the client", str(source))


def flushed(number: int) -> None:
    import fcntl  # this file is imported on Windows too

    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")


def no_kill(pid: int, number: int) -> None:
    raise AssertionError("os.kill(pid, 0) is Ctrl+C on Windows, and every other number ends the process")


def patch_files(patch: Patch) -> None:
    """Replace functions of `os` by those that refuse what Windows refuses; `patch(owner, name, value)` sets one."""
    for name in ("unlink", "remove", "rmdir"):
        patch(os, name, unlinked(getattr(os, name)))
    patch(os, "rename", renamed(os.rename, replaces=False))
    patch(os, "replace", renamed(os.replace, replaces=True))
    for name in ("symlink", "link"):
        patch(os, name, no_links)
    patch(os, "fsync", flushed)
    patch(os, "kill", no_kill)


@pytest.fixture
def windows_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are used as on Windows."""
    patch_files(monkeypatch.setattr)
    monkeypatch.setattr(system, "ON_WINDOWS", True)
