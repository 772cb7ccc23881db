"""Temporal steadiness: jitter of a series, and jumps at the borders of windows that were generated separately."""

import numpy as np
from numpy.typing import NDArray

WINDOW_FRAMES = 16  # frames that the public models generate at once


def jitter(series: NDArray[np.floating]) -> float:
    """Root mean square of the acceleration (second difference) of a series [t] or of points [t, ..., d], 0 = steady.

    The unit is that of the series per frame squared; of points the norm is taken. Entries next to NaN are ignored.

    Raises:
        ValueError: there are no three consecutive values.
    """
    acceleration = np.diff(np.asarray(series, np.float64), n=2, axis=0)
    squares = acceleration**2 if acceleration.ndim == 1 else (acceleration**2).sum(axis=-1)
    squares = squares[np.isfinite(squares)]
    if squares.size == 0:
        raise ValueError(
            "Jitter needs three consecutive frames with a face: the video is too short, or shows a face too rarely."
        )
    return float(np.sqrt(squares.mean()))


def seam_jump(changes: NDArray[np.floating], window: int = WINDOW_FRAMES) -> float | None:
    """Relative excess of the frame-to-frame change at window borders: 0 = no seam, 1 = twice as large.

    Entry i of `changes` [t - 1] is the change from frame i to i + 1, NaN where unknown. There is a border before each frame whose
    number is a multiple of `window`. None if there is no border, or nothing moves elsewhere.

    Raises:
        ValueError: the window is shorter than two frames.
    """
    if window < 2:
        raise ValueError(
            f"A window has at least 2 frames, not {window}: give the number of frames that were generated at once."
        )
    at_border = (np.arange(len(changes)) + 1) % window == 0
    known = np.isfinite(changes)
    borders, others = changes[at_border & known], changes[~at_border & known]
    if len(borders) == 0 or len(others) == 0 or others.mean() <= 0:
        return None
    return float(borders.mean() / others.mean()) - 1
