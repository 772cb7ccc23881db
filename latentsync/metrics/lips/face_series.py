"""Per-frame measurements of the face in a video: position, lip opening, change of the mouth region.

t frames at 25 fps; NaN where no face is found.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FrameArray, Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import FaceDetector
from latentsync.files import file_hash
from latentsync.media.video.read import frames_at
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.lips.aperture import lip_aperture
from latentsync.metrics.regions import RESOLUTION, face_region
from latentsync.metrics.statistics import NO_FACE, UnscorableError
from latentsync.timebase import MODEL_FPS

VERSION = "1"  # of the measurements: cached series of another version are computed again
MIN_FACE_SHARE = 0.5  # of the frames; with fewer a video is not scored


@dataclass(frozen=True)
class FaceSeries:
    """Measurements of the face in each frame of one video."""

    matrices: NDArray[np.float32]  # [t, 2, 3], frame -> crop at `regions.RESOLUTION`
    apertures: NDArray[np.float32]  # [t], lip opening as a fraction of the face height
    changes: NDArray[np.float32]  # [t - 1], mean absolute change of the mouth region between frames, 0 ... 255
    landmarks: NDArray[np.float32] | None = None  # [t, 68, 2]; None from a detector without landmarks

    def __len__(self) -> int:
        return len(self.apertures)

    @property
    def face_share(self) -> float:
        """Fraction of the frames that show a face."""
        return float(np.isfinite(self.apertures).mean())


def follow_face(frames: Iterable[FrameArray], detector: FaceDetector) -> FaceSeries:
    """Measure the face in consecutive frames, uint8 [h, w, 3] at 25 fps; one frame is in memory at a time."""
    smoother, weight = Smoother(), face_region(RESOLUTION)
    matrices, apertures, changes, landmarks = [], [], [], []
    before: NDArray[np.float32] | None = None
    detector.reset()
    for frame in frames:
        found = detector.points(frame)
        if found is None:
            smoother.reset()
            matrix, face = np.full((2, 3), np.nan, np.float32), None
        else:
            matrix = align_matrix(found.points, RESOLUTION, smoother)
            face = warp_face(frame, matrix, RESOLUTION)
        now = None if face is None else face.astype(np.float32)
        apertures.append(np.nan if face is None else lip_aperture(face))
        changes.append(_change(before, now, weight))
        landmarks.append(None if found is None else found.landmarks)
        matrices.append(matrix)
        before = now
    known = [points for points in landmarks if points is not None]
    filled = [np.full((68, 2), np.nan) if points is None else points for points in landmarks]
    return FaceSeries(
        np.stack(matrices),
        np.array(apertures, np.float32),
        np.array(changes[1:], np.float32),
        np.stack(filled).astype(np.float32) if known else None,
    )


def face_series(video: Path, detector: FaceDetector, cache: FeatureCache) -> FaceSeries:
    """Measurements of the face in a video file, from the cache if they are there.

    Raises:
        UnscorableError: fewer than half of the frames show a face.
        MediaError: the file cannot be read.
    """
    key = ("face series", VERSION, file_hash(video), type(detector).__name__, detector.alignment)
    stored = cache.get(key, lambda: _arrays(follow_face((s.frame for s in frames_at(video, MODEL_FPS)), detector)))
    series = FaceSeries(**stored)  # type: ignore[arg-type]
    if series.face_share < MIN_FACE_SHARE:
        detail = f"{video}: only {series.face_share:.0%} of the frames show a face."
        raise UnscorableError(NO_FACE, detail)
    return series


def warped_faces(video: Path, matrices: NDArray[np.float32]) -> list[FrameArray | None]:
    """The face warped to uint8 [r, r, 3] at `RESOLUTION`, of each frame of a video at 25 fps; None where its matrix is NaN.

    `matrices` [t, 2, 3] may be of another video with the same head; the shorter of the two ends the list.
    """
    return [
        warp_face(shown.frame, matrix, RESOLUTION) if np.isfinite(matrix).all() else None
        for shown, matrix in zip(frames_at(video, MODEL_FPS), matrices, strict=False)
    ]


def _arrays(series: FaceSeries) -> dict[str, NDArray[np.generic]]:
    return {name: value for name, value in vars(series).items() if value is not None}


def _change(before: NDArray[np.float32] | None, now: NDArray[np.float32] | None, weight: NDArray[np.float32]) -> float:
    if before is None or now is None:
        return float("nan")
    return float((np.abs(now - before).mean(axis=-1) * weight).sum() / weight.sum())
