"""Where the time of a run goes: seconds by kind of work, and by lane, whatever threads they are spent in."""

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass
class StageTimer:
    """A row of the timeline: one thread's share of the work, which takes things from the lane before and gives to the next.

    Written by the lane's own thread alone.
    """

    name: str
    elapsed_sec: float = 0.0  # from its beginnings to its ends
    input_sec: float = 0.0  # of these, waiting for something to do
    output_sec: float = 0.0  # and waiting for room for what was done

    @property
    def busy_sec(self) -> float:
        """Seconds of work."""
        return max(0.0, self.elapsed_sec - self.input_sec - self.output_sec)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The lane works, or waits, as long as this lasts."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed_sec += time.perf_counter() - begun


class Stopwatch:
    """Adds up seconds by stage: `with stopwatch("decode"): ...`; a stage inside another counts in both. For any thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stage_timers: dict[str, StageTimer] = {}  # in the order of their beginning
        self.lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - begun
            with self.lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + taken

    def each(self, stage: str, items: Iterator[Item]) -> Generator[Item, None, None]:
        """The items, with the time that it takes to get them added to `stage`."""
        while True:
            with self(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    @contextmanager
    def ending(self, stage: str, opened: AbstractContextManager[Value]) -> Iterator[Value]:
        """A context, with the time of its end (of a file that is completed, say) added to `stage`."""
        value = opened.__enter__()
        try:
            yield value
        except BaseException:
            if not opened.__exit__(*sys.exc_info()):
                raise
        else:
            with self(stage):
                opened.__exit__(None, None, None)

    def stage_timer(self, name: str) -> StageTimer:
        """The lane of that name."""
        with self.lock:
            return self.stage_timers.setdefault(name, StageTimer(name))
