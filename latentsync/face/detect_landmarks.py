"""Face detector by 68 landmarks: S3FD and 2DFAN (Bulat and Tzimiropoulos, 2017) of the `face_alignment` library.

The library fetches its weights by itself when they are absent; here they must lie on the disk beforehand, so that a run
never waits for a network. While a face is followed, its box comes from the last landmarks and S3FD is not run.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray
from latentsync.face.detect import AlignmentPoints
from latentsync.weights import CHECKPOINTS

WEIGHT_FILES = ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar")
LEFT_BROW, RIGHT_BROW = slice(17, 22), slice(22, 27)
NOSE = (29, 30, 31, 35)  # lower bridge, tip and both wings: the same four spots as in the 106-point scheme
MIN_SCORE = 0.35  # mean landmark score below which a followed face is searched anew
JITTER_SHARE = 0.02  # of the face's width: points that move less are smoothed, the more the less they move
MIN_UPDATE = 0.3  # share of the new points in the smoothed ones when they do not move


class LandmarkDetector:
    """Face detector by landmarks, for any head pose that still shows both brows.

    `weights_dir` holds `WEIGHT_FILES`; by default `checkpoints/auxiliary`, else PyTorch's hub cache. Raises ValueError
    where the library or a file is missing.
    """

    def __init__(self, weights_dir: Path | None = None, device: str = "cpu") -> None:
        self.network = load_library(find_weights(weights_dir), device)
        self.landmarks: FloatArray | None = None  # [68, 2], of the last frame, smoothed

    def reset(self) -> None:
        self.landmarks = None

    def points(self, frame: FrameArray) -> AlignmentPoints | None:
        """The face followed so far, or else the largest, of the next frame (uint8 h w 3, RGB); None without one."""
        found = None
        if self.landmarks is not None:
            found = self.predict(frame, [np.array([*search_box(self.landmarks), 1.0])])
        if found is None or found[1] < MIN_SCORE:
            found = self.predict(frame, None)
        if found is None or found[1] < MIN_SCORE:
            self.reset()
            return None
        self.landmarks = smoothed(self.landmarks, found[0])
        return points_from_landmarks(self.landmarks, found[1])

    def predict(self, frame: FrameArray, boxes: list[NDArray[np.floating]] | None) -> tuple[FloatArray, float] | None:
        """Landmarks [68, 2] and mean score of the largest face, in `boxes` (x0, y0, x1, y1, score) or anywhere."""
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the library warns where no face is found
            found, scores, _ = self.network.get_landmarks_from_image(
                frame, detected_faces=boxes, return_bboxes=True, return_landmark_score=True
            )
        if not found:
            return None
        largest = max(range(len(found)), key=lambda face: float(np.ptp(found[face], axis=0).prod()))
        return np.asarray(found[largest], dtype=np.float32), float(np.clip(np.mean(scores[largest]), 0, 1))


def points_from_landmarks(landmarks: FloatArray, score: float) -> AlignmentPoints:
    """Alignment points of 68 landmarks [68, 2] (Multi-PIE order): brow centres and the centre of the nose's tip."""
    parts = (landmarks[LEFT_BROW], landmarks[RIGHT_BROW], landmarks[list(NOSE)])
    points = np.stack([part.mean(axis=0) for part in parts]).astype(np.float32)
    (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
    return AlignmentPoints(points, (float(left), float(top), float(right), float(bottom)), score)


def search_box(landmarks: FloatArray) -> NDArray[np.floating]:
    """The box x0, y0, x1, y1 as S3FD would draw it around landmarks: from the middle of the forehead to the chin."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    return np.array([low[0], low[1] - 0.25 * (high[1] - low[1]), high[0], high[1]])


def smoothed(before: FloatArray | None, now: FloatArray) -> FloatArray:
    """Landmarks with small jitters taken out; a head that moves is followed at once."""
    if before is None:
        return now
    moved = float(np.abs(now - before).mean()) / max(JITTER_SHARE * float(np.ptp(now[:, 0])), 1e-3)
    share = np.float32(min(1.0, max(MIN_UPDATE, moved**2)))
    return before + share * (now - before)


def find_weights(weights_dir: Path | None) -> Path:
    """The folder that holds all `WEIGHT_FILES`; ValueError naming what is missing and where it was looked for."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [weights_dir] if weights_dir else [CHECKPOINTS / "auxiliary", cache]
    for folder in folders:
        if all((folder / name).is_file() for name in WEIGHT_FILES):
            return folder
    raise ValueError(
        f"the face_alignment detector needs {' and '.join(WEIGHT_FILES)} in {' or '.join(map(str, folders))}: "
        "put them there (see README, section 'Checkpoints') or use the cascade detector."
    )


@contextmanager
def hub_with(folder: Path) -> Iterator[None]:
    """Let PyTorch's hub find the weights of `folder` while the library is built."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as hub:
        cache = Path(hub) / "checkpoints"
        cache.mkdir()
        for name in WEIGHT_FILES:
            try:
                (cache / name).symlink_to((folder / name).resolve())
            except OSError:  # no right to make links, as on Windows
                shutil.copyfile(folder / name, cache / name)
        torch.hub.set_dir(hub)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def load_library(folder: Path, device: str) -> Any:
    """The library's 2D landmark predictor on `device`, with the weights of `folder`; ValueError if not installed."""
    try:
        import face_alignment
    except ImportError as error:
        raise ValueError("the face_alignment detector needs the package face_alignment >= 1.5: install it.") from error
    with hub_with(folder):
        kind = face_alignment.LandmarksType.TWO_D
        return face_alignment.FaceAlignment(kind, device=device, flip_input=False, compile=False)
