"""Which other moment of a face the network is shown beside the frames that it repaints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentsync.inference.face_plan import ACTIONS, EDIT, BoolArray, FacePlan, runs
from latentsync.inference.settings import Reference
from latentsync.inference.usual import usual_frames

NEAREST = 3  # windows at the start of a take that are a reference: what is repainted overlaps two of them at most
KEPT = NEAREST  # windows whose latents are remembered
Choice = Callable[[Sequence[int]], range]  # source frames that are repainted -> those that are shown beside them


def reference_choice(policy: Reference, plan: FacePlan, num_frames: int, stride: int) -> Choice | None:
    """How `policy` chooses by the plan of all frames; None where frames are their own reference or none is edited."""
    takes = plan.takes
    if policy == "current" or not takes:
        return None
    known = plan.action == ACTIONS[EDIT]
    if policy == "elsewhere":
        usual = np.zeros(len(plan), bool)
        for shot in runs(plan.shot):
            inside = slice(shot.start, shot.stop)
            usual[inside] = usual_frames(plan.lower_face[inside], plan.yaw[inside], known[inside])
        return ElsewhereReference(takes, usual_runs(takes, usual), num_frames, stride)
    usual = usual_frames(plan.lower_face, plan.yaw, known)
    return closed_reference(usual_runs(takes, usual), plan.opening, num_frames, stride)


def usual_runs(takes: Sequence[range], usual: BoolArray) -> list[range]:
    """The stretches of `usual` frames [n] inside of takes, in order; the takes themselves where no frame is usual."""
    parts = [take[part.start : part.stop] for take in takes for part in runs(usual[take.start : take.stop])]
    return [part for part in parts if usual[part.start]] or list(takes)


@dataclass(frozen=True)
class ElsewhereReference:
    """Another moment of the same face that does not overlap what is repainted, as in training.

    Chosen so that the lower face is free, that it seldom changes and is soon read: the first window of usual frames (see
    `latentsync.inference.usual`) of the take around the frames, for frames that overlap it the next one that they do not.
    Where that take has no whole window left, half of one does, then a window of another take, then the longest rest. Where
    all usual frames are repainted together, the farthest are shown.
    """

    takes: Sequence[range]
    runs: Sequence[range]  # of usual frames, each inside of a take
    num_frames: int
    stride: int

    def __call__(self, frames: Sequence[int]) -> range:
        """Source frames, at most `num_frames`, for the source frames `frames` of a take."""
        low, high = min(frames), max(frames)
        take = next((take for take in self.takes if low in take), range(0))
        own = [run for run in self.runs if run.start in take]
        others = sorted((run for run in self.runs if run.start not in take), key=len, reverse=True)
        return (
            self._first_whole(own, low, high)
            or self._longest(own, low, high, at_least=self._length // 2)
            or self._first_whole(others, low, high)
            or self._longest(own + others, low, high)
            or max((window for run in self.runs for window in self._windows(run)), key=lambda w: _gap(w, low, high))
        )

    def _first_whole(self, places: Sequence[range], low: int, high: int) -> range:
        """The first whole window that does not overlap `low` ... `high`; empty without one."""
        windows = (window for run in places for window in self._windows(run))
        return next((w for w in windows if len(w) == self.num_frames and _gap(w, low, high) > 0), range(0))

    def _longest(self, places: Sequence[range], low: int, high: int, at_least: int = 1) -> range:
        """The longest window, a whole one at most, of what is left beside `low` ... `high`; empty if it is too short."""
        rests = [rest for run in places for rest in _outside(run, low, high) if len(rest) >= at_least]
        return max(rests, key=len, default=range(0))[: self._length : self.stride]

    @property
    def _length(self) -> int:
        """Source frames from the first to the last one of a window."""
        return 1 + (self.num_frames - 1) * self.stride

    def _windows(self, run: range) -> list[range]:
        group = self.num_frames * self.stride  # frames of windows that interleave
        starts = [max(0, min(place * group, len(run) - self._length)) for place in range(NEAREST)]
        return [run[start : start + self._length : self.stride] for start in starts]


def _gap(window: range, low: int, high: int) -> int:
    """Frames from `low` ... `high` to a window; 1 or more: they do not overlap."""
    return max(window[0] - high, low - window[-1])


def _outside(run: range, low: int, high: int) -> list[range]:
    """What is left of a run before `low` and after `high`."""
    parts = range(run.start, min(run.stop, low)), range(max(run.start, high + 1), run.stop)
    return [part for part in parts if part]


@dataclass(frozen=True)
class ClosedReference:
    """The window of the whole video in which the mouth is most closed."""

    window: range

    def __call__(self, frames: Sequence[int]) -> range:
        return self.window


def closed_reference(
    runs: Sequence[range], opening: NDArray[np.floating], num_frames: int, stride: int
) -> ClosedReference:
    """Find the window of `runs` by `opening` [n], how far the mouth is open in each source frame (NaN where unknown)."""
    length = 1 + (num_frames - 1) * stride
    known = np.nan_to_num(opening, nan=float(np.nanmax(opening)) if np.isfinite(opening).any() else 0.0)
    windows = [run[start : start + length : stride] for run in runs for start in range(max(1, len(run) - length + 1))]
    return ClosedReference(min(windows, key=lambda window: (-len(window), known[window].mean())))


@dataclass
class ReferenceLatents:
    """Latents of chosen windows, read and encoded when first asked for; None where frames are their own reference."""

    choose: Choice | None
    encode: Callable[[range], Tensor]  # source frames -> latents 1 c f h w
    _kept: dict[range, Tensor] = field(default_factory=dict)

    def __call__(self, frames: Sequence[int]) -> Tensor | None:
        if self.choose is None:
            return None
        window = self.choose(frames)
        if window not in self._kept:
            self._kept = dict(list(self._kept.items())[1 - KEPT :])
            self._kept[window] = self.encode(window)
        return self._kept[window]
