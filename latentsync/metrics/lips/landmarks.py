"""Distances between facial landmarks: 68 points in Multi-PIE order, [t, 68, 2] in frame pixels, NaN without a face."""

import numpy as np
from numpy.typing import NDArray

OUTER_EYES = (36, 45)
MOUTH = slice(48, 68)
INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # upper, lower


def inter_ocular(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance [t] in pixels between the outer corners of the eyes, the unit of the other distances."""
    left, right = (landmarks[:, index].astype(np.float64) for index in OUTER_EYES)
    return np.linalg.norm(right - left, axis=-1)


def landmark_distance(result: NDArray[np.floating], truth: NDArray[np.floating], part: slice = MOUTH) -> float:
    """Mean distance between the mouth landmarks and the true ones, in inter-ocular distances; 0 = equal.

    This is the error of 300-W (Sagonas et al. 2013). Frames in which one of the two has no face are ignored.

    Raises:
        ValueError: the videos differ in length, or no frame has both faces.
    """
    if len(result) != len(truth):
        raise ValueError(
            f"Landmarks of {len(result)} and {len(truth)} frames cannot be compared: the numbers must be equal."
        )
    errors = np.linalg.norm((result[:, part] - truth[:, part]).astype(np.float64), axis=-1).mean(axis=1)
    normalised = errors / inter_ocular(truth)
    known = np.isfinite(normalised)
    if not known.any():
        raise ValueError("No frame shows a face in both videos, so their landmarks cannot be compared.")
    return float(normalised[known].mean())


def landmark_aperture(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Lip opening [t] in inter-ocular distances: the mean distance of three pairs of inner-lip points."""
    gaps = [np.linalg.norm((landmarks[:, a] - landmarks[:, b]).astype(np.float64), axis=-1) for a, b in INNER_LIPS]
    return np.asarray(np.mean(gaps, axis=0) / inter_ocular(landmarks))
