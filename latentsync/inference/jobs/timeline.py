"""Which source frame is shown when, and reading the source in that order with few frames in memory.

The output lasts as long as the audio, to the nearest frame. If the source is longer, its remaining frames are dropped or kept
unedited (`rest`: `cut` or `keep`). If it is shorter (`length`), it is played back and forth without repeating the frames at which
it turns (`bounce`), repeated (`loop`), its last frame is held (`hold`), or the output ends with it (`cut`).
With ranges the output shows the whole source once, and the new audio plays in the ranges only (`film_timeline`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from latentsync.inference.jobs.ranges import EditedRange
from latentsync.inference.settings import Length, Rest

Frame = TypeVar("Frame")
Read = Callable[[int, int], Iterator[Frame]]  # (start, stop) -> frames start ... stop - 1 of the source


@dataclass(frozen=True)
class Timeline:
    """The output's frames: `order` [n] is the source frame of each, `ticks` [n + 1] their start times and the end."""

    order: NDArray[np.int64]
    ticks: NDArray[np.int64]  # in units of `time_base` seconds
    time_base: Fraction
    frames_with_sound: int  # frames shown while the audio lasts; later ones are kept unedited
    start_sec: Fraction = Fraction(0)  # of the audio at the first frame
    ranges: tuple[EditedRange, ...] = ()  # if there are any, the new audio plays in these only

    def __len__(self) -> int:
        return len(self.order)

    @property
    def has_sound(self) -> NDArray[np.bool_]:
        """bool [n]: whether a frame is shown while the new audio plays."""
        if not self.ranges:
            return np.arange(len(self)) < self.frames_with_sound
        audible = np.zeros(len(self), np.bool_)
        for each in self.ranges:
            audible[each.frames.start : each.frames.stop] = True
        return audible

    def sound_sec(self, frame: int) -> float:
        """Time of a frame in the audio that the networks get: that of all ranges one after the other."""
        before = Fraction(0)
        for each in self.ranges:
            if frame < each.frames.stop:
                return max(0.0, self.time_sec(frame) - float(each.start_sec)) + float(before)
            before += each.duration_sec
        return self.time_sec(frame) + float(self.start_sec) if not self.ranges else float(before)

    def time_sec(self, frame: int) -> float:
        """Time of output frame `frame` in seconds; of the end for `len(self)`."""
        return float(int(self.ticks[frame]) * self.time_base)

    def starting(self, start_sec: Fraction) -> "Timeline":
        """The rest of the output, from the frame that is shown at `start_sec` on. Raises ValueError after the audio's end."""
        first = int(np.searchsorted(self.ticks, float(start_sec / self.time_base), side="right")) - 1
        if first >= self.frames_with_sound:
            raise ValueError(
                f"start_sec is {float(start_sec):g}, but the audio plays until {self.time_sec(self.frames_with_sound):.2f} s:"
                " choose an earlier second."
            )
        ticks = self.ticks[first:] - self.ticks[first]
        audible, begin = self.frames_with_sound - first, int(self.ticks[first]) * self.time_base
        return replace(self, order=self.order[first:], ticks=ticks, frames_with_sound=audible, start_sec=begin)

    @property
    def jumps(self) -> NDArray[np.bool_]:
        """bool [n]: whether a frame is not a neighbour in the source of the frame shown before it; True for the first."""
        return np.concatenate([[True], np.abs(np.diff(self.order)) > 1])


def make_timeline(
    times: Sequence[Fraction], sound_sec: Fraction, time_base: Fraction, length: Length = "bounce", rest: Rest = "cut"
) -> Timeline:
    """The timeline of a source whose frames are shown at `times` [n + 1] (the last entry is the end), in seconds.

    A frame belongs to the output if the audio covers at least half of its duration. There is at least one frame.
    """
    shown = np.array([round(time / time_base) for time in times], dtype=np.int64)
    durations = np.maximum(1, np.diff(shown))
    assert len(durations), "a readable source has a frame"
    order = _endless_order(durations, sound_sec / time_base, length)
    ends = np.cumsum(durations[order])
    middles = ends - durations[order] / 2
    audible = max(1, int(np.searchsorted(middles, float(sound_sec / time_base), side="right")))
    count = len(durations) if rest == "keep" and audible < len(durations) else audible
    ticks = np.concatenate([[0], ends[:count]])
    return Timeline(order[:count], ticks, time_base, min(audible, count))


def film_timeline(times: Sequence[Fraction], time_base: Fraction, ranges: tuple[EditedRange, ...]) -> Timeline:
    """The timeline of a film of which only `ranges` are edited: every frame of the source once; arguments as above."""
    whole = make_timeline(times, times[-1], time_base, "cut", "keep")
    return replace(whole, ranges=ranges)


def _endless_order(durations: NDArray[np.int64], wanted: Fraction, length: Length) -> NDArray[np.int64]:
    """Source frames in output order: the whole source, repeated by `length` until `wanted` ticks are covered."""
    source = np.arange(len(durations))
    missing = float(wanted) - float(durations.sum())
    if missing <= 0 or length == "cut":
        return source
    if length == "hold":
        return np.append(source, np.full(int(missing / durations[-1]) + 1, len(durations) - 1))
    cycle = np.concatenate([source, source[-2:0:-1]]) if length == "bounce" else source
    return np.tile(cycle, int(float(wanted) / float(durations[cycle].sum())) + 1)


def runs_of(order: NDArray[np.int64]) -> Iterator[tuple[range, int]]:
    """Split an order of frames into runs: (output frames, step between their source frames: 1, -1 or 0)."""
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

    If only the first `held` source frames occur, they are read once. Forward runs are streamed; backward runs are read in pieces
    of `held` frames, the last piece first.
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
