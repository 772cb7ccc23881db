"""Stages of work that overlap: each in a thread of its own, between them queues with little room.

A stage is an iterator (`run_ahead`: its items are made before they are asked for) or a function that consumes one
(`run_behind`: what it is given is worked on while the caller goes on). Both are context managers: no thread outlives
them, an error of a stage is raised in the caller once, as it was, and an error or a stop in the caller ends all stages
after the item that they are at. What comes out does not depend on how the threads take turns.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from threading import Condition, Event, Thread
from typing import Generic, TypeVar

import torch

from latentsync.inference.timing import StageTimer

Item = TypeVar("Item")


class Abandoned(Exception):
    """Raised in a stage whose neighbour has ended before its time; nobody sees it outside of this file."""


class Channel(Generic[Item]):
    """A queue with room for `room` items from the thread of one lane to that of another."""

    def __init__(self, room: int, giver: StageTimer, taker: StageTimer):
        assert room > 0
        self.room, self.giver, self.taker = room, giver, taker
        self.items: deque[Item] = deque()
        self.changed = Condition()
        self.is_closed = False  # nothing will be given any more
        self.is_left = False  # nothing will be taken any more
        self.error: BaseException | None = None  # why it was closed or left

    def put(self, item: Item) -> None:
        """Give an item, once there is room. Raises the taker's error, or Abandoned, where nobody takes it any more."""
        begun = time.perf_counter()
        with self.changed:
            self.changed.wait_for(lambda: len(self.items) < self.room or self.is_left)
            self.giver.output_sec += time.perf_counter() - begun
            if self.is_left:
                raise self.error or Abandoned
            self.items.append(item)
            self.changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Take the items until the giver has closed. Raises the giver's error after the items that came before it."""
        while taken := self._take():
            yield taken.pop()  # so that nothing here keeps it alive

    def _take(self) -> list[Item]:
        """The next item alone; nothing at the end."""
        begun = time.perf_counter()
        with self.changed:
            self.changed.wait_for(lambda: self.items or self.is_closed or self.is_left)
            self.taker.input_sec += time.perf_counter() - begun
            if self.is_left or (not self.items and self.error):
                raise self.error or Abandoned
            self.changed.notify_all()
            return [self.items.popleft()] if self.items else []

    def close(self, error: BaseException | None = None) -> None:
        """The giver ends."""
        with self.changed:
            self.is_closed, self.error = True, self.error or error
            self.changed.notify_all()

    def leave(self, error: BaseException | None = None) -> None:
        """The taker ends, or both must; what was given is dropped."""
        with self.changed:
            self.is_left, self.error = True, self.error or error
            self.items.clear()
            self.changed.notify_all()


def started(work: Callable[[], None], name: str) -> Thread:
    """A thread that works, and computes on one core.

    Where a second thread has a team of cores of its own, both teams sleep at each of their many short waits (OpenMP does so
    as soon as there are more threads than cores): the networks beside it took up to twice their time.
    """
    team, is_ready = torch.get_num_threads(), Event()

    def run() -> None:
        torch.get_num_threads()  # a thread's first question sets it to the common number, which must not come later
        torch.set_num_threads(1)
        is_ready.set()
        work()

    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    is_ready.wait()
    torch.set_num_threads(team)  # of threads to come
    return thread


@contextmanager
def run_ahead(
    items: Generator[Item, None, None], room: int, lane: StageTimer, taker: StageTimer
) -> Generator[Iterator[Item], None, None]:
    """Make `items` in a thread, at most `room` of them before they are taken; gives the iterator to take them from.

    `lane` is that of the thread, `taker` the caller's. The generator is closed in its thread.
    """
    channel: Channel[Item] = Channel(room, lane, taker)

    def make() -> None:
        try:
            with lane.running():
                for item in items:
                    channel.put(item)
                    del item  # not kept while the next one is made
            channel.close()
        except BaseException as error:  # whatever it is, it belongs to the caller
            channel.close(error)
        finally:
            items.close()

    thread = started(make, lane.name)
    try:
        yield iter(channel)
    finally:
        channel.leave()
        thread.join()


@contextmanager
def run_behind(
    consume: Callable[[Iterator[Item]], None], room: int, giver: StageTimer, lane: StageTimer
) -> Generator[Callable[[Item], None], None, None]:
    """Let `consume` work in a thread on what is put, at most `room` items behind; gives the function to put them with.

    At the end all that was put is worked on, unless an error ends the block. `lane` is that of the thread, `giver` the
    caller's.
    """
    channel: Channel[Item] = Channel(room, giver, lane)

    def work() -> None:
        try:
            with lane.running():
                consume(iter(channel))
        except BaseException as error:  # whatever it is, it belongs to the caller
            channel.leave(error)

    thread = started(work, lane.name)
    try:
        yield channel.put
        channel.close()
        thread.join()
    finally:
        if thread.is_alive():
            channel.leave()
            thread.join()
    if channel.error is not None:
        raise channel.error
