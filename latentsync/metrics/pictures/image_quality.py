"""PSNR and SSIM between two images, over the whole frame or a region.

Frames are uint8 [h, w, 3] RGB; a weight [h, w] in [0, 1] selects the region.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

FrameArray = NDArray[np.uint8]
Weight = NDArray[np.float32]

PEAK = 255.0
BEST_PSNR = 100.0  # returned for equal images, whose PSNR is infinite
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_CONSTANTS = ((0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2)


def weighted_mean(values: NDArray[np.floating], weight: Weight | None) -> float:
    """Weighted mean of a map [h, w].

    Raises:
        ValueError: the region is empty.
    """
    if weight is None:
        return float(values.mean(dtype=np.float64))
    total = float(weight.sum(dtype=np.float64))
    if total <= 0:
        raise ValueError("The region to compare is empty: the face is outside the frame.")
    return float((values * weight).sum(dtype=np.float64)) / total


def psnr(first: FrameArray, second: FrameArray, weight: Weight | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all channels, at most `BEST_PSNR`."""
    check_same_size(first, second)
    difference = first.astype(np.float32) - second.astype(np.float32)
    mean_square = weighted_mean((difference * difference).mean(axis=-1), weight)
    if mean_square <= 0:
        return BEST_PSNR
    return min(BEST_PSNR, 10 * float(np.log10(PEAK**2 / mean_square)))


def ssim_map(first: FrameArray, second: FrameArray) -> NDArray[np.float64]:
    """Structural similarity (Wang et al. 2004) at each pixel, the mean of the three channels, [h, w] in [-1, 1].

    Gaussian window of 11 pixels, standard deviation 1.5, K1 = 0.01, K2 = 0.03, population moments.
    """
    check_same_size(first, second)
    a, b = first.astype(np.float64), second.astype(np.float64)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = SSIM_CONSTANTS
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return np.asarray((numerator / denominator).mean(axis=-1))


def ssim(first: FrameArray, second: FrameArray, weight: Weight | None = None) -> float:
    """Mean of `ssim_map` over the region, without the pixels within 5 px of the frame's edge; 1 = equal.

    Raises:
        ValueError: the images differ in size or are smaller than the window, or the region is empty.
    """
    if min(first.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels.")
    edge = SSIM_WINDOW // 2
    inner = (slice(edge, -edge), slice(edge, -edge))
    return weighted_mean(ssim_map(first, second)[inner], None if weight is None else weight[inner])


def check_same_size(first: FrameArray, second: FrameArray) -> None:
    """ValueError if the images differ in size."""
    if first.shape != second.shape:
        sizes = [f"{frame.shape[1]} x {frame.shape[0]}" for frame in (first, second)]
        raise ValueError(f"Images of {sizes[0]} and {sizes[1]} pixels cannot be compared.")


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    blurred = cv2.GaussianBlur(image, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float64)
