"""Distances between two sets of features: Frechet distance (FID, FVD) and maximum mean discrepancy (CMMD).

The Frechet distance is that of two normal distributions (Dowson & Landau 1982); the Frechet video distance applies it to I3D
features of generated and real clips (Unterthiner et al. 2018, Towards Accurate Generative Models of Video). The maximum mean
discrepancy assumes no normal distribution and needs few images; CMMD applies it to CLIP embeddings (Jayasumana et al. 2024,
Rethinking FID).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

FIRST_FRAME, NUM_FRAMES = 20, 16  # the frames of each video that are scored
FACE_PX = 224
CMMD_SIGMA = 10.0  # width of the Gaussian kernel
CMMD_SCALE = 1000.0  # published values are in thousandths


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean [d] of a set of features and a root [r, d] of its covariance: covariance = root^T root, r <= d."""

    mean: NDArray[np.float64]
    root: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Sample covariance [d, d] (divided by n - 1)."""
        return self.root.T @ self.root


def feature_statistics(features: ArrayLike) -> FeatureStatistics:
    """Statistics of features [n, d], in float64.

    Raises:
        ValueError: fewer than two samples, not two-dimensional, or a value that is not finite.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"A Frechet distance needs features [n, d] of at least two clips; got {list(values.shape)}.")
    if not np.isfinite(values).all():
        raise ValueError(
            "The features have values that are not finite (NaN or infinite): a clip or the network is broken."
        )
    mean = values.mean(axis=0)
    root = (values - mean) / np.sqrt(len(values) - 1)
    if len(root) > root.shape[1]:
        root = np.asarray(np.linalg.qr(root, mode="r"))
    return FeatureStatistics(mean, root)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """|m1 - m2|^2 + trace(S1 + S2 - 2 (S1 S2)^(1/2)); symmetric, and not negative except by rounding.

    With roots S1 = A^T A and S2 = B^T B the trace of (S1 S2)^(1/2) is the sum of the singular values of A B^T, which is
    also stable for fewer samples than features, unlike a square root of the product.

    Raises:
        ValueError: the two sets have features of different sizes.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"Features of {len(first.mean)} and {len(second.mean)} dimensions cannot be compared.")
    difference = first.mean - second.mean
    spread = (first.root**2).sum() + (second.root**2).sum()
    shared = np.linalg.svd(first.root @ second.root.T, compute_uv=False).sum()
    return float(difference @ difference + spread - 2 * shared)


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


def scored_frames(num_frames: int) -> range:
    """Indices of the 16 frames that are scored, 20 ... 35, of a video that has `num_frames`.

    Raises:
        ValueError: the video is shorter.
    """
    stop = FIRST_FRAME + NUM_FRAMES
    if num_frames < stop:
        raise ValueError(f"A Frechet video distance needs at least {stop} frames; this video has {num_frames}.")
    return range(FIRST_FRAME, stop)


def scored_face(frame: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """The face that is scored: cropped without margin and resized by area, [224, 224, 3] in [0, 1].

    Args:
        frame: uint8 [h, w, 3].
        box: left, top, width and height relative to the frame, as the detector returns them.

    Raises:
        ValueError: the box does not overlap the frame.
    """
    height, width = frame.shape[:2]
    left, top = int(box[0] * width), int(box[1] * height)
    right, bottom = left + int(box[2] * width), top + int(box[3] * height)
    face = frame[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if face.size == 0:
        raise ValueError(f"The face box {box} is outside the frame of {width} x {height} pixels.")
    resized = cv2.resize(face, (FACE_PX, FACE_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.float32) / np.float32(255)
