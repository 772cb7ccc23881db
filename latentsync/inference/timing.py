"""Times of a run: seconds by operation, and by pipeline stage (a thread of its own)."""

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

# Steps of a job, shown to the user: the two passes of a run, and those of a check
STAGES = DETECT, GENERATE = "Find the face", "Generate lips"
CHECK_STAGES = DETECT, SHEET = "Find the face", "Draw the sheet"
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass
class StageTimer:
    """Seconds of one pipeline stage: a thread that reads items from the stage before it and passes results to the next.

    Only the stage's own thread writes to it.
    """

    name: str
    elapsed_sec: float = 0.0  # from start to end
    input_sec: float = 0.0  # of these, spent waiting for input
    output_sec: float = 0.0  # of these, spent waiting for room in the next stage's queue

    @property
    def busy_sec(self) -> float:
        """Seconds of work, without the waits."""
        return max(0.0, self.elapsed_sec - self.input_sec - self.output_sec)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block as elapsed time of the stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed_sec += time.perf_counter() - begun


class Stopwatch:
    """Adds up seconds by operation: `with stopwatch("decode"): ...`. Nested operations count in both. Thread-safe."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stage_timers: dict[str, StageTimer] = {}  # in the order of their start
        self.lock = Lock()

    @contextmanager
    def __call__(self, operation: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - begun
            with self.lock:
                self.seconds[operation] = self.seconds.get(operation, 0.0) + elapsed

    def each(self, operation: str, items: Iterator[Item]) -> Generator[Item, None, None]:
        """The items; the time to get each of them is added to `operation`."""
        while True:
            with self(operation):
                item = next(items, None)
            if item is None:
                return
            yield item

    @contextmanager
    def ending(self, operation: str, opened: AbstractContextManager[Value]) -> Iterator[Value]:
        """Enter `opened`; the time of its exit (completing a file, for example) is added to `operation`."""
        value = opened.__enter__()
        try:
            yield value
        except BaseException:
            if not opened.__exit__(*sys.exc_info()):
                raise
        else:
            with self(operation):
                opened.__exit__(None, None, None)

    def stage_timer(self, name: str) -> StageTimer:
        """The timer of the pipeline stage `name`, created at first use."""
        with self.lock:
            return self.stage_timers.setdefault(name, StageTimer(name))
