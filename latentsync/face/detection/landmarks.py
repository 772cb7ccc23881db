"""Face detector with 68 landmarks: S3FD and 2DFAN (Bulat and Tzimiropoulos, 2017) of the `face_alignment` library.

The library downloads missing weights by itself; here they must exist on disk beforehand, so that a run never accesses the
network. The box of a tracked face is computed from its last landmarks; S3FD searches the frame for further faces at intervals.
"""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray
from latentsync.face.detection.detector import Box, Face
from latentsync.face.detection.pose import opening_of_landmarks, yaw_of_landmarks
from latentsync.face.detection.tracking import Effort, TrackingDetector, is_known
from latentsync.weights import CHECKPOINTS, file_problem
from latentsync.weights.table import DEFAULT_ALIGNMENT, Alignment

WEIGHT_FILES = ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar")
LEFT_BROW, RIGHT_BROW = slice(17, 22), slice(22, 27)
NOSE: dict[Alignment, tuple[int, ...]] = {  # landmarks whose mean is the nose point
    "nose_tip": (29, 30, 31, 35),  # lower bridge, tip and both wings: the same four points as in the 106-point scheme
    "whole_nose": tuple(range(27, 36)),
}
MIN_SCORE = 0.35  # mean landmark score below which a tracked face is lost
HARD_THRESHOLD = 0.2  # of S3FD in a hard search
SEARCH_SIDES = {Effort.QUICK: 640, Effort.FULL: 1280}  # longer side in pixels, at most
SMALL_FRAME = 1000  # longer side in pixels up to which a frame is upscaled by 2 in a hard search
FOREHEAD = 0.25  # height of S3FD's box above the brows, over the height of the landmarks
JITTER_SHARE = 0.02  # of the face width: smaller movements are smoothed, more so the smaller they are
MIN_UPDATE = 0.3  # least weight of the new points


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of one face in the last frame."""

    points: FloatArray  # [68, 2], smoothed
    score: float  # mean of the landmark scores, 0..1


def make_backend(weights_dir: Path | None, device: str, alignment: Alignment) -> "LandmarkDetector":
    """See `latentsync.face.detection.detector`."""
    return LandmarkDetector(weights_dir, device, alignment)


class LandmarkDetector(TrackingDetector[Landmarks]):
    """Face detector with 68 landmarks, for head poses in which both brows are visible.

    `weights_dir` holds `WEIGHT_FILES`; by default `checkpoints/auxiliary`, else PyTorch's hub cache. Raises ValueError
    if the library or a file is missing.
    """

    def __init__(
        self, weights_dir: Path | None = None, device: str = "cpu", alignment: Alignment = DEFAULT_ALIGNMENT
    ) -> None:
        super().__init__(alignment)
        self.network = load_library(find_weights(weights_dir), device)

    def face(self, state: Landmarks) -> Face:
        """The `Face` of a state."""
        found = points_from_landmarks(state.points, state.score, self.alignment)
        yaw, opening = yaw_of_landmarks(state.points), opening_of_landmarks(state.points)
        return replace(found, landmarks=state.points, yaw_deg=yaw, opening=opening)

    def follow(self, frame: FrameArray, states: list[Landmarks]) -> list[Landmarks | None]:
        """The same faces in the next frame: landmarks in a box around the last ones; None for a lost face."""
        found = self.predict(frame, [np.array([*search_box(state.points), 1.0]) for state in states])
        return [
            Landmarks(smoothed(before.points, now.points), now.score) if now.score >= MIN_SCORE else None
            for before, now in zip(states, found, strict=True)
        ]

    def search(self, frame: FrameArray, effort: Effort, known: list[Box]) -> list[Landmarks]:
        """Faces that S3FD detects in the whole frame, the largest first, without those at `known` boxes."""
        boxes = self.boxes(frame, effort)
        found = self.predict(frame, [box for box in boxes if not is_known(landmark_box(box), known)])
        sure = [face for face in found if face.score >= MIN_SCORE]
        return sorted(sure, key=lambda face: -float(np.ptp(face.points, axis=0).prod()))

    def boxes(self, frame: FrameArray, effort: Effort) -> list[NDArray[np.floating]]:
        """S3FD's boxes [5]: x0, y0, x1, y1, score; a hard search upscales small frames and lowers the threshold."""
        detector, scale = self.network.face_detector, search_scale(frame, effort)
        method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        searched = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=method) if scale != 1 else frame
        usual = detector.filter_threshold
        detector.filter_threshold = HARD_THRESHOLD if effort is Effort.HARD else usual
        try:
            shrink = np.array([scale, scale, scale, scale, 1.0])
            return [np.asarray(box) / shrink for box in detector.detect_from_image(searched)]
        finally:
            detector.filter_threshold = usual

    def predict(self, frame: FrameArray, boxes: list[NDArray[np.floating]]) -> list[Landmarks]:
        """Landmarks [68, 2] and their mean score in every box (x0, y0, x1, y1, score)."""
        if not boxes:
            return []
        import torch

        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the library warns where there is no face
            found, scores, _ = self.network.get_landmarks_from_image(
                frame, detected_faces=boxes, return_bboxes=True, return_landmark_score=True
            )
        return [
            Landmarks(np.asarray(points, dtype=np.float32), float(np.clip(np.mean(score), 0, 1)))
            for points, score in zip(found, scores, strict=True)
        ]


def search_scale(frame: FrameArray, effort: Effort) -> float:
    """Scale of the copy of a frame that S3FD searches, which bounds its time."""
    side = max(frame.shape[:2])
    if effort is Effort.HARD:
        return 2.0 if side <= SMALL_FRAME else 1.0
    return min(1.0, SEARCH_SIDES[effort] / side)


def points_from_landmarks(landmarks: FloatArray, score: float, alignment: Alignment = DEFAULT_ALIGNMENT) -> Face:
    """The `Face` of 68 landmarks [68, 2] (Multi-PIE order): centres of the brows, and of the nose or its tip."""
    parts = (landmarks[LEFT_BROW], landmarks[RIGHT_BROW], landmarks[list(NOSE[alignment])])
    points = np.stack([part.mean(axis=0) for part in parts]).astype(np.float32)
    (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
    return Face(points, (float(left), float(top), float(right), float(bottom)), score)


def landmark_box(box: NDArray[np.floating]) -> Box:
    """The box of the landmarks, from brows to chin, for a box of S3FD: the inverse of `search_box`."""
    x0, y0, x1, y1 = (float(side) for side in box[:4])
    return x0, y1 - (y1 - y0) / (1 + FOREHEAD), x1, y1


def search_box(landmarks: FloatArray) -> NDArray[np.floating]:
    """The box x0, y0, x1, y1 of S3FD for landmarks [68, 2]: from the middle of the forehead to the chin."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    return np.array([low[0], low[1] - FOREHEAD * (high[1] - low[1]), high[0], high[1]])


def smoothed(before: FloatArray, now: FloatArray) -> FloatArray:
    """Landmarks [68, 2] without jitter: small movements are smoothed, large ones are not delayed."""
    moved = float(np.abs(now - before).mean()) / max(JITTER_SHARE * float(np.ptp(now[:, 0])), 1e-3)
    share = np.float32(min(1.0, max(MIN_UPDATE, moved**2)))
    return before + share * (now - before)


def file_problems(weights_dir: Path | None = None) -> list[tuple[Path, str]]:
    """The `WEIGHT_FILES` that would be read, each with its problem: a sentence without full stop, or an empty string."""
    if find_spec("face_alignment") is None:
        way_out = "install it, or choose the detector cascade, which needs none"
        return [(Path("face_alignment"), f"the package face_alignment >= 1.5 is not installed: {way_out}")]
    folders = weight_folders(weights_dir)
    holds_all = (folder for folder in folders if all((folder / name).is_file() for name in WEIGHT_FILES))
    folder = next(holds_all, folders[0])
    return [(folder / name, file_problem(folder / name)) for name in WEIGHT_FILES]


def weight_folders(weights_dir: Path | None) -> list[Path]:
    """Folders that are searched for the weights, in order."""
    return [weights_dir] if weights_dir else [CHECKPOINTS / "auxiliary", hub_folder() / "checkpoints"]


def hub_folder() -> Path:
    """The folder of PyTorch's hub: `torch.hub.get_dir()`, also while PyTorch is not imported, which takes seconds."""
    if "torch" in sys.modules:
        return Path(sys.modules["torch"].hub.get_dir())
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub"


def find_weights(weights_dir: Path | None) -> Path:
    """The folder with all `WEIGHT_FILES`; ValueError with the missing files and the searched folders."""
    folders = weight_folders(weights_dir)
    for folder in folders:
        if all((folder / name).is_file() for name in WEIGHT_FILES):
            return folder
    raise ValueError(
        f"the face_alignment detector needs {' and '.join(WEIGHT_FILES)} in {' or '.join(map(str, folders))}: "
        "put them there (see README, section 'Checkpoints') or use the cascade detector."
    )


@contextmanager
def hub_with(folder: Path) -> Iterator[None]:
    """Point PyTorch's hub cache to the weights of `folder` while the library is loaded."""
    import torch

    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as hub:
        cache = Path(hub) / "checkpoints"
        cache.mkdir()
        for name in WEIGHT_FILES:
            try:
                (cache / name).symlink_to((folder / name).resolve())
            except OSError:  # symbolic links are not permitted, as on Windows
                shutil.copyfile(folder / name, cache / name)
        torch.hub.set_dir(hub)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def load_library(folder: Path, device: str) -> Any:
    """The library's 2D landmark predictor on `device` with the weights of `folder`; ValueError if it is not installed."""
    try:
        import face_alignment
    except ImportError as error:
        raise ValueError("the face_alignment detector needs the package face_alignment >= 1.5: install it.") from error
    with hub_with(folder):
        kind = face_alignment.LandmarksType.TWO_D
        return face_alignment.FaceAlignment(kind, device=device, flip_input=False, compile=False)
