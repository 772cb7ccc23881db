"""Motion of a head between two frames, and points that follow it without trembling.

The optical flow (Lucas and Kanade, 1981) of the rigid upper face tells how the head moved, precisely and without lag, but drifts.
Measured landmarks do not drift, but tremble. So the points move with the flow and are drawn to the landmarks by a small share; a
larger difference is followed as far as the frame before already showed it, so that no single wrong look moves them.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray

MAX_FEATURES, LEAST_FEATURES = 70, 10
WINDOW, LEVELS = (17, 17), 3
STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 15, 0.02)  # of a feature's flow: steps, pixels
ROUNDS = 6  # of the robust fit, at most
SETTLED = 0.01  # change of the weights after which there is no other round
LEAST_SHARE = 0.4  # of the features that agree with the common motion
SLACK = 2.5  # patch pixels from the common motion at which a feature is ignored: heads also turn out of the plane
GAIN, TOP_GAIN = (
    0.1,
    0.6,
)  # share of a difference that is corrected in a frame: of a tiny one, and of a large confirmed one
LARGE = 2.0  # patch pixels
UNCONFIRMED = 0.25  # patch pixels by which an unconfirmed difference may move the points
MAX_STEP = 1.5  # patch pixels by which a confirmed one may move them in a frame


def head_motion(before: FrameArray, after: FrameArray, rigid: NDArray[np.uint8]) -> FloatArray | None:
    """Similarity [2, 3] from a grey patch to the next, uint8 [h, w], of the features in the mask `rigid`; None if they disagree."""
    x, y, w, h = cv2.boundingRect(rigid)
    part = slice(y, y + h), slice(x, x + w)
    features = cv2.goodFeaturesToTrack(before[part], MAX_FEATURES, 0.01, 5, mask=rigid[part]) if w and h else None
    if features is None or len(features) < LEAST_FEATURES:
        return None
    start = np.asarray(features, dtype=np.float32) + np.array([x, y], np.float32)
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        before, after, start, start.copy(), winSize=WINDOW, maxLevel=LEVELS, criteria=STOP
    )
    kept = np.asarray(status).ravel() == 1
    if kept.sum() < LEAST_FEATURES:
        return None
    motion, weights = fitted(start[kept, 0], np.asarray(moved)[kept, 0])
    return motion if (weights > 0.2).sum() >= max(LEAST_FEATURES, LEAST_SHARE * len(features)) else None


def fitted(start: FloatArray, end: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The similarity [2, 3] from points to points [n, 2], by least squares with Tukey's weights, and these weights [n]."""
    z, w = start[:, 0] + 1j * start[:, 1], end[:, 0] + 1j * end[:, 1]
    shift = w - z
    near = np.abs(shift - (np.median(shift.real) + 1j * np.median(shift.imag)))
    weights = tukey(near, 3 * SLACK)
    turn, offset = 1 + 0j, 0j
    for _ in range(ROUNDS):
        total = max(float(weights.sum()), 1e-9)
        mean_z, mean_w = (weights * z).sum() / total, (weights * w).sum() / total
        spread = float((weights * np.abs(z - mean_z) ** 2).sum())
        turn = (weights * np.conj(z - mean_z) * (w - mean_w)).sum() / spread if spread > 1e-9 else 1 + 0j
        offset = mean_w - turn * mean_z
        residual = np.abs(turn * z + offset - w)
        last, weights = weights, tukey(residual, max(0.5, min(SLACK, 5 * float(np.median(residual)))))
        if np.abs(weights - last).max() < SETTLED:
            break
    matrix = [[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]]
    return np.array(matrix, dtype=np.float32), weights.astype(np.float32)


def tukey(distance: NDArray[np.floating], reach: float) -> NDArray[np.floating]:
    """Weights in [0, 1] that fall to 0 at `reach`."""
    return np.clip(1 - (distance / reach) ** 2, 0, None) ** 2


def steadied(moved: FloatArray, measured: FloatArray, pending: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Points [n, 2] that moved with the head, drawn to the measured ones; all in patch pixels.

    `pending` [n, 2] is the difference that the frame before left; the new one is returned beside the points.
    """
    difference = measured - moved
    size, before = (float(np.hypot(*each.T).max()) for each in (difference, pending))
    agreement = float((difference * pending).sum()) / max(
        float(np.linalg.norm(difference) * np.linalg.norm(pending)), 1e-9
    )
    confirmed = min(size, before) * max(0.0, agreement)
    gain = GAIN + (TOP_GAIN - GAIN) * min(1.0, confirmed / LARGE)
    limit = min(MAX_STEP, UNCONFIRMED + confirmed)
    step = difference * np.float32(min(gain, limit / max(size, 1e-9)))
    return moved + step, difference - step
