"""What differs between Linux, macOS and Windows: processes, files in use, consoles, names of files, command lines."""

import ctypes
import io
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

ON_WINDOWS = sys.platform == "win32"

# Seconds before each new try to rename: a virus scanner or an indexer holds a new file for a moment.
PAUSES_SEC = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)

# Of the Windows API
SYNCHRONIZE = 0x00100000  # right to wait for a process
ERROR_ACCESS_DENIED = 5
WAIT_TIMEOUT = 0x102  # the process has not ended

RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)  # names of devices on Windows


def process_runs(pid: int) -> bool:
    """Whether this machine has a process of this number."""
    if sys.platform == "win32":  # written out, for the type checker
        return runs_on_windows(pid, ctypes.WinDLL("kernel32", use_last_error=True), ctypes.get_last_error)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def runs_on_windows(pid: int, kernel32: Any, last_error: Callable[[], int]) -> bool:
    """The same by the Windows API, where `os.kill(pid, 0)` would interrupt the process as Ctrl+C does."""
    kernel32.OpenProcess.restype = ctypes.c_void_p  # a handle, which is as wide as a pointer
    kernel32.WaitForSingleObject.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    kernel32.CloseHandle.argtypes = (ctypes.c_void_p,)
    process = kernel32.OpenProcess(SYNCHRONIZE, False, pid)
    if not process:
        return last_error() == ERROR_ACCESS_DENIED
    try:
        return kernel32.WaitForSingleObject(process, 0) == WAIT_TIMEOUT
    finally:
        kernel32.CloseHandle(process)


def peak_resident_mb() -> float | None:
    """Peak resident memory of this process in MB; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resident_mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def resident_mb(reported: int) -> float:
    """Megabytes of the `ru_maxrss` that the system reports: bytes on macOS, kilobytes elsewhere."""
    return reported / (1024 * 1024 if sys.platform == "darwin" else 1024)


def replace_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a file or folder to `target`, a file of which is replaced.

    Windows refuses it while somebody has the file open; it is tried again for a second and a half. Raises OSError.
    """
    for pause_sec in PAUSES_SEC if ON_WINDOWS else ():
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(pause_sec)
    os.replace(source, target)


def is_in_use(error: OSError) -> bool:
    """Whether a file was not deleted or renamed because somebody has it open, which only Windows refuses."""
    return ON_WINDOWS and isinstance(error, PermissionError)


def remove_file(path: Path) -> None:
    """Delete a file if it is there; what Windows keeps because it is open stays. Raises OSError for other reasons."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if not is_in_use(error):
            raise


def flush_to_disk(path: Path) -> None:
    """Flush a file's content to the disk, so that a power cut after its renaming cannot leave it empty."""
    with path.open("rb+") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())


def print_anything(streams: Sequence[TextIO]) -> None:
    """Let streams print characters that their encoding lacks as escapes: Windows' code pages lack most, and text fails then."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def usable_stem(stem: str) -> str:
    """A file name's stem, changed where Windows reserves it for a device, such as `con` or `nul`."""
    return f"_{stem}" if RESERVED.fullmatch(stem) else stem


def split_command(text: str) -> list[str]:
    """The arguments of a command line; on Windows a backslash separates folders, elsewhere it escapes what follows.

    Raises ValueError for a quotation mark without a second one.
    """
    if not ON_WINDOWS:
        return shlex.split(text)
    return [re.sub(r"^(['\"])(.*)\1$", r"\2", argument) for argument in shlex.split(text, posix=False)]
