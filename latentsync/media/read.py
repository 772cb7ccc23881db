"""Frames of a video, streaming: one decoded frame alive at a time, turned upright, in RGB, with its time.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`.
"""

import math
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import av
import numpy as np
from av.video.frame import VideoFrame as StoredFrame

from latentsync.media.colour import upright_rgb
from latentsync.media.container import MediaError, PathLike, open_input, reason, start_sec, video_stream
from latentsync.timebase import frames_in

TIE_SEC = 1e-6  # time stamps closer than this are the same time
SEEK_MARGIN_SEC = 1.0  # pictures right after a keyframe may lack the ones they refer to, or be shown before it


@dataclass(frozen=True)
class VideoFrame:
    """One upright frame and when it is shown."""

    time_sec: float  # since the start of the file
    frame: np.ndarray  # uint8 h w 3, RGB


@dataclass(frozen=True)
class _ShownFrame:
    start_sec: float
    end_sec: float
    stored: StoredFrame

    def to_rgb(self) -> np.ndarray:
        return upright_rgb(self.stored)


def read_frames(path: PathLike) -> Iterator[VideoFrame]:
    """Yield every frame of a video in the order of display, with its own time stamp (variable rates stay variable).

    Time 0 is the start of the file as a player counts it, so a video that starts later than its sound starts above 0.

    Raises MediaError as `probe` does, and when a frame in the middle cannot be decoded.
    """
    for shown in _shown_frames(path):
        yield VideoFrame(shown.start_sec, shown.to_rgb())


def frames_at(path: PathLike, fps: float | Fraction) -> Iterator[VideoFrame]:
    """Yield a video on a constant clock of `fps` frames a second: at each tick the frame whose time is nearest.

    Gives `frames_in(end of the last frame, fps)` frames, the k-th with `time_sec` k / fps. A frame that is shown at
    several ticks is the same array each time: do not write into it.

    Raises MediaError as `read_frames` does.
    """
    return _on_clock(_shown_frames(path), fps, 0)


def frames_between(path: PathLike, fps: float | Fraction, start_frame: int, stop_frame: int) -> Iterator[VideoFrame]:
    """Yield frames start_frame ... stop_frame - 1 of `frames_at(path, fps)`, or fewer where the video ends before.

    Decoding starts at a keyframe shortly before them, or at the first frame of a file that cannot be entered midway.

    Raises MediaError as `read_frames` does.
    """
    ticks = _on_clock(_shown_from(path, float(start_frame / fps)), fps, start_frame)
    return islice(ticks, max(0, stop_frame - start_frame))


def _on_clock(frames: Iterator["_ShownFrame"], fps: float | Fraction, tick: int) -> Iterator[VideoFrame]:
    """The frames at `tick` and after it; `frames` begin at or before its time."""
    previous = None
    for shown in frames:
        if previous is not None:
            border = (previous.start_sec + shown.start_sec) / 2
            ticks = int((border + TIE_SEC) * fps) + 1 if border >= 0 else 0  # number of ticks up to the border
            yield from _repeat(previous, tick, ticks, fps)
            tick = max(tick, ticks)
        previous = shown
    assert previous is not None, "there is a frame or an error"
    yield from _repeat(previous, tick, max(1, frames_in(previous.end_sec, fps)), fps)


def _repeat(shown: _ShownFrame, tick: int, stop: int, fps: float | Fraction) -> Iterator[VideoFrame]:
    if tick < stop:
        frame = shown.to_rgb()
        for index in range(tick, stop):
            yield VideoFrame(float(index / fps), frame)


def _shown_from(path: PathLike, begin_sec: float) -> Iterator[_ShownFrame]:
    """Every frame from one on that is shown at or before `begin_sec`."""
    if begin_sec > SEEK_MARGIN_SEC:
        shown = _shown_frames(path, begin_sec - SEEK_MARGIN_SEC)
        first = next(shown, None)
        if first is not None and first.start_sec <= begin_sec:
            yield first
            yield from shown
            return
        shown.close()
    yield from _shown_frames(path)


def _shown_frames(path: PathLike, seek_sec: float | None = None) -> Generator[_ShownFrame, None, None]:
    """Every frame, or those after a keyframe near `seek_sec`; there a frame without a time is at an infinite one."""
    end_sec = None if seek_sec is None else math.inf
    with open_input(path) as container:
        stream = video_stream(container, path)
        zero_sec = start_sec(container)
        if seek_sec is not None:
            with suppress(av.error.FFmpegError):  # what cannot be entered midway is read from its first frame
                container.seek(round((zero_sec + seek_sec) / (stream.time_base or 1)), stream=stream)
        usual_sec = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        try:
            for stored in container.decode(stream):
                # a frame without a time stamp follows the one before it
                begin_sec = (end_sec or 0.0) if stored.time is None else stored.time - zero_sec
                length_sec = float(stored.duration * (stored.time_base or 0)) or usual_sec
                end_sec = begin_sec + length_sec
                yield _ShownFrame(begin_sec, end_sec, stored)
        except av.error.FFmpegError as error:
            where = f"after {end_sec:.2f} s" if end_sec is not None else "at its first frame"
            raise MediaError(f"cannot decode {path} {where}: {reason(error)}. Re-encode or repair the file.") from error
    if end_sec is None:
        raise MediaError(f"{path} holds no video frame. Re-encode or repair the file.")
