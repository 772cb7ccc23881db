"""Signals that stop a training: it ends after the current step, with a checkpoint.

Ctrl-C (SIGINT), the end of a job or of a spot machine (SIGTERM), and the signal that a batch system such as Slurm sends some time
before that (SIGUSR1).
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows has fewer
LAUNCHED = "LOCAL_WORLD_SIZE"  # set by the launcher of several processes, which passes Ctrl-C on a second time
STDERR = 2


class TrainingStopped(KeyboardInterrupt):
    """A signal stopped the training; the text says where. `exit_status` is that of a shell: 128 and the signal's number."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.exit_status = 128 + number


class StopSignals:
    """A context manager: inside, a signal is only noted, in `received`. A second Ctrl-C in a single process interrupts at once."""

    def __init__(self, speaks: bool = True) -> None:
        """With `speaks`, the first signal is answered on stderr."""
        self.speaks = speaks
        self.received = 0  # number of the first signal; 0: none
        self._act: Callable[[int], Any] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        self.received = 0
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def acting(self, act: Callable[[int], Any]) -> Iterator[None]:
        """Inside, a signal calls `act` with its number at once: for work that may be interrupted anywhere."""
        self._act = act
        try:
            if self.received:
                act(self.received)
            yield
        finally:
            self._act = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_again = bool(self.received)
        self.received = self.received or number
        if self._act is not None:
            self._act(number)
        if is_again and number == signal.SIGINT and LAUNCHED not in os.environ:
            raise KeyboardInterrupt
        if self.speaks and not is_again:
            text = f"{signal.Signals(number).name}: the training ends after this step and saves a checkpoint.\n"
            os.write(STDERR, text.encode())  # a log message could wait for a lock that the interrupted code holds


def ignore_stop_signals(worker: int = 0) -> None:
    """For a process that loads data: signals that are sent to the whole group must not end it before the step is done."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
