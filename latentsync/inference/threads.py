"""Pipeline stages that overlap: each runs in its own thread, connected to its neighbour by a bounded queue.

A stage is either a generator whose items are produced before they are needed (`run_ahead`) or a function that consumes an
iterator while the caller continues (`run_behind`). Both are context managers, and no thread outlives them. An error in a stage is
raised once in the caller, unchanged. An error or a stop in the caller ends every stage after its current item. The order of
items does not depend on thread scheduling.
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
    """Raised in a stage whose neighbour has ended early; always caught in this file."""


class Channel(Generic[Item]):
    """A queue of at most `capacity` items from the thread of one stage to that of the next."""

    def __init__(self, capacity: int, producer: StageTimer, consumer: StageTimer):
        assert capacity > 0
        self.capacity, self.producer, self.consumer = capacity, producer, consumer
        self.items: deque[Item] = deque()
        self.changed = Condition()
        self.is_closed = False  # the producer has ended
        self.is_abandoned = False  # the consumer has ended, or the context manager's block
        self.error: BaseException | None = None  # the reason for either

    def put(self, item: Item) -> None:
        """Append an item; waits while the queue is full. Raises the consumer's error, or Abandoned, once it has ended."""
        begun = time.perf_counter()
        with self.changed:
            self.changed.wait_for(lambda: len(self.items) < self.capacity or self.is_abandoned)
            self.producer.output_sec += time.perf_counter() - begun
            if self.is_abandoned:
                raise self.error or Abandoned
            self.items.append(item)
            self.changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Items until the producer has closed the queue. Raises the producer's error after the items before it."""
        while popped := self._pop():
            yield popped.pop()  # so that no reference to the item is kept here

    def _pop(self) -> list[Item]:
        """The next item in a list of one; an empty list at the end."""
        begun = time.perf_counter()
        with self.changed:
            self.changed.wait_for(lambda: self.items or self.is_closed or self.is_abandoned)
            self.consumer.input_sec += time.perf_counter() - begun
            if self.is_abandoned or (not self.items and self.error):
                raise self.error or Abandoned
            self.changed.notify_all()
            return [self.items.popleft()] if self.items else []

    def close(self, error: BaseException | None = None) -> None:
        """Called when the producer ends."""
        with self.changed:
            self.is_closed, self.error = True, self.error or error
            self.changed.notify_all()

    def abandon(self, error: BaseException | None = None) -> None:
        """Called when the consumer ends, or both have to; items in the queue are dropped."""
        with self.changed:
            self.is_abandoned, self.error = True, self.error or error
            self.items.clear()
            self.changed.notify_all()


def start_thread(target: Callable[[], None], name: str) -> Thread:
    """Start a thread in which PyTorch uses a single core.

    If a second thread used several cores too, there would be more OpenMP threads than cores. OpenMP then sleeps at each of its
    many short waits, which made the networks in the main thread up to twice as slow.
    """
    num_threads, is_ready = torch.get_num_threads(), Event()

    def run() -> None:
        torch.get_num_threads()  # the first call in a thread copies the global number, so it must precede the next line
        torch.set_num_threads(1)
        is_ready.set()
        target()

    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    is_ready.wait()
    torch.set_num_threads(num_threads)  # for threads that start later
    return thread


@contextmanager
def run_ahead(
    items: Generator[Item, None, None], capacity: int, producer: StageTimer, consumer: StageTimer
) -> Generator[Iterator[Item], None, None]:
    """Produce `items` in a thread, at most `capacity` ahead of the caller; yields the iterator to read them from.

    `producer` times the thread, `consumer` the caller. The generator is closed in its thread.
    """
    channel: Channel[Item] = Channel(capacity, producer, consumer)

    def produce() -> None:
        try:
            with producer.running():
                for item in items:
                    channel.put(item)
                    del item  # not kept alive while the next one is produced
            channel.close()
        except BaseException as error:  # of any kind: it is raised in the caller
            channel.close(error)
        finally:
            items.close()

    thread = start_thread(produce, producer.name)
    try:
        yield iter(channel)
    finally:
        channel.abandon()
        thread.join()


@contextmanager
def run_behind(
    consume: Callable[[Iterator[Item]], None], capacity: int, producer: StageTimer, consumer: StageTimer
) -> Generator[Callable[[Item], None], None, None]:
    """Run `consume` in a thread, at most `capacity` items behind the caller; yields the function that appends an item.

    Leaving the block waits until all items are consumed; an error in the block ends the thread after its current item.
    `consumer` times the thread, `producer` the caller.
    """
    channel: Channel[Item] = Channel(capacity, producer, consumer)

    def run() -> None:
        try:
            with consumer.running():
                consume(iter(channel))
        except BaseException as error:  # of any kind: it is raised in the caller
            channel.abandon(error)

    thread = start_thread(run, consumer.name)
    try:
        yield channel.put
        channel.close()
        thread.join()
    finally:
        if thread.is_alive():
            channel.abandon()
            thread.join()
    if channel.error is not None:
        raise channel.error
