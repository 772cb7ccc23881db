"""A set of scores in four numbers: mean, spread, and an interval for the mean."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.media.container import MediaError

CONFIDENCE = 0.95
RESAMPLES = 2000
CELLS = 2_000_000  # drawn numbers held at a time


@dataclass(frozen=True)
class Summary:
    """Scores of `count` videos: their mean, sample deviation, and a bootstrap interval of the mean."""

    count: int
    mean: float
    spread: float  # sample standard deviation, 0 for a single score
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def summarise(scores: Iterable[float], seed: int = 0) -> Summary:
    """Summary of scores, one a video; their order does not matter.

    Raises:
        ValueError: there is no score, or one is not finite.
    """
    values = np.sort(np.asarray(list(scores), dtype=np.float64))
    if len(values) == 0:
        raise ValueError("There is no score to summarise: no video could be scored.")
    if not np.isfinite(values).all():
        raise ValueError("A score is not finite (NaN or infinite): the video or the network is broken.")
    low, high = bootstrap_interval(values, seed=seed)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Summary(len(values), float(values.mean()), spread, low, high)


def bootstrap_interval(
    values: NDArray[np.floating], confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron 1979) of the mean of `values` [n]; the same seed gives the same interval.

    With few videos it is too narrow: below about ten it says little.
    """
    ordered, rng = np.sort(np.asarray(values, dtype=np.float64)), np.random.default_rng(seed)
    step = max(1, CELLS // len(ordered))
    sizes = [min(step, resamples - first) for first in range(0, resamples, step)]
    means = np.concatenate([ordered[rng.integers(0, len(ordered), (n, len(ordered)))].mean(axis=1) for n in sizes])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# Why a video has no score: counted beside the scores, never left out.
NO_FACE, NO_AUDIO, TOO_SHORT = "no face", "no audio", "too short"
DIFFERENT_LENGTHS, DIFFERENT_SIZES = "different lengths", "different sizes"
NO_TRUTH, UNREADABLE, NO_OUTPUT, OTHER = "no truth", "unreadable", "no output", "other"


class UnscorableError(ValueError):
    """A video cannot be scored: `reason` is a few words that are counted, the message says more about this video."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def reason_of(error: ValueError | OSError) -> str:
    """The words under which an error is counted."""
    if isinstance(error, UnscorableError):
        return error.reason
    if isinstance(error, MediaError):
        return NO_AUDIO if "no audio" in str(error) else UNREADABLE
    return UNREADABLE if isinstance(error, OSError) else OTHER
