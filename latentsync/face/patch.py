"""Small upright patches of a frame, averaged down where the face is large; only the region that is shown is read."""

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray, invert_matrix, rescaled, transform_points


def shrunk_region(
    frame: FrameArray, matrix: FloatArray, size: tuple[int, int]
) -> tuple[FrameArray, NDArray[np.float64]]:
    """The region of a frame (uint8 h w 3) that a w x h patch shows, about at the patch's scale; and its own matrix.

    `matrix` [2, 3] maps the frame to the patch; the returned one, float64 [2, 3], maps the shrunk region to the patch.
    """
    w, h = size
    corners = transform_points(invert_matrix(matrix), np.array([[0, 0], [w, 0], [0, h], [w, h]]))
    limit = np.array(frame.shape[1::-1])
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, limit - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, low + 1, limit)
    step = max(1, int(1 / np.hypot(*matrix[0, :2])))
    cells = np.maximum(1, np.minimum(-(-(high - low) // step), (limit - low) // step))  # whole ones: twice as fast
    high = np.minimum(low + cells * step, limit)
    region = frame[low[1] : high[1], low[0] : high[0]]
    small = cv2.resize(region, (int(cells[0]), int(cells[1])), interpolation=cv2.INTER_AREA)
    ratio = region.shape[1] / small.shape[1], region.shape[0] / small.shape[0]
    return np.asarray(small, dtype=np.uint8), rescaled(matrix, ratio, (int(low[0]), int(low[1])))


def warp_region(frame: FrameArray, matrix: FloatArray, size: tuple[int, int]) -> FrameArray:
    """The patch, uint8 [h, w, 3], of a frame; the frame's border is repeated outside of it."""
    small, inner = shrunk_region(frame, matrix, size)
    return np.asarray(cv2.warpAffine(small, inner, size, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)


def warp_grey(frame: FrameArray, matrix: FloatArray, size: tuple[int, int]) -> FrameArray:
    """The same in grey, uint8 [h, w]."""
    small, inner = shrunk_region(frame, matrix, size)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.warpAffine(grey, inner, size, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)
