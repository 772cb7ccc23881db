"""What is drawn for item n of an endless training sequence: a pure function of (seed, n), whoever asks and in which order.

Item n lies in epoch n // size at place n % size; every epoch visits every clip once, in an order of its own.
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
        """A whole number in [0, stop)."""
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
    """Make item `position` from the clip it visits or, where that turns out unreadable, from another one drawn for it.

    Nothing waits for a file: an unreadable clip is logged and costs a second try.

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
            log.warning("left out a clip that cannot be read any more: %s", error)
            clip = clips[draw.below(len(clips))]
    raise AssertionError("the last attempt returns or raises")


class PositionSampler(Sampler[list[int]]):
    """Batches of positions for one process of several, from a step on: the state of the data is the step alone.

    Step s holds positions s * batch_size ... (s + 1) * batch_size - 1 over all processes; process `rank` takes its part in
    order, so that two processes with half of the batch each train on what one would.
    """

    def __init__(
        self, batch_size: int, rank: int = 0, world_size: int = 1, first_step: int = 0, stop_step: int | None = None
    ):
        """`batch_size` counts items over all processes; ValueError if they cannot share it evenly."""
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"A batch of {batch_size} items cannot be shared evenly by {world_size} processes.")
        self.batch_size, self.share = batch_size, batch_size // world_size
        self.rank, self.first_step, self.stop_step = rank, first_step, stop_step

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while self.stop_step is None or step < self.stop_step:
            first = step * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))
            step += 1
