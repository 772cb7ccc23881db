"""The outline of the lower face: beside the cheeks and below the chin the frame keeps its own pixels.

The networks repaint everything inside of the mask, also background, hair and clothes beside the face, which they cannot know. The
jaw line of the frame tells where these begin. New lips may open wider than the old ones, so there is room below the chin.
"""

from typing import TYPE_CHECKING

import cv2
import numpy as np

from latentsync.face.align import FloatArray, crop_size, transform_points

if TYPE_CHECKING:
    import torch  # slow to import, and not needed to find faces

JAW_POINTS = 17  # from ear to ear, the first of the 68 landmarks; the chin is in the middle
CHIN = JAW_POINTS // 2
WIDEST = 0.35  # opening of the inner lips in speech, over the distance of the eyes
EYES = 0.42  # distance of the eyes over the width of the jaw
CHIN_MARGIN = 0.04  # of the width of the jaw: room below a chin that is as low as it gets, for its shadow
MARGIN, FEATHER = (
    0.015,
    0.03,
)  # of the side of the face: width of the band around the outline, and of the fade beyond it


def lowered(jaw: FloatArray, opening: float) -> FloatArray:
    """A jaw line [17, 2] in frame pixels, with the chin as low as in the widest speech.

    `opening` is that of the mouth over the distance of the eyes, NaN where unknown. The jaw turns around the ears, so a point
    moves by as much as it is below them.
    """
    middle = (jaw[0] + jaw[-1]) / 2
    width, length = (float(np.hypot(*each)) for each in (jaw[-1] - jaw[0], jaw[CHIN] - middle))
    down = (jaw[CHIN] - middle) / max(length, 1e-3)
    still_to_open = WIDEST - (0.0 if np.isnan(opening) else min(opening, WIDEST))
    drop = (EYES * still_to_open + CHIN_MARGIN) * width
    below = np.clip((jaw - middle) @ down / max(length, 1e-3), 0, 1)
    return (jaw + drop * below[:, None] * down).astype(np.float32)


def in_face(jaw: FloatArray, matrix: FloatArray, resolution: int) -> FloatArray:
    """A jaw line [17, 2] in frame pixels, in fractions of the sides of the face that `align_matrix` aligns."""
    size = np.array(crop_size(resolution), np.float32)
    return np.asarray((transform_points(matrix, jaw) + 0.5) / size, np.float32)


def face_region(outline: FloatArray, side: int) -> FloatArray:
    """Where the face is, by its jaw line [17, 2] in fractions of the side: [s, s], 1 inside, and above the ears, 0 outside."""
    ears = outline[[-1, 0]] * np.array([1, 0], np.float32) - np.array([0, 1], np.float32)  # far above the picture
    corners = np.concatenate([outline, ears]) * side
    outside = np.ones((side, side), np.uint8)
    cv2.fillPoly(outside, [np.round(corners - 0.5).astype(np.int32)], 0)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray((1 - (distance / side - MARGIN) / FEATHER).clip(0, 1), np.float32)


def kept_around(detail: "torch.Tensor", outline: FloatArray) -> "torch.Tensor":
    """The `detail` [4, s, s] of `latentsync.face.texture` of one face, with the frame as it is around the face."""
    import torch

    region = torch.from_numpy(face_region(outline, detail.shape[-1]))
    return torch.cat([1 - region * (1 - detail[:1]), region * detail[1:]])
