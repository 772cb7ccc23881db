"""Leakage of the old lips into a result: movement under silence, and correlation with the source under other audio."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.metrics.lips.aperture import correlation

STILL = 1e-4  # standard deviation of the opening, in fractions of the face height, below which a mouth is still


@dataclass(frozen=True)
class SilentMouth:
    """Lip opening under silence, in fractions of the face height."""

    opening: float  # mean; 0 = closed
    movement: float  # standard deviation over time; 0 = still
    movement_kept: float | None  # divided by the movement of the source, 1 = all kept; None for a still source

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def silent_mouth(result: NDArray[np.floating], source: NDArray[np.floating]) -> SilentMouth:
    """Mean opening and movement of `result`, lip openings [t] under silence.

    `source` has the openings of the input at the same frames. NaN entries are ignored.

    Raises:
        ValueError: no frame shows a face in both.
    """
    result, source = paired(result, source)
    moved, before = float(result.std()), float(source.std())
    return SilentMouth(float(result.mean()), moved, moved / before if before > STILL else None)


def paired_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Pearson correlation over the frames in which neither opening is NaN.

    Raises:
        ValueError: there is no such frame.
    """
    return correlation(*paired(first, second))


def paired(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two series cut to the shorter length, without the entries at which one is NaN.

    Raises:
        ValueError: nothing is left.
    """
    count = min(len(first), len(second))
    a, b = np.asarray(first[:count], np.float64), np.asarray(second[:count], np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        raise ValueError("No frame shows a face in both videos, so their lips cannot be compared.")
    return a[known], b[known]
