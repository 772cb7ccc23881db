"""Videos to aligned clips, the form that training reads: square .mp4 files of 25 frames a second with their sound.

The data pipeline makes such clips from anything; here, from videos that show one face throughout, such as drawn ones, whose
known mouth movement is kept in a .json beside the clip.
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

CRF = 10  # of aligned clips: nothing that a network could see is lost
KNOWN = ("aperture", "width")  # entries of a truth file that stay true when the face is aligned


class NoFaceError(ValueError):
    """A frame of a training clip shows no face, so the clip cannot be aligned throughout."""


def align_clip(video: Path, clip: Path, detector: FaceDetector, resolution: int) -> Path:
    """Align every frame of a video at 25 fps and write it, with its sound, to `clip`, which appears when it is complete.

    A clip that exists is kept.

    Raises:
        NoFaceError: a frame shows no face.
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
