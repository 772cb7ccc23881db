"""Which other moment of a face the network is shown beside the frames that it repaints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

NEAREST = 3  # windows at the start of a take that are a reference: what is repainted overlaps two of them at most
KEPT = NEAREST  # windows whose latents are remembered


def takes_of(take: NDArray[np.integer]) -> list[range]:
    """The runs of frames that are edited together, given the take of every frame (-1: not edited)."""
    borders = np.flatnonzero(np.diff(take)) + 1
    edges = [0, *borders.tolist(), len(take)]
    return [range(start, stop) for start, stop in zip(edges[:-1], edges[1:], strict=True) if take[start] >= 0]


@dataclass(frozen=True)
class ElsewhereReference:
    """Another moment of the same face that does not overlap what is repainted, as in training.

    Chosen so that it seldom changes and is soon read: the first window of the take around the frames, for frames that overlap
    it the next one that they do not; windows of other takes where that take is too short. Where none is far enough away, the
    farthest.
    """

    takes: Sequence[range]
    num_frames: int
    stride: int

    def __call__(self, frames: Sequence[int]) -> range:
        """Source frames, at most `num_frames`, for the source frames `frames` of a take."""
        low, high = min(frames), max(frames)
        takes = sorted(self.takes, key=lambda take: (low not in take, -len(take)))
        candidates = [window for take in takes for window in self._first_windows(take)]

        def gap(window: range) -> int:
            return max(window[0] - high, low - window[-1])  # 1 or more: they do not overlap

        far = (window for window in candidates if gap(window) > 0)
        return next(far, max(candidates, key=gap))

    def _first_windows(self, take: range) -> list[range]:
        length = 1 + (self.num_frames - 1) * self.stride
        group = self.num_frames * self.stride  # frames of windows that interleave
        starts = [max(0, min(place * group, len(take) - length)) for place in range(NEAREST)]
        return [take[start : start + length : self.stride] for start in starts]


@dataclass(frozen=True)
class ClosedReference:
    """The window of the whole video in which the mouth is most closed."""

    window: range

    def __call__(self, frames: Sequence[int]) -> range:
        return self.window


def closed_reference(
    takes: Sequence[range], opening: NDArray[np.floating], num_frames: int, stride: int
) -> ClosedReference:
    """Find the window by `opening` [n], how far the mouth is open in each source frame (NaN where unknown)."""
    length = 1 + (num_frames - 1) * stride
    known = np.nan_to_num(opening, nan=float(np.nanmax(opening)) if np.isfinite(opening).any() else 0.0)
    windows = [
        take[start : start + length : stride] for take in takes for start in range(max(1, len(take) - length + 1))
    ]
    return ClosedReference(min(windows, key=lambda window: (-len(window), known[window].mean())))


@dataclass
class ReferenceLatents:
    """Latents of chosen windows, read and encoded when first asked for; None where frames are their own reference."""

    choose: Callable[[Sequence[int]], range] | None
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
