"""Random draws for item n of an endless training sequence: a pure function of (seed, n), independent of processes and order.

Item n is number n % size of epoch n // size; every epoch visits every clip once, in a new random order.
"""

import logging
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import torch
from torch.utils.data import Sampler

from latentsync.data.clips import TrainingClip
from latentsync.media.container import MediaError

MAX_ATTEMPTS = 8  # clips tried for one item before training stops

Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Draw:
    """The random numbers of one item."""

    def __init__(self, seed: int, epoch: int, index: int):
        mixed = (seed * 1_000_003 + epoch) * 1_000_003 + index
        self.generator = torch.Generator().manual_seed(mixed % (1 << 63))

    def below(self, stop: int) -> int:
        """A random integer in [0, stop)."""
        return int(torch.randint(stop, (1,), generator=self.generator))

    def one_of(self, values: list[int]) -> int:
        return values[self.below(len(values))]


@lru_cache(maxsize=4)
def epoch_order(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order in which an epoch visits `size` clips."""
    return tuple(torch.randperm(size, generator=Draw(seed, epoch, -1).generator).tolist())


def readable_item(
    clips: list[TrainingClip], seed: int, position: int, make: Callable[[TrainingClip, Draw], Item]
) -> Item:
    """Make item `position` from its clip or, if that cannot be read, from a randomly drawn other one; logs a warning then.

    Raises:
        MediaError: `MAX_ATTEMPTS` clips in a row cannot be read.
    """
    epoch, index = divmod(position, len(clips))
    draw = Draw(seed, epoch, index)
    clip = clips[epoch_order(len(clips), seed, epoch)[index]]
    for attempt in range(MAX_ATTEMPTS):
        try:
            return make(clip, draw)
        except MediaError as error:
            if attempt == MAX_ATTEMPTS - 1:
                raise MediaError(f"{MAX_ATTEMPTS} clips in a row cannot be read; the last: {error}") from error
            log.warning("A clip cannot be read, another one replaces it: %s", error)
            clip = clips[draw.below(len(clips))]
    raise AssertionError("the last attempt returns or raises")


class PositionSampler(Sampler[list[int]]):
    """Batches of positions for one of several processes, from `first_step` on; the step is the only state.

    The batch of step s is positions s * batch_size ... (s + 1) * batch_size - 1. Each process gets a contiguous part of it in order
    of the ranks, so the items of a step do not depend on the number of processes.
    """

    def __init__(
        self, batch_size: int, rank: int = 0, world_size: int = 1, first_step: int = 0, stop_step: int | None = None
    ):
        """`batch_size` is the total over all processes; ValueError if it is not a multiple of their number."""
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"The batch size is {batch_size}, but must be a multiple of {world_size}, the number of processes."
            )
        self.batch_size, self.share = batch_size, batch_size // world_size
        self.rank, self.first_step, self.stop_step = rank, first_step, stop_step

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while self.stop_step is None or step < self.stop_step:
            first = step * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))
            step += 1
