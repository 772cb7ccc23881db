"""Another program, run to its end: what it took and what it said."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from latentsync.media.container import MediaError

SAID_LINES = 3  # of a program's output that are kept
KILOBYTES_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1.0  # of the operating system's largest resident size


@dataclass(frozen=True)
class Finished:
    """A program that has ended."""

    status: int  # 0 = success
    seconds: float  # of wall time
    peak_mb: float | None  # largest resident memory of it and its children; None where the system does not tell
    said: str  # the last lines of its output


def run_program(arguments: Sequence[str]) -> Finished:
    """Run a program without a shell, its name first, and wait for it; its output is not shown.

    Raises:
        MediaError: there is no such program.
    """
    start = time.perf_counter()
    try:
        process = subprocess.Popen(
            list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise MediaError(f"cannot run {arguments[0]}: {error.strerror}. Check the command.") from error
    assert process.stdout is not None, "the output was piped"
    try:
        output = process.stdout.read().decode("utf-8", "replace")
        peak_mb = wait_and_measure(process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    said = " / ".join(line.strip() for line in output.strip().splitlines()[-SAID_LINES:])
    return Finished(process.returncode, time.perf_counter() - start, peak_mb, said)


def wait_and_measure(process: subprocess.Popen[bytes]) -> float | None:
    """Wait for a process; its largest resident memory in MB, where the system tells."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * KILOBYTES_PER_UNIT / 1024
