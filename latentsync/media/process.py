"""Run another program and measure its time and memory."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from latentsync.media.container import MediaError
from latentsync.system import resident_mb

OUTPUT_LINES = 3  # of a program's output in a message


@dataclass(frozen=True)
class Finished:
    """The result of a program that has ended."""

    status: int  # 0 = success
    seconds: float  # of wall time
    processor_sec: float | None  # of it and its children, user and system; None where the system does not report it
    peak_mb: float | None  # maximum resident memory of it and its children; None where the system does not report it
    lines: tuple[str, ...]  # of its output

    @property
    def output(self) -> str:
        """The last lines, for a message."""
        return " / ".join(line.strip() for line in self.lines[-OUTPUT_LINES:])


def run_program(arguments: Sequence[str]) -> Finished:
    """Run a program without a shell, its name first, and wait for it; its output is captured.

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
        processor_sec, peak_mb = wait_and_measure(process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    lines = tuple(output.strip().splitlines())
    return Finished(process.returncode, time.perf_counter() - start, processor_sec, peak_mb, lines)


def wait_and_measure(process: subprocess.Popen[bytes]) -> tuple[float, float] | tuple[None, None]:
    """Wait for a process; returns its seconds of processor and its maximum resident memory in MB, or None where unknown."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None, None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, resident_mb(usage.ru_maxrss)
