"""Which frame of the source is shown when, and how the source is read in that order with few frames in memory.

The output lasts as long as the sound, to the nearest frame. A longer source is cut, or its rest kept as it is. A shorter one
bounces (back and forth, the frames at which it turns not doubled), loops, holds its last frame, or ends the output.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from latentsync.inference.settings import Length, Rest

Frame = TypeVar("Frame")
Read = Callable[[int, int], Iterator[Frame]]  # (start, stop) -> frames start ... stop - 1 of the source


@dataclass(frozen=True)
class Timeline:
    """The output's frames: `order` [n] tells the source frame of each, `ticks` [n + 1] when it is shown and the end."""

    order: NDArray[np.int64]
    ticks: NDArray[np.int64]  # of `time_base` seconds
    time_base: Fraction
    frames_with_sound: int  # frames shown while the sound lasts; those after them are the source's rest

    def __len__(self) -> int:
        return len(self.order)

    def time_sec(self, frame: int) -> float:
        """When output frame `frame` is shown; `len(self)` gives the end."""
        return float(int(self.ticks[frame]) * self.time_base)

    @property
    def jumps(self) -> NDArray[np.bool_]:
        """bool [n]: whether a frame is no neighbour of the one shown before it (the first one is none)."""
        return np.concatenate([[True], np.abs(np.diff(self.order)) > 1])


def make_timeline(
    times: Sequence[Fraction], sound_sec: Fraction, time_base: Fraction, length: Length = "bounce", rest: Rest = "cut"
) -> Timeline:
    """Plan the output of a source whose frames are shown at `times` [n + 1] (the last entry is the end), in seconds.

    A frame belongs to the output if at least half of it is heard; there is always one.
    """
    shown = np.array([round(time / time_base) for time in times], dtype=np.int64)
    durations = np.maximum(1, np.diff(shown))
    assert len(durations), "a readable source has a frame"
    order = _endless_order(durations, sound_sec / time_base, length)
    ends = np.cumsum(durations[order])
    middles = ends - durations[order] / 2
    heard = max(1, int(np.searchsorted(middles, float(sound_sec / time_base), side="right")))
    count = len(durations) if rest == "keep" and heard < len(durations) else heard
    ticks = np.concatenate([[0], ends[:count]])
    return Timeline(order[:count], ticks, time_base, min(heard, count))


def _endless_order(durations: NDArray[np.int64], wanted: Fraction, length: Length) -> NDArray[np.int64]:
    """Source frames in the order of the output: the whole source, and as much more as `wanted` ticks ask for."""
    there = np.arange(len(durations))
    missing = float(wanted) - float(durations.sum())
    if missing <= 0 or length == "cut":
        return there
    if length == "hold":
        return np.append(there, np.full(int(missing / durations[-1]) + 1, len(durations) - 1))
    cycle = np.concatenate([there, there[-2:0:-1]]) if length == "bounce" else there
    return np.tile(cycle, int(float(wanted) / float(durations[cycle].sum())) + 1)


def runs_of(order: NDArray[np.int64]) -> Iterator[tuple[range, int]]:
    """Cut an order of frames into runs: (output frames, step between their source frames: 1, -1 or 0)."""
    steps = np.diff(order)
    start = 0
    while start < len(order):
        step = int(steps[start]) if start < len(steps) and abs(steps[start]) <= 1 else 1
        stop = start + 1
        while stop < len(order) and steps[stop - 1] == step:
            stop += 1
        yield range(start, stop), step
        start = stop


def frames_in_order(read: Read[Frame], order: NDArray[np.int64], held: int) -> Iterator[Frame]:
    """Yield the source frame of every entry of `order`, with at most `held` source frames in memory.

    A source of up to `held` frames is read once. Forward runs are streamed, backward runs read in pieces of `held`
    frames, the last piece first; `read` must be able to begin anywhere.
    """
    if len(order) and order.max() < held:
        frames = list(read(0, int(order.max()) + 1))
        yield from (frames[index] for index in order)
        return
    for run, step in runs_of(order):
        first, last = int(order[run.start]), int(order[run.stop - 1])
        if step > 0:
            yield from read(first, last + 1)
        elif step == 0:
            still = next(read(first, first + 1))
            yield from (still for _ in run)
        else:
            yield from _backwards(read, first, last, held)


def _backwards(read: Read[Frame], first: int, last: int, held: int) -> Iterator[Frame]:
    for top in range(first, last - 1, -held):
        frames = list(read(max(last, top - held + 1), top + 1))
        while frames:
            yield frames.pop()
