"""Face detection: from a frame to the three points that alignment needs, behind one interface with several backends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BACKENDS = ("cascade", "face_alignment")


@dataclass(frozen=True)
class AlignmentPoints:
    """One face of one frame, in frame pixels (pixel centres, sub-pixel); left and right are those of the image."""

    points: NDArray[np.float32]  # [3, 2]: centres of the left brow, the right brow and the nose
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 of the face from brows to chin
    score: float  # 0..1: how sure the backend is that a face is there

    @property
    def face_px(self) -> float:
        """Width of the face's box in pixels."""
        return self.box[2] - self.box[0]


class FaceDetector(Protocol):
    """Finds the face of one stream of consecutive frames; keeps its tracking state until `reset`."""

    def points(self, frame: NDArray[np.uint8]) -> AlignmentPoints | None:
        """The face followed so far, or else the largest, of the next frame (uint8 h w 3, RGB); None without one."""

    def reset(self) -> None:
        """Forget the stream: call it before the first frame of another one, and at a cut."""


def make_detector(name: str = "cascade", weights_dir: Path | None = None, device: str = "cpu") -> FaceDetector:
    """A detector by its name: `cascade` (no weights, CPU) or `face_alignment` (68 landmarks, weights in `weights_dir`).

    Raises ValueError for another name or when a backend's library or weights are missing.
    """
    if name == "cascade":
        from latentsync.face.detect_cascade import CascadeDetector

        return CascadeDetector()
    if name == "face_alignment":
        from latentsync.face.detect_landmarks import LandmarkDetector

        return LandmarkDetector(weights_dir, device)
    raise ValueError(f"face detector {name!r} is unknown: choose one of {', '.join(BACKENDS)}.")
