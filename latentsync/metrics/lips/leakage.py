"""What of the old lips shows in a result: movement in silence, and likeness to the source under another sound."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.metrics.lips.aperture import correlation

STILL = 1e-4  # deviation of the opening, in shares of the face, below which a mouth does not move


@dataclass(frozen=True)
class SilentMouth:
    """A mouth under silence. Openings are shares of the face's height."""

    opening: float  # mean; 0 = closed
    movement: float  # standard deviation over time; 0 = still
    movement_kept: (
        float | None
    )  # as a share of the source's movement: 0 = all gone, 1 = all kept; None for a still source

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, those that are None left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def silent_mouth(result: NDArray[np.floating], source: NDArray[np.floating]) -> SilentMouth:
    """How open the mouth stays and how much it moves in `result`, lip openings [t] under silent sound.

    `source` holds the openings of the same moments of the input. NaN entries do not take part.

    Raises:
        ValueError: no frame shows a face in both.
    """
    result, source = paired(result, source)
    moved, before = float(result.std()), float(source.std())
    return SilentMouth(float(result.mean()), moved, moved / before if before > STILL else None)


def paired_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Pearson correlation over the frames in which both openings are known.

    Raises:
        ValueError: there is no such frame.
    """
    return correlation(*paired(first, second))


def paired(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The common beginning of two series, without the moments at which one is NaN.

    Raises:
        ValueError: nothing is left.
    """
    count = min(len(first), len(second))
    a, b = np.asarray(first[:count], np.float64), np.asarray(second[:count], np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        raise ValueError("No frame shows a face in both videos, so their lips cannot be compared.")
    return a[known], b[known]
