"""Maximum mean discrepancy between two sets of features; it assumes no normal distribution and needs few images.

CMMD is this distance between CLIP embeddings (Jayasumana et al. 2024, Rethinking FID).
"""

import numpy as np
from numpy.typing import ArrayLike

CMMD_SIGMA = 10.0  # width of the Gaussian kernel
CMMD_SCALE = 1000.0  # published values are in thousandths


def kernel_discrepancy(first: ArrayLike, second: ArrayLike, sigma: float = CMMD_SIGMA) -> float:
    """Squared maximum mean discrepancy of features [n, d] and [m, d] with a Gaussian kernel; 0 = equal sets.

    The biased estimate of Gretton et al. (2012) in float64: symmetric, and not negative except by rounding.

    Raises:
        ValueError: a set is empty, or the features differ in size.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 2 or b.ndim != 2 or not len(a) or not len(b) or a.shape[1] != b.shape[1]:
        raise ValueError(f"A discrepancy needs features [n, d] and [m, d]; got {list(a.shape)} and {list(b.shape)}.")
    return _mean_kernel(a, a, sigma) + _mean_kernel(b, b, sigma) - 2 * _mean_kernel(a, b, sigma)


def cmmd(first: ArrayLike, second: ArrayLike) -> float:
    """CMMD of unit-length CLIP embeddings [n, d] and [m, d], on the published scale.

    Raises:
        ValueError: see `kernel_discrepancy`.
    """
    return CMMD_SCALE * kernel_discrepancy(first, second)


def _mean_kernel(a: np.ndarray, b: np.ndarray, sigma: float) -> float:
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return float(np.exp(-np.maximum(squares, 0) / (2 * sigma**2)).mean())
