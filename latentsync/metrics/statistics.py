"""Summary of a set of scores (mean, spread, interval of the mean), and reasons why a video has no score."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.media.container import MediaError

CONFIDENCE = 0.95
RESAMPLES = 2000
CELLS = 2_000_000  # random numbers in memory at a time


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
        raise ValueError("No video could be scored, so there is nothing to summarise.")
    if not np.isfinite(values).all():
        raise ValueError("A score is not finite (NaN or infinite): the video or the network is broken.")
    low, high = bootstrap_interval(values, seed=seed)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Summary(len(values), float(values.mean()), spread, low, high)


def bootstrap_interval(
    values: NDArray[np.floating], confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron 1979) of the mean of `values` [n]; the same seed gives the same interval.

    With fewer than about ten videos the interval is too narrow.
    """
    ordered, rng = np.sort(np.asarray(values, dtype=np.float64)), np.random.default_rng(seed)
    step = max(1, CELLS // len(ordered))
    sizes = [min(step, resamples - first) for first in range(0, resamples, step)]
    means = np.concatenate([ordered[rng.integers(0, len(ordered), (n, len(ordered)))].mean(axis=1) for n in sizes])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# Reasons why a video has no score. Videos are counted by them; none is left out.
NO_FACE, NO_AUDIO, TOO_SHORT = "no face", "no audio", "too short"
DIFFERENT_LENGTHS, DIFFERENT_SIZES = "different lengths", "different sizes"
NO_TRUTH, UNREADABLE, NO_OUTPUT, OTHER = "no truth", "unreadable", "no output", "other"


class UnscorableError(ValueError):
    """A video cannot be scored. Videos are counted by `reason`; the message has the details."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def reason_of(error: ValueError | OSError) -> str:
    """The reason under which an error is counted."""
    if isinstance(error, UnscorableError):
        return error.reason
    if isinstance(error, MediaError):
        return NO_AUDIO if "no audio" in str(error) else UNREADABLE
    return UNREADABLE if isinstance(error, OSError) else OTHER
