"""Descriptor of the lower face, used to distinguish frames in which it is covered from those in which it is visible.

Mouth, chin and cheeks in an upright patch are divided into a grid of cells. The descriptor holds the mean CIELAB colour of each
cell, relative to the face between brows and nose, and its mean gradient. Both are scaled as if the face between brows and nose had
the same lightness in every frame, so that the illumination of the whole face cancels.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray, warp_region
from latentsync.face.appearance import thumbnail_matrix

LEFT, TOP, SIZE = 28, 40, (40, 52)  # of the patch, in pixels of `appearance.thumbnail`: w, h
UPPER_ROWS = 14  # of the patch: the upper face, to which colours are relative
LOWER_FROM = 12  # first row of the cells
COLUMNS, ROWS, CHANNELS = 3, 4, 4
LENGTH = ROWS * COLUMNS * CHANNELS
# CIELAB lightness to which every upper face is scaled, and the lightness that limits this gain: dark pixels are noisy
LIGHT, DARKEST = 60.0, 20.0
# factors from OpenCV's 8-bit CIELAB, which also adds 128 to a and b
TO_CIELAB = np.array([100 / 255, 1, 1], np.float32)
TOE = 16.0  # L = 116 * cube root of light - 16: light scales L + 16, a and b
GRADIENT_UNIT = 6.0  # scale of log gradients relative to CIELAB units
LIP_ROW = 1  # row of cells with the lips of most faces
MOST_RED = 24.0  # CIELAB units: lips, also with lipstick, are below

LowerFaces = NDArray[np.int8]  # [..., LENGTH]


def lower_face_descriptor(frame: FrameArray, points: FloatArray) -> LowerFaces:
    """int8 [LENGTH] for a face with alignment points [3, 2] in a frame uint8 h w 3: L, a, b, gradient of each cell, row by row."""
    matrix = thumbnail_matrix(points) - np.array([[0, 0, LEFT], [0, 0, TOP]], np.float32)
    patch = cv2.cvtColor(warp_region(frame, matrix, SIZE), cv2.COLOR_RGB2LAB).astype(np.float32)
    patch = patch * TO_CIELAB + np.array([TOE, -128, -128], np.float32)
    upper = np.median(patch[:UPPER_ROWS].reshape(-1, 3), axis=0)
    brighter = (LIGHT + TOE) / max(float(upper[0]), DARKEST + TOE)
    lower = brighter * patch[LOWER_FROM:]
    colours = _cells(lower) - brighter * upper
    light = lower[..., 0]
    gradients = np.abs(np.diff(light, axis=1))[:-1] + np.abs(np.diff(light, axis=0))[:, :-1]
    cells = np.dstack([colours, GRADIENT_UNIT * np.log1p(_cells(gradients))])
    return np.clip(np.round(cells), -127, 127).astype(np.int8).ravel()


def _cells(values: FloatArray) -> FloatArray:
    return np.asarray(cv2.resize(values, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA), dtype=np.float32)


def redness_of_lips(lower_faces: NDArray[np.integer]) -> float:
    """CIELAB a of the mouth minus that of the skin or beard on both sides, of the median descriptor of [n, LENGTH].

    About 2 to 16 where lips are visible, for all skin colours; about 0 or less where a hand, cup, microphone or mask covers them.
    Values above those of lips are returned as 0.
    """
    median = np.median(lower_faces, axis=0).reshape(ROWS, COLUMNS, CHANNELS)
    left, mouth, right = median[LIP_ROW, :, 1]
    redness = float(mouth - (left + right) / 2)
    return redness if redness <= MOST_RED else 0.0
