"""Which of the 468 points of the face mesh are which: the 68 landmarks, alignment points, lips, lids, and the pose of the head.

Points are x, y, z in frame pixels, z away from the camera; left and right are those of the image.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.face.align import FloatArray
from latentsync.face.detection.pose import PUPILS

POINTS = 468
# The 68 landmarks (Multi-PIE order), each the mean of one or two points of the mesh. Brows are annotated along their middle,
# between two rows of the mesh. On ten frontal faces the mean brow is then at (0.58, -0.31) and the mean of 27 to 35 at 0.50 eye
# distances from the middle of the eyes; in the mean shape of annotated faces they are at (0.57, -0.30) and 0.53.
JAW = ((127,), (234,), (93,), (58,), (172,), (136,), (149,), (148,), (152,))
JAW_RIGHT = ((377,), (378,), (365,), (397,), (288,), (323,), (454,), (356,))
BROWS = ((70, 46), (63, 53), (105, 52), (66, 65), (107, 55), (336, 285), (296, 295), (334, 282), (293, 283), (300, 276))
NOSE = ((168, 6), (197,), (5,), (4, 1), (98,), (97,), (2,), (326,), (327,))
EYES = ((33,), (160,), (158,), (133,), (153,), (144,), (362,), (385,), (387,), (263,), (373,), (380,))
OUTER_LIPS = ((61,), (39,), (37,), (0,), (267,), (269,), (291,), (405,), (314,), (17,), (84,), (181,))
INNER_LIPS = ((78,), (81,), (13,), (311,), (308,), (402,), (14,), (178,))
LANDMARKS = (*JAW, *JAW_RIGHT, *BROWS, *NOSE, *EYES, *OUTER_LIPS, *INNER_LIPS)
FIRST, SECOND = (np.array([group[end] for group in LANDMARKS]) for end in (0, -1))

EYE_CORNERS = (33, 133, 362, 263)  # outer and inner left, inner and outer right
TEMPLES, FOREHEAD, CHIN = (127, 356), 10, 152
RIGID_OUTLINE = (10, 338, 297, 332, 284, 251, 389, 356, 330, 327, 2, 98, 101, 127, 162, 21, 54, 103, 67, 109)
EYE_OUTLINES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
)
BROW = 0.5  # thickness of a brow and the skin that it moves, over its length
LIP_PAIRS = ((81, 178), (13, 14), (311, 402))  # inner lips, upper and lower
LID_PAIRS = (((160, 144), (158, 153)), ((385, 380), (387, 373)))  # of each eye, upper and lower
CHIN_PITCH_DEG = 4.0  # of the line from forehead to chin of a head that looks straight ahead


@dataclass(frozen=True)
class FaceTruth:
    """What the mesh says about a face."""

    opening: float  # of the inner lips over the distance of the eyes' middles
    width: float  # of the lips, in the same unit
    eyes_open: tuple[float, float]  # height over width of each eye, left and right: about 0.3 open, below 0.15 closed
    yaw_deg: float  # turn to the image's right
    pitch_deg: float  # of a head that looks down
    roll_deg: float  # clockwise in the image


def eye_centres(mesh: FloatArray) -> FloatArray:
    """Middles [2, 2] of both eyes of a mesh [468, 3 or 2]."""
    landmarks = landmarks_of_mesh(mesh)
    return np.stack([landmarks[part].mean(axis=0) for part in PUPILS]).astype(np.float32)


def landmarks_of_mesh(mesh: FloatArray) -> FloatArray:
    """The 68 landmarks [68, 2]."""
    return ((mesh[FIRST, :2] + mesh[SECOND, :2]) / 2).astype(np.float32)


def truth_of_mesh(mesh: FloatArray) -> FaceTruth:
    """Opening, width, lids and pose of a mesh [468, 3]."""
    eyes = eye_centres(mesh)
    unit = max(
        float(np.linalg.norm(np.diff(mesh[[33, 263]], axis=0))) * 0.69, 1e-3
    )  # the eyes' distance, also of a turned head
    opening = np.mean([np.linalg.norm(mesh[low] - mesh[high]) for high, low in LIP_PAIRS]) / unit
    width = np.linalg.norm(mesh[61] - mesh[291]) / unit
    lids = []
    for corners, pairs in zip(((33, 133), (362, 263)), LID_PAIRS, strict=True):
        height = np.mean([np.linalg.norm(mesh[low] - mesh[high]) for high, low in pairs])
        lids.append(float(height / max(np.linalg.norm(mesh[corners[1]] - mesh[corners[0]]), 1e-3)))
    across = mesh[TEMPLES[1]] - mesh[TEMPLES[0]]
    down = mesh[CHIN] - mesh[FOREHEAD]
    roll = math.atan2(float(eyes[1, 1] - eyes[0, 1]), float(eyes[1, 0] - eyes[0, 0]))
    level = math.hypot(float(across[0]), float(across[1]))
    yaw = math.degrees(math.atan2(float(across[2]), level))
    pitch = math.degrees(math.atan2(float(down[2]), math.hypot(float(down[0]), float(down[1])))) - CHIN_PITCH_DEG
    return FaceTruth(float(opening), float(width), (lids[0], lids[1]), yaw, pitch, math.degrees(roll))


def rigid_mask(mesh: FloatArray, size: tuple[int, int]) -> np.ndarray:
    """Mask uint8 [h, w] of the part of a face that does not move in speech, without eyes and brows."""
    mask = np.zeros(size[::-1], np.uint8)
    hull = cv2.convexHull(mesh[list(RIGID_OUTLINE), :2].astype(np.float32))
    cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 255)
    for outline in EYE_OUTLINES:
        cv2.fillPoly(mask, [np.round(mesh[list(outline), :2]).astype(np.int32)], 0)
    for brow in (BROWS[:5], BROWS[5:]):
        middle = np.array([mesh[list(pair), :2].mean(axis=0) for pair in brow])
        thickness = round(BROW * float(np.ptp(middle[:, 0])))
        cv2.polylines(mask, [np.round(middle).astype(np.int32)], False, 0, thickness)
    return mask
