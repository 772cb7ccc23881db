"""Face search in a whole frame with two small networks: BlazeFace (Bazarevsky et al., 2019) and YuNet (Wu et al., 2023).

BlazeFace looks at the frame reduced to 128 pixels: a few milliseconds, faces from about a tenth of the frame, at any tilt. YuNet
looks at a larger copy and finds small and far faces that are about upright. OpenCV runs both.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray, invert_matrix, transform_points

BLAZE_SIDE = 128  # input of BlazeFace
BLAZE_CELLS = ((16, 2), (8, 6))  # cells along a side, anchors in each
BLAZE_SCORE = 0.5
YUNET_SCORE, YUNET_OVERLAP, YUNET_TOP = 0.6, 0.3, 50
SAME_FACE = 0.3  # intersection over union from which two boxes are one face
DARK, BRIGHT = 70, 115  # mean grey level below which a picture is brightened, and to which


@dataclass(frozen=True)
class Candidate:
    """A face of a search, in frame pixels."""

    centre: FloatArray  # [2] of the box
    side: float  # longer side of the upright box, from the forehead to the chin
    eyes: FloatArray  # [2, 2] left and right in the upright face
    score: float  # 0..1


def read_tflite(path: Path) -> cv2.dnn.Net:
    """A TensorFlow Lite network in OpenCV; ValueError if this build cannot read it."""
    engine = getattr(cv2.dnn, "ENGINE_CLASSIC", None)  # the new engine of OpenCV 5 returns the first output only
    try:
        return cv2.dnn.readNetFromTFLite(str(path), *([] if engine is None else [engine]))
    except (cv2.error, AttributeError) as error:
        raise ValueError(f"OpenCV {cv2.__version__} cannot read {path}: install opencv-python 4.9 or newer.") from error


def planes(picture: FrameArray, low: float, high: float) -> FloatArray:
    """A picture uint8 h w 3 as a batch float32 [1, 3, h, w] in [low, high]."""
    scaled = picture.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def brightened(picture: FrameArray) -> FrameArray:
    """A picture uint8; if it is dark, its levels are raised by a power curve to a mean of about `BRIGHT`."""
    mean = float(np.mean(cv2.mean(picture)[: picture.shape[2]]))
    if not 0 < mean < DARK:
        return picture
    stretched = np.arange(256) / max(float(np.percentile(picture, 99.5)), 8.0)
    level = np.clip(mean / max(float(np.percentile(picture, 99.5)), 8.0), 0.02, 0.98)
    power = np.clip(np.log(BRIGHT / 255) / np.log(level), 0.3, 1.0)
    table = np.clip(255 * np.clip(stretched, 0, 1) ** power, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table), dtype=np.uint8)


def grey_of(picture: FrameArray) -> FrameArray:
    """A picture uint8 h w 3 in grey, uint8 [h, w]."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def reduced(frame: FrameArray, side: int, turn_deg: float = 0.0, square: bool = False) -> tuple[FrameArray, FloatArray]:
    """A copy of the frame (uint8 h w 3) turned about its middle, whose longer side is `side`, and the matrix [2, 3] to it.

    A `square` copy shows the whole frame with grey borders.
    """
    h, w = frame.shape[:2]
    scale = side / max(h, w)
    turn = np.radians(turn_deg)
    linear = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    if square:
        size = (side, side)
    else:
        extent = np.abs(linear) @ np.array([w, h])
        size = (max(32, round(float(extent[0]))), max(32, round(float(extent[1]))))
    shrink = max(1, int(0.5 / scale))  # first by area, so that the warp does not alias
    small = cv2.resize(frame, (w // shrink, h // shrink), interpolation=cv2.INTER_AREA) if shrink > 1 else frame
    middle = np.array([w - 1, h - 1]) / 2
    offset = (np.array(size) - 1) / 2 - linear @ middle
    matrix = np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)
    ratio = np.array([w / small.shape[1], h / small.shape[0]])
    inner = np.concatenate([linear * ratio, (linear @ ((ratio - 1) / 2) + offset)[:, None]], axis=1)
    warped = cv2.warpAffine(small, inner, size, flags=cv2.INTER_LINEAR, borderValue=(110, 110, 110))
    return np.asarray(warped, dtype=np.uint8), matrix


class BlazeFace:
    """The short-range model: boxes and six points of each face in a square picture of 128 pixels."""

    def __init__(self, path: Path) -> None:
        self.network = read_tflite(path)
        cells = [(n, (np.arange(n) + 0.5) / n, count) for n, count in BLAZE_CELLS]
        grids = [
            np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2).repeat(count, axis=0) for _, line, count in cells
        ]
        self.anchors = np.concatenate(grids).astype(np.float32) * BLAZE_SIDE  # [896, 2] x, y

    def find(self, frame: FrameArray, turn_deg: float = 0.0, least: float = BLAZE_SCORE) -> list[Candidate]:
        """Faces of the frame (uint8 h w 3, RGB), turned by `turn_deg`, the most certain first."""
        picture, matrix = reduced(frame, BLAZE_SIDE, turn_deg, square=True)
        self.network.setInput(planes(picture, -1, 1))
        logits, offsets = self.network.forward(["classificators", "regressors"])
        scores = 1 / (1 + np.exp(-np.clip(np.ravel(logits), -80, 80)))
        likely = np.flatnonzero(scores >= least)
        places = np.asarray(offsets).reshape(-1, 8, 2)[likely]  # centre, size, eyes, nose, mouth, ears
        anchors = self.anchors[likely]
        centres, sizes = places[:, 0] + anchors, places[:, 1]
        eyes = places[:, 2:4] + anchors[:, None]
        kept = merged(np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1), scores[likely])
        back = invert_matrix(matrix)
        scale = float(np.hypot(*matrix[0, :2]))
        found = []
        for group, weights in kept:
            centre, pair = (np.average(each[group], axis=0, weights=weights) for each in (centres, eyes))
            side = float(np.average(sizes[group].max(axis=1), weights=weights)) / scale
            place = transform_points(back, centre[None])[0]
            found.append(Candidate(place, side, transform_points(back, pair), float(weights.max())))
        return found


class YuNet:
    """Boxes and five points of each face in a picture of any size; small faces too."""

    def __init__(self, path: Path) -> None:
        level = cv2.utils.logging.getLogLevel()
        # OpenCV 5 warns that it ignores a setting, its own default
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            self.network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), YUNET_SCORE, YUNET_OVERLAP, YUNET_TOP)
        finally:
            cv2.utils.logging.setLogLevel(level)

    def find(self, frame: FrameArray, side: int, turn_deg: float = 0.0) -> list[Candidate]:
        """Faces in a copy of the frame (uint8 h w 3, RGB) whose longer side is `side`, the most certain first."""
        picture, matrix = reduced(frame, side, turn_deg)
        self.network.setInputSize(picture.shape[1::-1])
        rows = self.network.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
        back, scale = invert_matrix(matrix), float(np.hypot(*matrix[0, :2]))
        found = []
        for row in np.zeros((0, 15), np.float32) if rows is None else rows:
            centre = transform_points(back, (row[:2] + row[2:4] / 2)[None])[0]
            eyes = transform_points(back, row[4:8].reshape(2, 2))
            found.append(Candidate(centre, float(max(row[2:4])) / scale, eyes, float(row[14])))
        return sorted(found, key=lambda each: -each.score)


def merged(boxes: FloatArray, scores: NDArray[np.floating]) -> list[tuple[NDArray[np.intp], NDArray[np.floating]]]:
    """Groups of boxes x0, y0, x1, y1 [n, 4] that overlap the most certain of them, each with the scores as weights."""
    left, groups = list(np.argsort(-scores, kind="stable")), []
    while left:
        best = boxes[left[0]]
        others = boxes[left]
        low, high = np.maximum(best[:2], others[:, :2]), np.minimum(best[2:], others[:, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
        iou = shared / np.maximum(areas + np.prod(best[2:] - best[:2]) - shared, 1e-6)
        group = np.array(
            [index for index, value in zip(left, iou, strict=True) if value > SAME_FACE or index == left[0]]
        )
        groups.append((group, scores[group]))
        left = [index for index in left if index not in set(group.tolist())]
    return groups
