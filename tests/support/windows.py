"""A process that behaves like one on Windows, as far as Linux can: `python -m tests.support.windows MODULE ARGUMENTS`.

- A file or folder in which something is open, or mapped into memory, is not renamed, replaced or deleted.
- There are no symbolic or hard links, no signals but those of Windows, no `os.kill(pid, 0)`, and no modules of Unix.
- Files that were opened for reading are not flushed to the disk.
- Names that Windows does not allow, and paths that are too long for it, are refused.
- Processes are spawned, the output has a code page's characters, and text files need the name of their encoding.
"""

import builtins
import errno
import multiprocessing
import os
import re
import runpy
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNIX_MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "readline", "syslog")
UNIX_FUNCTIONS = (
    "getloadavg",
    "killpg",
    "nice",
    "sched_getaffinity",
    "sched_getscheduler",
    "sched_setscheduler",
    "wait4",
)
SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
MAX_PATH = 260
OURS = ("latentsync", "scripts", "web", "eval", "benchmarks")
BAD_NAME = re.compile(
    r'[<>:"|?*\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE
)  # of one folder or file
NOT_CHECKED = ("/proc", "/dev", "/sys")
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


def without_unix(imported: Callable[..., Any]) -> Callable[..., Any]:
    """An `__import__` that does not find modules of Unix for the code of this project."""

    def find(name: str, variables: Any = None, *arguments: Any, **named: Any) -> Any:
        if name in UNIX_MODULES and str((variables or {}).get("__name__", "")).partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, variables, *arguments, **named)

    return find


def check_name(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: refuses names that Windows does not allow."""
    if event not in ("open", "os.mkdir", "os.rename"):
        return
    path = arguments[1] if event == "os.rename" else arguments[0]
    writes = event != "open" or bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if not writes or not isinstance(path, str) or path.startswith(NOT_CHECKED):
        return
    bad = [part for part in Path(path).parts[1:] if part != ".." and BAD_NAME.search(part)]
    if bad or len(os.path.abspath(path)) >= MAX_PATH:
        raise OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect", path)


def be_windows() -> None:
    """Change this process for good."""
    patch_files(setattr)
    sys.addaudithook(check_name)
    builtins.__import__ = without_unix(builtins.__import__)
    for name in UNIX_FUNCTIONS:
        delattr(os, name)
    for name in [each for each in dir(signal) if re.fullmatch(r"SIG[A-Z0-9]+", each) and each not in SIGNALS]:
        delattr(signal, name)
    multiprocessing.set_start_method("spawn")
    warnings.filterwarnings("ignore", category=EncodingWarning)
    warnings.filterwarnings("error", category=EncodingWarning, module=rf"({'|'.join(OURS)})")


def main() -> None:
    import latentsync.system

    be_windows()
    latentsync.system.ON_WINDOWS = True
    latentsync.system.process_runs = lambda pid: True
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
