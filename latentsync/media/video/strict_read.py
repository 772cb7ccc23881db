"""Strict decoding of a whole video, which refuses damage and yields small pictures: a cheap check of a file.

Tensor legend: h height, w width; a picture is uint8 [0, 255] `h w 3`, RGB, upright, with square pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame as StoredFrame
from numpy.typing import NDArray

from latentsync.media.container import (
    MediaError,
    PathLike,
    audio_tracks,
    open_input,
    reason,
    video_stream,
    video_tracks,
)
from latentsync.media.index.frame_index import FrameIndex, frame_index
from latentsync.media.pixels.colour import upright_rgb
from latentsync.media.pixels.interlace import deinterlaced
from latentsync.media.sound.read import STRICT
from latentsync.media.video.read import frames_on_clock


@dataclass(frozen=True)
class SmallPicture:
    """One picture of a video at a constant rate, scaled down."""

    tick: int  # the first at which it is shown; it is shown until the next picture's
    pixels: NDArray[np.uint8]


def has_streams(path: PathLike) -> tuple[bool, bool]:
    """Whether a file has video (a cover does not count) and whether it has audio; MediaError if it cannot be read."""
    with open_input(path) as container:
        return bool(video_tracks(container)), bool(audio_tracks(container))


def small_pictures(path: PathLike, fps: float | Fraction, side_px: int) -> Iterator[SmallPicture]:
    """Decode a whole video and yield the pictures of `frames_at(path, fps)`, each once, at most `side_px` wide and high.

    Unlike `read_frames`, which accepts slightly damaged pictures, it raises an error for any damage that the decoder detects.

    Raises MediaError as `read_frames` does, with the time of the damage.
    """
    index = frame_index(path)
    shown, ticks = np.unique(frames_on_clock(index, fps), return_index=True)
    width, height = index.first.square_size
    scale = min(1.0, side_px / max(width, height))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    place = 0
    for number, stored in deinterlaced(_strictly_decoded(path, index), index.first.fields):
        if place < len(shown) and number == shown[place]:
            yield SmallPicture(int(ticks[place]), upright_rgb(stored, index.orientation, size))
            place += 1


def _strictly_decoded(path: PathLike, index: FrameIndex) -> Iterator[tuple[int, StoredFrame]]:
    """All frames with their indices; MediaError if one is missing."""
    number = 0
    try:
        with open_input(path) as container:
            stream = video_stream(container, path)
            stream.codec_context.options = STRICT
            for place, stored in enumerate(container.decode(stream)):
                if stored.is_corrupt or number == index.frame_count:
                    break
                if (stored.pts if index.stamped else place) == (int(index.ticks[number]) if index.stamped else number):
                    yield number, stored
                    number += 1
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"cannot decode {path} {_place(index, number)}: {reason(error)}. Repair the file.") from error
    if number < index.frame_count:
        raise MediaError(f"cannot decode {path} {_place(index, number)}: a frame is missing. Re-encode the file.")


def _place(index: FrameIndex, number: int) -> str:
    return f"at {float(index.time(min(number, index.frame_count))):.2f} s"
