"""Faces in single pictures of a video, for the page: where they are, and which one a user means.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

from collections.abc import Hashable, Sequence
from threading import Lock

import cv2
import numpy as np

from latentsync.face.align import FrameArray
from latentsync.face.detection.detector import Box, FaceDetector, make_detector
from latentsync.inference.faces.select import NEAR_SEC, parse_face_choice

REMEMBERED = 16  # pictures
CHOSEN, OTHER, INK = (60, 200, 90), (255, 140, 40), (16, 18, 22)  # RGB


class FaceFinder:
    """Finds the faces of single pictures, with a detector of its own: the worker's follows a video meanwhile."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._detector: FaceDetector | None = None
        self._known: dict[Hashable, list[Box]] = {}

    def boxes(self, key: Hashable, frame: FrameArray) -> list[Box]:
        """Boxes of all faces of a frame, from left to right, in its pixels; `key` identifies the frame."""
        with self._lock:
            if key not in self._known:
                while len(self._known) >= REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._detector = self._detector or make_detector()
                self._detector.reset()
                self._known[key] = sorted(face.box for face in self._detector.faces(frame))
            return self._known[key]


def nearest(boxes: Sequence[Box], x: float, y: float) -> int | None:
    """The number (from 0) of the box that a place is in, or else nearest to; None if there is no box."""

    def distance(number: int) -> tuple[float, float]:
        x0, y0, x1, y1 = boxes[number]
        outside = np.hypot(max(x0 - x, 0, x - x1), max(y0 - y, 0, y - y1))
        return float(outside), float(np.hypot((x0 + x1) / 2 - x, (y0 + y1) / 2 - y))

    return min(range(len(boxes)), key=distance, default=None)


def place_of(box: Box, time_sec: float) -> str:
    """The middle of a face as a choice of the face: x,y@seconds."""
    x0, y0, x1, y1 = box
    return f"{(x0 + x1) / 2:.0f},{(y0 + y1) / 2:.0f}@{time_sec:.2f}"


def chosen_of(boxes: Sequence[Box], face: str, time_sec: float) -> int | None:
    """The number of the box that a choice of the face means in the frame of this time; None if it means none of them."""
    try:
        choice = parse_face_choice(face)
    except ValueError:
        return None
    if choice.kind != "place" or abs(choice.time_sec - time_sec) > NEAR_SEC:
        return None
    return nearest(boxes, choice.x, choice.y)


def framed(picture: FrameArray, boxes: Sequence[Box], scale: float, chosen: int | None) -> FrameArray:
    """The picture with a frame and a number, from 1, at each box, which are in pixels of the video."""
    shown = picture.copy()
    for number, box in enumerate(boxes):
        x0, y0, x1, y1 = (round(side * scale) for side in box)
        colour = CHOSEN if number == chosen else OTHER
        cv2.rectangle(shown, (x0, y0), (x1, y1), INK, 5 if number == chosen else 4)
        cv2.rectangle(shown, (x0, y0), (x1, y1), colour, 3 if number == chosen else 2)
        cv2.rectangle(shown, (x0, y0), (x0 + 26, y0 + 26), colour, cv2.FILLED)
        cv2.putText(shown, str(number + 1), (x0 + 6, y0 + 20), cv2.FONT_HERSHEY_SIMPLEX, 0.7, INK, 2, cv2.LINE_AA)
    return shown


def face_of(frame: FrameArray, box: Box) -> FrameArray:
    """A face with what is around it."""
    x0, y0, x1, y1 = box
    around = (x1 - x0) / 4
    rows, columns = (
        slice(max(0, round(y0 - around)), round(y1 + around)),
        slice(max(0, round(x0 - around)), round(x1 + around)),
    )
    return np.ascontiguousarray(frame[rows, columns])
