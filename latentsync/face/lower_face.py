"""What the lower face looks like, as a few whole numbers: to tell frames in which it is covered from those in which it is free.

A grid of cells lies over mouth, chin and the cheeks beside them, in an upright patch. A cell has its mean CIELAB colour, measured
against the face between brows and nose, and its mean gradient. Both are taken as if the face between brows and nose had the same
lightness in every frame, so that light on the whole face cancels.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray, warp_region
from latentsync.face.appearance import thumbnail_matrix

LEFT, TOP, SIZE = 28, 40, (40, 52)  # of the patch, in pixels of `appearance.thumbnail`: w, h
UPPER_ROWS = 14  # of the patch: the face that colours are measured against
LOWER_FROM = 12  # row from which on the cells lie
COLUMNS, ROWS, CHANNELS = 3, 4, 4
LENGTH = ROWS * COLUMNS * CHANNELS
# CIELAB lightness that every upper face is given, and the least that counts: darkness is noisy
LIGHT, DARKEST = 60.0, 20.0
TO_CIELAB = np.array([100 / 255, 1, 1], np.float32)  # from OpenCV's 8-bit form, which also adds 128 to a and b
TOE = 16.0  # lightness is 116 times the cube root of light, less this: what light multiplies is L + 16, a and b
GRADIENT_UNIT = 6.0  # of the logarithm of a mean gradient, beside CIELAB units
LIP_ROW = 1  # of the cells, in which the lips of most faces lie
MOST_RED = 18.0  # CIELAB units: lips, painted ones too, stay below

LowerFaces = NDArray[np.int8]  # [..., LENGTH]


def lower_face_descriptor(frame: FrameArray, points: FloatArray) -> LowerFaces:
    """int8 [LENGTH] of a frame uint8 h w 3 by its alignment points [3, 2]: L, a, b and gradient of every cell, row by row."""
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
    """How much redder (CIELAB a) the mouth is than the skin or beard on both sides of it, in the median of [n, LENGTH].

    About 2 to 16 where lips are seen, whatever the skin; about 0 or less behind a hand, a cup, a microphone or a mask. What is
    redder than lips counts as none.
    """
    median = np.median(lower_faces, axis=0).reshape(ROWS, COLUMNS, CHANNELS)
    left, mouth, right = median[LIP_ROW, :, 1]
    redness = float(mouth - (left + right) / 2)
    return redness if redness <= MOST_RED else 0.0
