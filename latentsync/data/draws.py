"""Random draws for item n of an endless training sequence: a pure function of (seed, n), independent of processes and order.

Item n is number n % size of epoch n // size; every epoch visits every clip once, in a new random order.

*Clips in shards.* An order that jumps between shards would fetch a shard for every item. So the clips of an epoch stand in a line,
shard by shard, with the shards and the clips of each in random order. The line is cut into as many lanes of equal length as a step
has items, and item k of every step comes from lane k. A process that reads some of a step's items needs the shards of its lanes
alone, one after the other, and the items do not depend on how many processes or workers there are.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby
from typing import TypeVar

import torch
from torch.utils.data import Sampler

from latentsync.data.clips import TrainingClip
from latentsync.media.container import MediaError

MAX_ATTEMPTS = 8  # clips tried for one item before training stops
AHEAD_STEPS = 32  # shards are fetched so many steps before they are needed

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


@lru_cache(maxsize=4)
def streamed_order(shard_sizes: tuple[int, ...], lanes: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order in which an epoch visits the clips of shards of these numbers of clips, numbered shard by shard.

    `lanes` is the number of items of a step. Position p of the whole sequence belongs to lane p % lanes, in every epoch.
    """
    generator, size = Draw(seed, epoch, -1).generator, sum(shard_sizes)
    firsts = [0, *accumulate(shard_sizes)]
    shards = torch.randperm(len(shard_sizes), generator=generator).tolist()
    line = torch.cat([firsts[n] + torch.randperm(shard_sizes[n], generator=generator) for n in shards])
    entries = torch.arange(size)
    lane_of = (epoch * size + entries) % lanes
    lengths = torch.bincount(lane_of, minlength=lanes)
    return tuple(line[(lengths.cumsum(0) - lengths)[lane_of] + entries // lanes].tolist())


class ClipOrder:
    """Which clip is at which position of the endless sequence; see the top of the file."""

    def __init__(self, clips: Sequence[TrainingClip], seed: int, lanes: int = 1):
        """`lanes` is the number of items of an optimizer step; it counts for clips in shards only, which stand shard by shard."""
        self.clips, self.seed, self.lanes = clips, seed, lanes
        shards = [(shard, len(list(group))) for shard, group in groupby(clip.shard for clip in clips)]
        self.shard_sizes = () if None in (shard for shard, _ in shards) else tuple(size for _, size in shards)
        firsts = accumulate(self.shard_sizes, initial=0)
        self._of_shard = {
            shard: range(first, first + size) for (shard, size), first in zip(shards, firsts, strict=False)
        }

    def clip(self, position: int) -> TrainingClip:
        """The clip at a position; those that this lane needs soon begin to be fetched."""
        if self.shard_sizes:
            self._at(position + AHEAD_STEPS * self.lanes).prefetch()
        return self._at(position)

    def near(self, clip: TrainingClip) -> Sequence[TrainingClip]:
        """The clips from which others can be drawn to go with this one: all, or those of its shard if there are several."""
        own = self._of_shard[clip.shard] if self.shard_sizes else range(0)
        return self.clips[own.start : own.stop] if len(own) > 1 else self.clips

    def _at(self, position: int) -> TrainingClip:
        epoch, index = divmod(position, len(self.clips))
        if self.shard_sizes:
            return self.clips[streamed_order(self.shard_sizes, self.lanes, self.seed, epoch)[index]]
        return self.clips[epoch_order(len(self.clips), self.seed, epoch)[index]]


def readable_item(order: ClipOrder, position: int, make: Callable[[TrainingClip, Draw], Item]) -> Item:
    """Make item `position` from its clip or, if that cannot be read, from a randomly drawn other one; logs a warning then.

    Raises:
        MediaError: `MAX_ATTEMPTS` clips in a row cannot be read.
        ShardError: the clip's shard cannot be fetched.
    """
    draw = Draw(order.seed, *divmod(position, len(order.clips)))
    clip = order.clip(position)
    for attempt in range(MAX_ATTEMPTS):
        try:
            return make(clip, draw)
        except MediaError as error:
            if attempt == MAX_ATTEMPTS - 1:
                raise MediaError(f"{MAX_ATTEMPTS} clips in a row cannot be read; the last: {error}") from error
            log.warning("A clip cannot be read, another one replaces it: %s", error)
            clip = order.clips[draw.below(len(order.clips))]
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
