"""How near a picture is to the true one: PSNR and SSIM, over the whole frame or a part of it.

Frames are uint8 [h, w, 3] RGB; a weight [h, w] in [0, 1] says which pixels count.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

FrameArray = NDArray[np.uint8]
Weight = NDArray[np.float32]

PEAK = 255.0
BEST_PSNR = 100.0  # stands for equal pictures, whose PSNR is infinite
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_CONSTANTS = ((0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2)


def weighted_mean(values: NDArray[np.floating], weight: Weight | None) -> float:
    """Mean of a map [h, w], weighted.

    Raises:
        ValueError: the part that counts is empty.
    """
    if weight is None:
        return float(values.mean(dtype=np.float64))
    total = float(weight.sum(dtype=np.float64))
    if total <= 0:
        raise ValueError("The part of the frame that is compared is empty: the face lies outside of the picture.")
    return float((values * weight).sum(dtype=np.float64)) / total


def psnr(first: FrameArray, second: FrameArray, weight: Weight | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all colours, at most `BEST_PSNR`; about 30 and more looks alike."""
    check_alike(first, second)
    difference = first.astype(np.float32) - second.astype(np.float32)
    mean_square = weighted_mean((difference * difference).mean(axis=-1), weight)
    if mean_square <= 0:
        return BEST_PSNR
    return min(BEST_PSNR, 10 * float(np.log10(PEAK**2 / mean_square)))


def ssim_map(first: FrameArray, second: FrameArray) -> NDArray[np.float64]:
    """Structural similarity (Wang et al. 2004) around every pixel, the mean of the three colours, [h, w] in [-1, 1].

    Gaussian window of 11 pixels and deviation 1.5, K1 = 0.01, K2 = 0.03, population moments.
    """
    check_alike(first, second)
    a, b = first.astype(np.float64), second.astype(np.float64)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = SSIM_CONSTANTS
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return np.asarray((numerator / denominator).mean(axis=-1))


def ssim(first: FrameArray, second: FrameArray, weight: Weight | None = None) -> float:
    """Mean of `ssim_map` over the pixels that count, those nearer than 5 px to the frame's edge left out; 1 = equal.

    Raises:
        ValueError: the pictures differ in size, are smaller than the window, or nothing counts.
    """
    if min(first.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of {SSIM_WINDOW} x {SSIM_WINDOW} pixels at least.")
    edge = SSIM_WINDOW // 2
    inner = (slice(edge, -edge), slice(edge, -edge))
    return weighted_mean(ssim_map(first, second)[inner], None if weight is None else weight[inner])


def check_alike(first: FrameArray, second: FrameArray) -> None:
    """ValueError unless both are pictures of one size."""
    if first.shape != second.shape:
        sizes = [f"{frame.shape[1]} x {frame.shape[0]}" for frame in (first, second)]
        raise ValueError(f"Pictures of {sizes[0]} and of {sizes[1]} pixels cannot be compared.")


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    blurred = cv2.GaussianBlur(image, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float64)
