"""Face detection: from a frame to the points that alignment needs, behind one interface with several backends."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latentsync.weights.table import DEFAULT_ALIGNMENT, Alignment

BACKENDS = ("cascade", "face_alignment")
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Face:
    """One face of one frame, in frame pixels (pixel centres, sub-pixel); left and right are those of the image."""

    points: NDArray[np.float32]  # [3, 2]: centres of the left brow, the right brow and the nose (see `FaceDetector`)
    box: Box  # of the face from brows to chin
    score: float  # 0..1: how sure the backend is that a face is there
    track: int = 0  # the same number in consecutive frames as long as the face is followed
    yaw_deg: float = 0.0  # turn to the image's right; 0 where the backend does not know it
    opening: float = math.nan  # height of the open mouth over the distance of the eyes; NaN where it is not known
    landmarks: NDArray[np.float32] | None = None  # [68, 2] in Multi-PIE order where the backend finds them

    @property
    def face_px(self) -> float:
        """Width of the face's box in pixels."""
        return self.box[2] - self.box[0]


AlignmentPoints = Face


class FaceDetector(Protocol):
    """Finds the faces of one stream of consecutive frames; keeps its tracking state until `reset`.

    What the third of the three points is, its `alignment` says: the mean of landmarks 27 to 35 (`whole_nose`), or of those
    at the tip and the wings (`nose_tip`).
    """

    alignment: Alignment

    def faces(self, frame: NDArray[np.uint8]) -> list[Face]:
        """All faces of the next frame (uint8 h w 3, RGB), each with the number of its track; empty without one."""

    def points(self, frame: NDArray[np.uint8]) -> Face | None:
        """The same, but of one person alone: the face followed so far, or else the largest; None without one."""

    def reset(self) -> None:
        """Forget the stream: call it before the first frame of another one, and at a cut. Tracks count from 0 again."""


def detector_problems(name: str) -> list[tuple[Path, str]]:
    """The files that a detector needs, each with what is wrong with it (a sentence without its full stop, or nothing).

    Raises ValueError for an unknown name.
    """
    _check_name(name)
    if name == "cascade":
        return []
    from latentsync.face.detection.landmarks import weight_problems

    return weight_problems()


def make_detector(
    name: str = "cascade",
    weights_dir: Path | None = None,
    device: str = "cpu",
    alignment: Alignment = DEFAULT_ALIGNMENT,
) -> FaceDetector:
    """A detector by its name: `cascade` (no weights, CPU) or `face_alignment` (68 landmarks, weights in `weights_dir`).

    Its points are those of `alignment`, which a model says of itself (`LipsyncModels.alignment`). Raises ValueError for
    another name or when a backend's library or weights are missing.
    """
    _check_name(name)
    if name == "cascade":
        from latentsync.face.detection.cascade import CascadeDetector

        return CascadeDetector(alignment)
    from latentsync.face.detection.landmarks import LandmarkDetector

    return LandmarkDetector(weights_dir, device, alignment)


def _check_name(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"face detector {name!r} is unknown: choose one of {', '.join(BACKENDS)}.")
