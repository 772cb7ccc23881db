"""Blur and noise of an aligned face, measured without a network: a stand-in for a learned image quality.

Blur is estimated at the strongest edges. A step edge blurred by a Gaussian of deviation b and then by one of deviation s
has a slope proportional to 1 / sqrt(b^2 + s^2), so the slopes at two scales give b (Elder and Zucker, 1998). Noise is
estimated in the smoothest region (Immerkaer, 1996). Light and compression artefacts are not measured.

Tensor legend: a frame is uint8 [0, 255] `h w 3`, RGB; grey is float32 [0, 255] `h w`.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

FrameArray = NDArray[np.uint8]
Grey = NDArray[np.float32]

FINE, COARSE = 1.0, 2.0  # px, standard deviations s of the two Gaussians
EDGE_SHARE = 0.03  # fraction of the pixels, those with the steepest slopes
SMOOTH_SHARE = 0.3  # fraction of the pixels, those with the gentlest slopes
NOISE_KERNEL = np.array(
    [[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32
)  # zero response to slopes and axis-aligned steps
REFERENCE_PX = 256  # blur is given in pixels of a face of this side
MAX_BLUR_PX = 20.0
HALF_BLUR_PX, HALF_NOISE = 3.0, 8.0  # each halves the score


def sharpness(frame: FrameArray) -> float:
    """Score of one aligned face, 0 ... 100; a blur of 3 px in a 256 px face halves it, and so does noise of 8 levels of 255."""
    blur = blur_px(frame) / HALF_BLUR_PX
    noise = noise_levels(frame) / HALF_NOISE
    return 100.0 / (1 + blur**2) / (1 + noise**2)


def blur_px(frame: FrameArray) -> float:
    """Standard deviation of the Gaussian blur at the strongest edges, in pixels of a 256 px face, at most `MAX_BLUR_PX`."""
    grey = to_grey(frame)
    fine, coarse = slopes(grey, FINE), slopes(grey, COARSE)
    strong = coarse >= np.quantile(coarse, 1 - EDGE_SHARE)
    ratio = float(np.median(fine[strong] / np.maximum(coarse[strong], 1e-3)))
    if ratio <= 1.0:
        return MAX_BLUR_PX
    square = max(0.0, (COARSE**2 - (ratio * FINE) ** 2) / (ratio**2 - 1))
    return min(MAX_BLUR_PX, float(np.sqrt(square)) * REFERENCE_PX / frame.shape[1])


def noise_levels(frame: FrameArray) -> float:
    """Standard deviation of the noise in the smoothest region of a frame, in levels of 255."""
    grey = to_grey(frame)
    gentle = slopes(grey, 2 * COARSE)
    smooth = gentle <= np.quantile(gentle, SMOOTH_SHARE)
    response = cv2.filter2D(grey, cv2.CV_32F, NOISE_KERNEL)
    return float(np.sqrt(np.square(response[smooth]).mean() / np.square(NOISE_KERNEL).sum()))


def to_grey(frame: FrameArray) -> Grey:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)


def slopes(grey: Grey, deviation_px: float) -> Grey:
    """Gradient magnitude after a Gaussian blur, in levels per pixel."""
    smooth = cv2.GaussianBlur(grey, (0, 0), deviation_px)
    steepness = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)) / 8
    return steepness.astype(np.float32)
