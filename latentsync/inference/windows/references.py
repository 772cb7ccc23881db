"""Choice of the reference frames: another moment of the face, which the network gets beside the frames that it repaints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentsync.face.lower_face import redness_of_lips
from latentsync.inference.faces.plan import ACTIONS, EDIT, BoolArray, FacePlan, runs
from latentsync.inference.settings import Reference

if TYPE_CHECKING:
    from torch import Tensor  # plans of the masks use this module without PyTorch

# Usual frames: those in which the lower face has its most frequent appearance (visible, not covered, usual head turn).
#
# Speech moves a face all the time, but only in some directions of the descriptors of `latentsync.face.lower_face`. The covariance
# of their changes within a few frames gives a Mahalanobis distance (1936) in which an open mouth is near the usual appearance and
# a covered one is far. The usual appearance is the mean of the closest half of the frames (Rousseeuw, 1985), a robust estimate.
# If the mouth is covered in most frames, the cluster with the redder lips is chosen instead. If it is covered in all of them,
# all frames count as usual.
Values = NDArray[np.float32]

LAG = 3  # frames; movement is the change over this time
CALM = 0.5  # share of movements that are used, the smallest: cuts and hands cause the largest ones
NOISE = 1.0  # CIELAB units, added to the deviation of every movement
YAW_UNIT = 2.0  # degrees that count as one CIELAB unit
MIN_FRAMES = 24  # with fewer known frames all of them are usual
MIN_OTHERS, MIN_SHARE = 12, 0.2  # frames, and share of all, that another appearance needs to be considered
NEAR = 0.25  # quantile of the distances that is their unit
LIMIT = 2.5  # largest distance of a usual frame, in that unit
LEAST_LIMIT = 10.0  # frames up to this distance are always usual
MORE_LIPS, SURE_LIPS = 2.0, 0.8  # factor and margin by which lips must be redder to override the majority
SLACK = 3  # so many frames on each side of unusual ones are unusual too
ROUNDS = 8  # iterations; the closest half has converged by then


def usual_frames(lower_face: NDArray[np.int8], yaw_deg: NDArray[np.floating], seen: BoolArray) -> BoolArray:
    """bool [n]: the usual frames of one person; `seen` [n] are those whose `lower_face` [n, d] and `yaw_deg` [n] are known.

    Other frames are not usual. With fewer than `MIN_FRAMES` known frames all of them are.
    """
    usual = seen.copy()
    if seen.sum() < MIN_FRAMES:
        return usual
    known = lower_face[seen]
    usual[seen] = _alike(known, np.column_stack([known, yaw_deg[seen] / YAW_UNIT]).astype(np.float32))
    around = np.convolve(seen & ~usual, np.ones(2 * SLACK + 1), "same")
    return np.asarray(usual & (around < 0.5))


def usual_in_shots(plan: FacePlan, seen: BoolArray) -> BoolArray:
    """bool [n]: the usual frames of every shot of a plan, among those `seen` [n]."""
    usual = np.zeros(len(plan), bool)
    for shot in runs(plan.shot):
        inside = slice(shot.start, shot.stop)
        usual[inside] = usual_frames(plan.lower_face[inside], plan.yaw[inside], seen[inside])
    return usual


def _alike(faces: NDArray[np.int8], values: Values) -> BoolArray:
    """bool [n]: which of the frames with these values [n, d] have the usual appearance."""
    everyone = np.ones(len(values), bool)
    alike = _near_middle(_in_units_of_movement(values, everyone), everyone)
    others = ~alike
    if others.sum() >= max(MIN_OTHERS, MIN_SHARE * len(values)):
        needed = MORE_LIPS * max(redness_of_lips(faces[alike]), 0.0) + SURE_LIPS
        if redness_of_lips(faces[others]) > needed:
            alike = _near_middle(_in_units_of_movement(values, others), others)
    return alike


def _in_units_of_movement(values: Values, among: BoolArray) -> Values:
    """`values` [n, d], whitened: the usual movement within `LAG` frames has deviation 1 in every direction."""
    moved = (values[LAG:] - values[:-LAG])[among[LAG:] & among[:-LAG]]
    far = np.square(moved).sum(axis=1)
    calm = moved[far <= np.quantile(far, CALM)] if len(moved) else moved
    spread = calm.T.astype(np.float64) @ calm / max(1, 2 * len(calm)) + NOISE**2 * np.eye(values.shape[1])
    variances, directions = np.linalg.eigh(spread)
    return np.asarray(values @ (directions / np.sqrt(variances)).astype(np.float32))


def _near_middle(values: Values, among: BoolArray) -> BoolArray:
    """bool [n]: which values [n, d] are near the mean of the closest half of those in `among` [n]."""
    middle = np.median(values[among], axis=0)
    for _ in range(ROUNDS):
        distance = np.sqrt(np.square(values - middle).sum(axis=1))
        middle = values[among & (distance <= np.median(distance[among]))].mean(axis=0)
    distance = np.sqrt(np.square(values - middle).sum(axis=1))
    return np.asarray(distance <= max(LIMIT * np.quantile(distance[among], NEAR), LEAST_LIMIT))


NEAREST = 3  # candidate windows at the start of a segment; the repainted frames overlap at most two of them
KEPT = NEAREST  # windows whose latents are kept
Choice = Callable[[Sequence[int]], range]  # source frames to repaint -> their reference frames


def reference_choice(policy: Reference, plan: FacePlan, num_frames: int, stride: int) -> Choice | None:
    """The choice of references by `policy` for a plan; None where frames are their own reference or none is edited."""
    segments = plan.segments
    if policy == "current" or not segments:
        return None
    known = (plan.action == ACTIONS[EDIT]) & ~plan.has_occluder
    if policy == "elsewhere":
        usual = usual_in_shots(plan, known)
        return ElsewhereReference(segments, usual_runs(segments, usual), num_frames, stride)
    usual = usual_frames(plan.lower_face, plan.yaw, known)
    return closed_reference(usual_runs(segments, usual), plan.opening, num_frames, stride)


def usual_runs(segments: Sequence[range], usual: BoolArray) -> list[range]:
    """The stretches of `usual` frames [n] inside of segments, in order; the segments themselves where no frame is usual."""
    parts = [
        segment[part.start : part.stop] for segment in segments for part in runs(usual[segment.start : segment.stop])
    ]
    return [part for part in parts if usual[part.start]] or list(segments)


@dataclass(frozen=True)
class ElsewhereReference:
    """Another moment of the same face that does not overlap the repainted frames, as in training.

    The lower face should be visible, and the choice should change seldom and be near the start. So it is the first window of usual
    frames in the same segment that does not overlap the repainted frames. Without one it is, in this order, half a window of that
    segment, a window of another segment, or the longest part of a window. If all usual frames are repainted together, it is the
    farthest window.
    """

    segments: Sequence[range]
    runs: Sequence[range]  # of usual frames, each inside of a segment
    num_frames: int
    stride: int

    def __call__(self, frames: Sequence[int]) -> range:
        """Source frames, at most `num_frames`, for the source frames `frames` of a segment."""
        low, high = min(frames), max(frames)
        segment = next((segment for segment in self.segments if low in segment), range(0))
        own = [run for run in self.runs if run.start in segment]
        others = sorted((run for run in self.runs if run.start not in segment), key=len, reverse=True)
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
        """The longest part of a window outside `low` ... `high`; empty if all have fewer than `at_least` source frames."""
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
    """Frames between `low` ... `high` and a window; 1 or more if they do not overlap."""
    return max(window[0] - high, low - window[-1])


def _outside(run: range, low: int, high: int) -> list[range]:
    """The parts of a run before `low` and after `high`."""
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
    """The window of `runs` with the smallest mean `opening` [n] of the mouth (NaN where unknown)."""
    length = 1 + (num_frames - 1) * stride
    known = np.nan_to_num(opening, nan=float(np.nanmax(opening)) if np.isfinite(opening).any() else 0.0)
    windows = [run[start : start + length : stride] for run in runs for start in range(max(1, len(run) - length + 1))]
    return ClosedReference(min(windows, key=lambda window: (-len(window), known[window].mean())))


@dataclass
class ReferenceLatents:
    """Reference latents, read and encoded at the first use; None where frames are their own reference."""

    choose: Choice | None
    encode: "Callable[[range], Tensor]"  # source frames -> latents 1 c f h w
    _kept: "dict[range, Tensor]" = field(default_factory=dict)

    def __call__(self, frames: Sequence[int]) -> "Tensor | None":
        if self.choose is None:
            return None
        window = self.choose(frames)
        if window not in self._kept:
            self._kept = dict(list(self._kept.items())[1 - KEPT :])
            self._kept[window] = self.encode(window)
        return self._kept[window]
