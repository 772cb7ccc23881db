"""Regions of a frame that are compared separately: inside the network's mask, outside it, and a ring at its border."""

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, crop_size, invert_matrix
from latentsync.face.masks import mask_image

RESOLUTION = 256  # px; side of the aligned face of all matrices in the evaluation
RING_PX = 8  # width of the ring, half of it inside the mask and half outside
REGIONS = ("full", "inside", "outside", "ring")


def frame_regions(matrix: FloatArray, frame_hw: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """Weights [h, w], 0 or 1, of each of `REGIONS`; `matrix` [2, 3] maps the frame to the aligned face at `RESOLUTION`."""
    inside = generated_region(matrix, frame_hw)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (RING_PX + 1, RING_PX + 1))
    ring = cv2.dilate(inside, kernel) - cv2.erode(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    parts = {"full": np.ones_like(inside), "inside": inside, "outside": 1 - inside, "ring": ring}
    return {name: np.asarray(part, np.float32) for name, part in parts.items()}


def generated_region(matrix: FloatArray, frame_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The region of a frame that the network generates, uint8 [h, w], 1 = generated; `matrix` as in `frame_regions`."""
    crop = cv2.resize(255 - mask_image(), crop_size(RESOLUTION), interpolation=cv2.INTER_LINEAR)
    warped = cv2.warpAffine(crop, invert_matrix(matrix), frame_hw[::-1], flags=cv2.INTER_LINEAR)
    return np.asarray(warped >= 128, np.uint8)


def face_region(side: int) -> NDArray[np.float32]:
    """The generated region of an aligned face, float32 [side, side], 1 = generated."""
    image = cv2.resize(255 - mask_image(), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(image >= 128, np.float32)
