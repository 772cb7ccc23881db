"""Face detection: one interface, `FaceDetector`, with several backends.

A backend is one file of this folder and one line of `BACKENDS`. The file defines `make_backend(weights_dir, device, alignment)`,
which returns a `FaceDetector` (most easily a subclass of `latentsync.face.detection.tracking.TrackingDetector`) or raises
ValueError if its weights are missing, and `file_problems(weights_dir)`, see `detector_problems`. The choices of the command line
and its checks are derived from `BACKENDS`.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.weights.table import DEFAULT_ALIGNMENT, PUBLIC_FILES, Alignment, place_of

BACKENDS = {  # name -> module, imported at first use
    "cascade": "latentsync.face.detection.cascade",  # OpenCV's cascades and optical flow: no weights, CPU
    "face_alignment": "latentsync.face.detection.landmarks",  # S3FD and 68 landmarks, with weights
    "mesh": "latentsync.face.detection.mesh",  # BlazeFace, YuNet and a mesh of 468 points: small weights, CPU
}
HAS_CASCADES = hasattr(cv2, "CascadeClassifier")  # OpenCV 5 has none
HAS_MESH = all(place_of(file.path).is_file() for file in PUBLIC_FILES if "faces" in file.sets)
# where nobody chooses and the models do not ask for 68 landmarks
DEFAULT_DETECTOR = "mesh" if HAS_MESH or not HAS_CASCADES else "cascade"
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Face:
    """One face of one frame, in frame pixels (pixel centres, sub-pixel); left and right are those of the image."""

    points: NDArray[np.float32]  # [3, 2] centres of the left brow, the right brow and the nose (see `FaceDetector`)
    box: Box  # of the face from brows to chin
    score: float  # 0..1: confidence of the backend
    track: int = 0  # number of the track; constant as long as the face is followed
    yaw_deg: float = 0.0  # turn to the image's right; 0 where the backend does not measure it
    pitch_deg: float = 0.0  # of a head that looks down; as above
    opening: float = math.nan  # mouth opening over eye distance; NaN where unknown
    landmarks: NDArray[np.float32] | None = None  # [68, 2] in Multi-PIE order, of backends that detect them

    @property
    def face_px(self) -> float:
        """Width of the face's box in pixels."""
        return self.box[2] - self.box[0]


class FaceDetector(Protocol):
    """Detects and tracks faces in one stream of consecutive frames; the tracking state is kept until `reset`.

    `alignment` defines the third alignment point: the mean of landmarks 27 to 35 (`whole_nose`), or of the landmarks at the
    tip and the wings of the nose (`nose_tip`).
    """

    alignment: Alignment

    def faces(self, frame: NDArray[np.uint8]) -> list[Face]:
        """All faces of the next frame (uint8 h w 3, RGB) with their track numbers; empty if there is none."""

    def points(self, frame: NDArray[np.uint8]) -> Face | None:
        """One face of the next frame: the face followed so far, or else the largest; None if there is none."""

    def rewind(self, frames: Sequence[NDArray[np.uint8]], known: Sequence[list[Box]]) -> list[list[Face]]:
        """Faces, in `frames` before the last one, the latest first, of the tracks that began in the last one.

        `known`: for each of these frames, boxes of faces that were found in it. The list ends with the first frame without any.
        """

    def reset(self) -> None:
        """Reset the tracking state, before the first frame of another stream and at cuts. Track numbers start from 0 again."""


def detector_problems(name: str, weights_dir: Path | None = None) -> list[tuple[Path, str]]:
    """The files that a detector needs, each with its problem: a sentence without full stop, or an empty string.

    `weights_dir` as in `make_detector`. Raises ValueError for an unknown name.
    """
    problems: list[tuple[Path, str]] = _backend(name).file_problems(weights_dir)
    return problems


def make_detector(
    name: str = DEFAULT_DETECTOR,
    weights_dir: Path | None = None,
    device: str = "cpu",
    alignment: Alignment = DEFAULT_ALIGNMENT,
) -> FaceDetector:
    """A detector by its name in `BACKENDS`, on `device`, with the weights of `weights_dir` (default: the backend's folder).

    `alignment` must be that of the models (`LipsyncModels.alignment`). Raises ValueError for an unknown name, and where the
    backend's library or weights are missing.
    """
    detector: FaceDetector = _backend(name).make_backend(weights_dir, device, alignment)
    return detector


def _backend(name: str) -> ModuleType:
    if name not in BACKENDS:
        raise ValueError(f"face detector {name!r} is unknown: choose one of {', '.join(BACKENDS)}.")
    return importlib.import_module(BACKENDS[name])
