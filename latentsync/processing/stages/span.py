"""Reading the frames and sound of a clip's span, and writing a span to its own file.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB; n samples, int16 `n`, mono at 16 kHz.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.media.container import MediaError
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.read import Samples, mono_span, span_pieces
from latentsync.media.sound.write import write_flac
from latentsync.media.video.read import frames_between
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.processing.clip import Clip
from latentsync.timebase import MODEL_FPS, samples_of_frames

FrameArray = NDArray[np.uint8]

INTERMEDIATE_CRF = 10  # of intermediate files: no visible loss


def clip_frames(clip: Clip) -> Iterator[FrameArray]:
    """The clip's `frame_count` frames at 25 fps, upright, with square pixels; each is valid until the next, and read-only.

    Raises MediaError if the file cannot be read or ends before the clip does.
    """
    count = 0
    for shown in frames_between(clip.path, MODEL_FPS, *clip.path_frames):
        count += 1
        yield shown.frame
    if count < clip.frame_count:
        raise MediaError(f"{clip.path} ends {clip.frame_count - count} frames before the clip does: create it again.")


def clip_sound(clip: Clip) -> Samples:
    """The clip's sound, exactly as long as its frames; padded with silence. MediaError if it cannot be read."""
    return mono_span(clip.path, clip.path_start_sec, samples_of_frames(clip.frame_count))


def write_clip(clip: Clip, folder: Path) -> Clip:
    """Write the span as its own file: 25 fps, lossless 16 kHz mono sound, one encode of the frames."""
    path = folder / clip.file_name
    sound = span_pieces(clip.path, clip.path_start_sec, samples_of_frames(clip.frame_count))
    write_frames(path, clip_frames(clip), sound, INTERMEDIATE_CRF)
    return clip.moved(path)


def write_frames(path: Path, frames: Iterable[FrameArray], sound: Iterable[Samples], crf: int) -> None:
    """Write frames of one size at 25 fps with their sound; the file appears when it is complete.

    Raises MediaError if it cannot be written, and any error of `frames` or `sound`; then no file is left.
    """
    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    with (
        sound_file(path, sound) as source,
        VideoWriter(path, VideoFormat.constant(width, height, MODEL_FPS, crf=crf), source) as writer,
    ):
        writer.write(first)
        for frame in frames:
            writer.write(frame)


@contextmanager
def sound_file(path: Path, sound: Iterable[Samples]) -> Iterator[AudioSource]:
    """A lossless temporary file of the sound, for the video that is written to `path`."""
    flac = path.with_name(f"{path.name}.sound.partial")
    flac.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_flac(flac, sound)
        yield AudioSource(flac)
    finally:
        flac.unlink(missing_ok=True)
