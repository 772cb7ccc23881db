"""Run a launcher of several processes as `python -m` does: `python -m scripts.launch MODULE [arguments]`.

It passes SIGUSR1 on to the processes that the launcher has started, and ends with their exit status. A batch system may send its
warning to the launcher alone, which would die of it.
"""

import os
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

USAGE = 2  # exit status of a wrong command


def children() -> Iterator[int]:
    """The ids of this process's children; none where there is no /proc."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, parent = (
                stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
            )  # after the name: state, id of the parent
        except (OSError, ValueError):  # it has ended
            continue
        if int(parent) == os.getpid():
            yield int(stat.parent.name)


def pass_on(number: int, frame: FrameType | None) -> None:
    """Send a signal to all children."""
    for child in children():
        os.kill(child, number)


def status_of(error: BaseException) -> int | None:
    """The exit status that a launcher's error stands for: that of a process, or of the signal that stopped it; None if neither."""
    if hasattr(error, "sigval"):  # torch.distributed.elastic.multiprocessing.SignalException
        return 128 + int(error.sigval)
    failed = getattr(error, "failures", None)  # torch.distributed.elastic.multiprocessing.errors.ChildFailedError
    return max(failure.exitcode for failure in failed.values()) if failed else None


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments else USAGE
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, pass_on)
    sys.argv = arguments
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except Exception as error:
        status = status_of(error)
        if status is None or status <= 0:  # not a process that has said itself why it ended
            raise
        return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
