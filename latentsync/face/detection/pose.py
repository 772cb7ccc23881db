"""Yaw and mouth opening of a face, from 68 landmarks or from an upright grey patch."""

import math

import numpy as np

from latentsync.face.align import FloatArray, FrameArray

EYES = (36, 45)  # outer corners, left and right in the image (Multi-PIE order of the 68 landmarks)
PUPILS = (slice(36, 42), slice(42, 48))
NOSE_TIP = 30
INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # upper and lower, pair by pair
NOSE_DEPTH = 1.0  # depth of the nose tip in front of the outer corners of the eyes, over half their distance

LIPS_DARK, OPENING_DARK = 0.58, 0.36  # brightness over that of the skin: lips are brighter, an opening is darker
MOUTH_FROM_EYES = (-0.38, 0.75, 0.38, 1.65)  # x0, y0, x1, y1 in eye distances from the middle of the eyes
SKIN_FROM_EYES = (-0.55, 0.35, 0.55, 0.70)


def yaw_of_landmarks(landmarks: FloatArray) -> float:
    """Yaw of the head in degrees, positive to the right of the image, from 68 landmarks [68, 2].

    Weak perspective: the nose tip is in front of the plane of the eyes by about half the distance d of their outer corners. So it
    is displaced by d / 2 * sin(yaw) along the line of the eyes, while d shrinks by cos(yaw).
    """
    left, right = landmarks[EYES[0]], landmarks[EYES[1]]
    across = right - left
    half = max(float(np.hypot(*across)) / 2, 1e-3)
    aside = float((landmarks[NOSE_TIP] - (left + right) / 2) @ across) / (2 * half)
    return math.degrees(math.atan(aside / half / NOSE_DEPTH))


def opening_of_landmarks(landmarks: FloatArray) -> float:
    """Distance of the inner lips, mean of three pairs, over the distance of the pupils; 68 landmarks [68, 2]."""
    eyes = [landmarks[part].mean(axis=0) for part in PUPILS]
    lips = np.mean([np.hypot(*(landmarks[low] - landmarks[high])) for high, low in INNER_LIPS])
    return float(lips) / max(float(np.hypot(*(eyes[1] - eyes[0]))), 1e-3)


def opening_of_patch(patch: FrameArray, eyes: FloatArray) -> float:
    """Height of the dark opening of the mouth over the distance of the eyes, in an upright grey patch uint8 [h, w].

    `eyes` [2, 2]: x, y of both eyes in the patch. Pixels that are dark relative to the skin count as open. Teeth and beards make
    this a rough measure, only for comparing frames of one face.
    """
    distance, middle = float(eyes[1, 0] - eyes[0, 0]), eyes.mean(axis=0)
    skin = max(float(np.median(_part(patch, middle, distance, SKIN_FROM_EYES))), 1.0)
    mouth = _part(patch, middle, distance, MOUTH_FROM_EYES).astype(np.float32) / skin
    dark = np.clip((LIPS_DARK - mouth) / (LIPS_DARK - OPENING_DARK), 0, 1)
    return float(dark.sum()) / mouth.shape[1] / distance


def _part(patch: FrameArray, middle: FloatArray, unit: float, part: tuple[float, float, float, float]) -> FrameArray:
    x0, y0, x1, y1 = (round(float(middle[axis % 2]) + unit * share) for axis, share in enumerate(part))
    return patch[y0:y1, x0:x1]
