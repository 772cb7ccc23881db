"""Convert videos to aligned clips, the input of training: square .mp4 files at 25 fps with audio.

This module handles videos that show one face in every frame; for other videos use the data pipeline. The known mouth movement
of drawn videos is copied to a .json file beside the clip.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latentsync.data.store import write_whole
from latentsync.face.align import Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import FaceDetector
from latentsync.media.sound.copy import AudioSource
from latentsync.media.video.read import frames_at
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.timebase import MODEL_FPS

CRF = 10  # of aligned clips: visually lossless
KNOWN = ("aperture", "width")  # entries of a truth file that do not depend on the alignment of the face


class NoFaceError(ValueError):
    """No face was detected in a frame of a training clip."""


def align_clip(video: Path, clip: Path, detector: FaceDetector, resolution: int) -> Path:
    """Align every frame of a video at 25 fps and write the result, with the audio, to `clip`; returns `clip`.

    The file appears only when it is complete. An existing file is not changed.

    Raises:
        NoFaceError: no face was detected in a frame.
        MediaError: the video cannot be read, or the clip cannot be written.
    """
    if clip.exists():
        return clip
    truth = video.with_suffix(".json")
    form = VideoFormat.constant(resolution, resolution, MODEL_FPS, codec="h264", crf=CRF)
    with VideoWriter(clip, form, AudioSource(video)) as writer:
        for face in aligned_faces(video, detector, resolution):
            writer.write(face)
        if truth.exists():
            _keep_truth(truth, clip.with_suffix(".json"))
    return clip


def aligned_faces(video: Path, detector: FaceDetector, resolution: int) -> Iterator[np.ndarray]:
    """The aligned face, uint8 [r, r, 3], of every frame of a video at 25 fps; NoFaceError at the first frame without one."""
    smoother = Smoother()
    detector.reset()
    for shown in frames_at(video, MODEL_FPS):
        found = detector.points(shown.frame)
        if found is None:
            raise NoFaceError(f"{video}: no face at {shown.time_sec:.2f} s.")
        yield warp_face(shown.frame, align_matrix(found.points, resolution, smoother), resolution)


def _keep_truth(truth: Path, path: Path) -> None:
    stored = json.loads(truth.read_text(encoding="utf-8"))
    known = json.dumps({name: stored[name] for name in KNOWN if name in stored})
    write_whole(path, lambda partial: partial.write_text(known, encoding="utf-8"))
