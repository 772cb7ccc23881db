"""How steady a result is in time: jitter of a series, and the jump between windows that were made apart."""

import numpy as np
from numpy.typing import NDArray

WINDOW_FRAMES = 16  # frames that the public models make together


def jitter(series: NDArray[np.floating]) -> float:
    """Root mean square of the acceleration (second difference) of a series [t] or of points [t, ..., d], 0 = steady.

    In the series' unit a frame squared; for points the length of the acceleration counts. Stretches with NaN are left out.

    Raises:
        ValueError: there are no three frames in a row.
    """
    acceleration = np.diff(np.asarray(series, np.float64), n=2, axis=0)
    squares = acceleration**2 if acceleration.ndim == 1 else (acceleration**2).sum(axis=-1)
    squares = squares[np.isfinite(squares)]
    if squares.size == 0:
        raise ValueError("Jitter needs three frames in a row: the video is too short or shows no face for long.")
    return float(np.sqrt(squares.mean()))


def seam_jump(changes: NDArray[np.floating], window: int = WINDOW_FRAMES) -> float | None:
    """How much larger the change from frame to frame is at window borders: 0 = no seam, 1 = twice as large.

    `changes` [t - 1], entry i is of frames i and i + 1, NaN where it is not known. A border lies before every frame whose
    number is a multiple of `window`. None if there is no border, or nothing moves elsewhere.

    Raises:
        ValueError: the window is shorter than two frames.
    """
    if window < 2:
        raise ValueError(f"A window of {window} frames has no seams: give the number of frames made together.")
    at_border = (np.arange(len(changes)) + 1) % window == 0
    known = np.isfinite(changes)
    borders, others = changes[at_border & known], changes[~at_border & known]
    if len(borders) == 0 or len(others) == 0 or others.mean() <= 0:
        return None
    return float(borders.mean() / others.mean()) - 1
