"""How sharp and how clean an aligned face is, measured without a network: a stand-in for a learned image quality.

Blur is read off the strongest edges: a step edge blurred by a Gaussian of deviation b has, after a further Gaussian of
deviation s, a slope in proportion to 1 / sqrt(b^2 + s^2), so that the slopes at two scales give b (Elder and Zucker, 1998).
Noise is read off the smoothest part (Immerkaer, 1996). Both know nothing of expression, light or compression.

Tensor legend: a frame is uint8 [0, 255] `h w 3`, RGB; grey is float32 [0, 255] `h w`.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

FrameArray = NDArray[np.uint8]
Grey = NDArray[np.float32]

FINE, COARSE = 1.0, 2.0  # px, deviations of the two further Gaussians
EDGE_SHARE = 0.03  # of the pixels, those with the steepest slopes
SMOOTH_SHARE = 0.3  # of the pixels, those with the gentlest slopes
NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # blind to slopes and steps along the axes
REFERENCE_PX = 256  # side of the face in whose pixels blur is told
MAX_BLUR_PX = 20.0
HALF_BLUR_PX, HALF_NOISE = 3.0, 8.0  # at which the score is halved


def sharpness(frame: FrameArray) -> float:
    """Score of one aligned face, 0 ... 100: halved by a blur of 3 px of a 256 px face, and by noise of 8 levels of 255."""
    blur = blur_px(frame) / HALF_BLUR_PX
    noise = noise_levels(frame) / HALF_NOISE
    return 100.0 / (1 + blur**2) / (1 + noise**2)


def blur_px(frame: FrameArray) -> float:
    """Deviation of the Gaussian blur of the strongest edges, in pixels of a 256 px face; `MAX_BLUR_PX` at most."""
    grey = to_grey(frame)
    fine, coarse = slopes(grey, FINE), slopes(grey, COARSE)
    strong = coarse >= np.quantile(coarse, 1 - EDGE_SHARE)
    ratio = float(np.median(fine[strong] / np.maximum(coarse[strong], 1e-3)))
    if ratio <= 1.0:
        return MAX_BLUR_PX
    square = max(0.0, (COARSE**2 - (ratio * FINE) ** 2) / (ratio**2 - 1))
    return min(MAX_BLUR_PX, float(np.sqrt(square)) * REFERENCE_PX / frame.shape[1])


def noise_levels(frame: FrameArray) -> float:
    """Deviation of the noise in the smoothest part of a frame, in levels of 255."""
    grey = to_grey(frame)
    gentle = slopes(grey, 2 * COARSE)
    smooth = gentle <= np.quantile(gentle, SMOOTH_SHARE)
    response = cv2.filter2D(grey, cv2.CV_32F, NOISE_KERNEL)
    return float(np.sqrt(np.square(response[smooth]).mean() / np.square(NOISE_KERNEL).sum()))


def to_grey(frame: FrameArray) -> Grey:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)


def slopes(grey: Grey, deviation_px: float) -> Grey:
    """Steepness of a picture after a Gaussian, in levels per pixel."""
    smooth = cv2.GaussianBlur(grey, (0, 0), deviation_px)
    steepness = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)) / 8
    return steepness.astype(np.float32)
