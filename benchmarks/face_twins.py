"""Degraded twins of a clip: the same frames tilted, turned, dark, small or covered, in which the place of the face is known."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray

GREY = (110, 110, 110)
SMALL_PX = 28
IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


@dataclass(frozen=True)
class KnownFace:
    """The face of an undamaged frame, in its pixels."""

    points: FloatArray  # [3, 2] alignment points
    landmarks: FloatArray  # [68, 2]
    face_px: float

    @property
    def middle(self) -> FloatArray:
        return np.asarray(self.points.mean(axis=0), np.float32)

    @property
    def mouth(self) -> FloatArray:
        return np.asarray(self.landmarks[48:68].mean(axis=0), np.float32)

    @property
    def roll_deg(self) -> float:
        across = self.points[1] - self.points[0]
        return float(np.degrees(np.arctan2(across[1], across[0])))


Twin = Callable[
    [FrameArray, KnownFace, np.random.Generator], tuple[FrameArray, FloatArray]
]  # a frame, and where its pixels went


def tilted(degrees: float) -> Twin:
    def twin(frame: FrameArray, face: KnownFace, rng: np.random.Generator) -> tuple[FrameArray, FloatArray]:
        x, y = (float(value) for value in face.middle)
        matrix = cv2.getRotationMatrix2D((x, y), degrees, 1.0).astype(np.float32)
        return np.asarray(cv2.warpAffine(frame, matrix, frame.shape[1::-1], borderValue=GREY), np.uint8), matrix

    return twin


def turned(quarters: int) -> Twin:
    """The whole frame turned by quarters, counter-clockwise."""

    def twin(frame: FrameArray, face: KnownFace, rng: np.random.Generator) -> tuple[FrameArray, FloatArray]:
        matrix, (h, w) = np.eye(3), frame.shape[:2]
        for _ in range(quarters):
            matrix = np.array([[0, 1, 0], [-1, 0, w - 1], [0, 0, 1]]) @ matrix
            h, w = w, h
        return np.ascontiguousarray(np.rot90(frame, quarters)), matrix[:2].astype(np.float32)

    return twin


def resized(factor: Callable[[KnownFace], tuple[float, float]], on_canvas: bool = False) -> Twin:
    """The frame scaled by the factors x and y, on a grey canvas of the old size if wanted."""

    def twin(frame: FrameArray, face: KnownFace, rng: np.random.Generator) -> tuple[FrameArray, FloatArray]:
        fx, fy = factor(face)
        size = max(8, round(frame.shape[1] * fx)), max(8, round(frame.shape[0] * fy))
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        sx, sy = size[0] / frame.shape[1], size[1] / frame.shape[0]
        matrix = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2]], np.float32)
        if not on_canvas or size[0] >= frame.shape[1]:
            return np.asarray(small, np.uint8), matrix
        canvas = np.full_like(frame, GREY[0])
        left, top = (frame.shape[1] - size[0]) // 2, (frame.shape[0] - size[1]) // 2
        canvas[top : top + size[1], left : left + size[0]] = small
        return canvas, matrix + np.array([[0, 0, left], [0, 0, top]], np.float32)

    return twin


def of_levels(change: Callable[[NDArray[np.float32], KnownFace, np.random.Generator], NDArray[np.floating]]) -> Twin:
    """A change of the grey levels, float32 h w 3 in [0, 255]."""

    def twin(frame: FrameArray, face: KnownFace, rng: np.random.Generator) -> tuple[FrameArray, FloatArray]:
        return np.clip(change(frame.astype(np.float32), face, rng), 0, 255).astype(np.uint8), IDENTITY

    return twin


def side_light(levels: NDArray[np.float32], face: KnownFace, rng: np.random.Generator) -> NDArray[np.floating]:
    """Light from the left: the right half of the face is nearly black."""
    x = (np.arange(levels.shape[1]) - face.middle[0]) / face.face_px
    return levels * (0.08 + 1.1 / (1 + np.exp(8 * x)))[None, :, None]


def noisy(levels: NDArray[np.float32], face: KnownFace, rng: np.random.Generator) -> NDArray[np.floating]:
    return levels + rng.normal(0, 25, levels.shape).astype(np.float32)


def blurred(levels: NDArray[np.float32], face: KnownFace, rng: np.random.Generator) -> NDArray[np.floating]:
    return np.asarray(cv2.GaussianBlur(levels, (0, 0), 0.04 * face.face_px))


def drawn(draw: Callable[[FrameArray, KnownFace], None]) -> Twin:
    """Something drawn over the face."""

    def twin(frame: FrameArray, face: KnownFace, rng: np.random.Generator) -> tuple[FrameArray, FloatArray]:
        copy = frame.copy()
        draw(copy, face)
        return copy, IDENTITY

    return twin


def line(frame: FrameArray, start: NDArray, end: NDArray, colour: tuple[int, int, int], width: float) -> None:
    (x0, y0), (x1, y1) = (tuple(int(value) for value in np.round(point)) for point in (start, end))
    cv2.line(frame, (x0, y0), (x1, y1), colour, max(2, round(width)), cv2.LINE_AA)


def ellipse(
    frame: FrameArray, middle: NDArray, axes: tuple[float, float], turn: float, colour: tuple[int, int, int]
) -> None:
    x, y = (round(float(value)) for value in middle)
    size = max(1, round(axes[0])), max(1, round(axes[1]))
    cv2.ellipse(frame, (x, y), size, turn, 0, 360, colour, -1, cv2.LINE_AA)


def hand(frame: FrameArray, face: KnownFace) -> None:
    """A hand in front of the mouth and the chin, with four fingers."""
    unit, turn = face.face_px, face.roll_deg - 12
    ellipse(frame, face.mouth + [0.1 * unit, 0.05 * unit], (0.42 * unit, 0.2 * unit), turn, (208, 160, 132))
    for finger in range(4):
        middle = face.mouth + [-0.22 * unit, (-0.16 + 0.1 * finger) * unit]
        ellipse(frame, middle, (0.26 * unit, 0.06 * unit), turn, (214 - 6 * finger, 166 - 4 * finger, 138))


def microphone(frame: FrameArray, face: KnownFace) -> None:
    unit, x = face.face_px, face.mouth
    line(frame, x, x + [0.25 * unit, 1.3 * unit], (40, 40, 44), 0.14 * unit)
    ellipse(frame, x + [0, 0.08 * unit], (0.2 * unit, 0.24 * unit), face.roll_deg, (28, 28, 32))


def mask(frame: FrameArray, face: KnownFace) -> None:
    """A medical mask from the bridge of the nose to below the chin."""
    outline = np.concatenate([face.landmarks[[1, 2, 4, 6, 8, 10, 12, 14, 15]], face.landmarks[[28]]])
    cv2.fillPoly(frame, [np.round(outline).astype(np.int32)], (176, 205, 222), cv2.LINE_AA)
    for row in (29, 33, 57):
        ends = face.landmarks[row] + np.array([[-0.25, 0.02], [0.25, 0.02]]) * face.face_px
        line(frame, ends[0], ends[1], (150, 180, 200), 2)


def sunglasses(frame: FrameArray, face: KnownFace) -> None:
    left, right = face.landmarks[36:42].mean(axis=0), face.landmarks[42:48].mean(axis=0)
    for eye in (left, right):
        ellipse(frame, eye, (0.2 * face.face_px, 0.15 * face.face_px), face.roll_deg, (16, 16, 18))
    line(frame, left, right, (16, 16, 18), 0.04 * face.face_px)


def small(face: KnownFace) -> tuple[float, float]:
    return SMALL_PX / face.face_px, SMALL_PX / face.face_px


TWINS: dict[str, Twin] = {
    "as filmed": of_levels(lambda levels, face, rng: levels),
    "tilted 15": tilted(15),
    "tilted -25": tilted(-25),
    "tilted 45": tilted(45),
    "tilted -45": tilted(-45),
    "on its side": turned(1),
    "other side": turned(3),
    "upside down": turned(2),
    "dark 20 %": of_levels(lambda levels, face, rng: levels * 0.2),
    "side light": of_levels(side_light),
    "noise": of_levels(noisy),
    "blur": of_levels(blurred),
    f"{SMALL_PX} px": resized(small),
    f"{SMALL_PX} px, large frame": resized(small, on_canvas=True),
    "squeezed 3:4": resized(lambda face: (0.75, 1.0)),
    "squeezed 1:2": resized(lambda face: (0.5, 1.0)),
    "hand": drawn(hand),
    "microphone": drawn(microphone),
    "mask": drawn(mask),
    "sunglasses": drawn(sunglasses),
}
