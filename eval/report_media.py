"""Pictures of a report: strips of faces, and videos of all systems side by side."""

import base64
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.clip_sets import EvalClip, write_video
from latentsync.face.align import warp_face
from latentsync.media.video.read import frames_at
from latentsync.metrics.lips.face_series import FaceSeries
from latentsync.metrics.regions import RESOLUTION
from latentsync.timebase import MODEL_FPS

SHOTS = 7  # frames of a strip
SHOT_PX = 128
SIDE_PX = 256  # height of each video in a row
CAPTION_PX = 26
JPEG_QUALITY, VIDEO_CRF = 86, 24


def shot_frames(count: int) -> list[int]:
    """The frames of a clip that a strip shows: evenly spread, without its ends."""
    return [round(at) for at in np.linspace(0, count - 1, SHOTS + 2)[1:-1]]


def strip(video: Path, series: FaceSeries, shots: list[int]) -> str:
    """The aligned faces at some frames in a row, as a JPEG data URL."""
    frames = {i: s.frame for i, s in enumerate(islice(frames_at(video, MODEL_FPS), max(shots) + 1)) if i in shots}
    tiles = [_face(frames[shot], series.matrices[shot]) for shot in shots if shot in frames and shot < len(series)]
    return jpeg(np.concatenate(tiles, axis=1))


def jpeg(picture: NDArray[np.uint8]) -> str:
    """An image [h, w, 3] RGB as a JPEG data URL."""
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert done, "OpenCV encodes JPEG"
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def side_by_side(results: Mapping[str, Path], clip: EvalClip, path: Path) -> None:
    """Write all results of a clip into one video, with their names and the sound."""
    write_video(path, _rows(results), clip.audio, VIDEO_CRF)


def _rows(results: Mapping[str, Path]) -> Iterator[NDArray[np.uint8]]:
    streams = [frames_at(video, MODEL_FPS) for video in results.values()]
    for shown in zip(*streams, strict=False):
        yield np.concatenate([_named(each.frame, name) for each, name in zip(shown, results, strict=True)], axis=1)


def _named(frame: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (round(width * SIDE_PX / height / 2) * 2, SIDE_PX), interpolation=cv2.INTER_AREA)
    caption = np.full((CAPTION_PX, small.shape[1], 3), 24, np.uint8)
    cv2.putText(caption, name, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([caption, small.astype(np.uint8)])


def _face(frame: NDArray[np.uint8], matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
    if not np.isfinite(matrix).all():
        return np.full((SHOT_PX, SHOT_PX, 3), 128, np.uint8)
    face = warp_face(frame, matrix, RESOLUTION)
    return np.asarray(cv2.resize(face, (SHOT_PX, SHOT_PX), interpolation=cv2.INTER_AREA), np.uint8)
