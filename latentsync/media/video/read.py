"""Reading a video as a stream, one frame at a time: upright, in RGB, with its time.

Frames have square pixels, as in a player; pictures (`read_pictures`) have the stored pixels.
Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`.
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame as StoredFrame
from av.video.stream import VideoStream

from latentsync.media.container import MediaError, PathLike, open_input, reason, video_stream
from latentsync.media.index.frame_index import FrameIndex, frame_index
from latentsync.media.pixels.colour import upright_rgb
from latentsync.media.pixels.interlace import FLAGGED, Interlaced, Numbered, deinterlaced, with_fields
from latentsync.media.pixels.picture import Picture, StoredForm, picture_of
from latentsync.timebase import frames_in

TIE_SEC = 1e-6  # time stamps closer than this are equal


@dataclass(frozen=True)
class VideoFrame:
    """One upright frame with square pixels, and its time."""

    time_sec: float
    frame: np.ndarray  # uint8 h w 3, RGB


def frame_times(path: PathLike) -> list[Fraction]:
    """Time of each frame in seconds from the first, followed by the end of the last one.

    For a still image both are 0. With a variable rate these are the times of the file; with a constant rate they are exact
    multiples of the frame duration, also where the container rounds them.

    Raises MediaError as `probe` does.
    """
    index = frame_index(path)
    return [Fraction(0), Fraction(0)] if index.first.is_still else index.times()


def read_frames(
    path: PathLike,
    start_frame: int = 0,
    stop_frame: int | None = None,
    exact: bool = True,
    interlaced: Interlaced = "deinterlace",
) -> Iterator[VideoFrame]:
    """Yield frames start_frame ... stop_frame - 1 (or to the end) of a video, in the order of display, each once.

    Frame k is shown at `frame_times(path)[k]` and does not depend on where reading begins: decoding starts at the last
    keyframe before it, or at the first frame if the file cannot be seeked. Without `exact`, colour conversion takes a third of
    the time, and colours are one or two levels too bright. `interlaced` frames are deinterlaced or kept.

    Raises MediaError as `probe` does, and when a frame cannot be decoded: damaged frames are never concealed.
    """
    index = frame_index(path)
    stop = index.frame_count if stop_frame is None else min(stop_frame, index.frame_count)
    for number, stored in stored_pictures(path, index, max(0, start_frame), stop, interlaced):
        time_sec = 0.0 if index.first.is_still else float(index.time(number))
        yield VideoFrame(time_sec, upright_rgb(stored, index.orientation, index.first.square_size, exact))


def frames_at(path: PathLike, fps: float | Fraction) -> Iterator[VideoFrame]:
    """Yield a video at a constant rate of `fps` frames a second: at each tick the frame whose time is nearest.

    Tick 0 is the start of the file as players count it, which is also sample 0 of its audio. Yields
    `frames_in(end of the last frame, fps)` frames, at least one, the k-th with `time_sec` k / fps. A frame that is
    shown at several ticks is the same array each time: do not write into it.

    Raises MediaError as `read_frames` does.
    """
    return frames_between(path, fps, 0, None)


def frames_between(
    path: PathLike,
    fps: float | Fraction,
    start_frame: int,
    stop_frame: int | None,
    exact: bool = True,
    interlaced: Interlaced = "deinterlace",
) -> Iterator[VideoFrame]:
    """Yield frames start_frame ... stop_frame - 1 of `frames_at(path, fps)`, or fewer if the video ends before.

    `exact` and `interlaced` as for `read_frames`.

    Raises MediaError as `read_frames` does.
    """
    last: StoredFrame | None = None
    frame = np.empty(0)
    index, tick = frame_index(path), max(0, start_frame)
    for stored in stored_on_clock(path, index, fps, start_frame, stop_frame, interlaced):
        if stored is not last:
            last, frame = stored, upright_rgb(stored, index.orientation, index.first.square_size, exact)
        yield VideoFrame(float(tick / fps), frame)
        tick += 1


def read_pictures(
    path: PathLike,
    form: StoredForm,
    fps: Fraction | None = None,
    start_frame: int = 0,
    stop_frame: int | None = None,
    interlaced: Interlaced = "deinterlace",
) -> Iterator[Picture]:
    """Frames start_frame ... stop_frame - 1 (or to the end) as pictures, of which parts can be read and edited.

    They are the frames of `read_frames`, or with `fps` those of `frames_between`, but in stored pixels (see
    `MediaInfo.square_scale`). `form` is the form in which they will be written: pictures that have it are not converted, and if
    it has more than 8 bits or alpha, all are converted to it.

    Raises MediaError as these functions do.
    """
    index = frame_index(path)
    if fps is not None:
        shown = stored_on_clock(path, index, fps, start_frame, stop_frame, interlaced)
    else:
        stop = index.frame_count if stop_frame is None else min(stop_frame, index.frame_count)
        shown = (stored for _, stored in stored_pictures(path, index, max(0, start_frame), stop, interlaced))
    return (picture_of(stored, index.orientation, index.first.size, form) for stored in shown)


def stored_on_clock(
    path: PathLike,
    index: FrameIndex,
    fps: float | Fraction,
    start_frame: int,
    stop_frame: int | None,
    interlaced: Interlaced = "deinterlace",
) -> Iterator[StoredFrame]:
    """Stored frames at ticks start_frame ... stop_frame - 1 of a clock; the same object where one is shown at several ticks."""
    sources = frames_on_clock(index, fps)[max(0, start_frame) : stop_frame]
    if not len(sources):
        return
    with closing(stored_pictures(path, index, int(sources[0]), int(sources[-1]) + 1, interlaced)) as shown:
        number, stored = next(shown)
        for source in sources:
            while number < source:
                number, stored = next(shown)
            yield stored


def frames_on_clock(index: FrameIndex, fps: float | Fraction) -> np.ndarray:
    """The index of the frame shown at each tick of a clock that starts with the file."""
    if index.first.is_still:
        return np.zeros(1, dtype=np.int64)
    times_sec = np.array(index.times(), dtype=np.float64) + index.first.start_sec
    starts, end_sec = times_sec[:-1], float(times_sec[-1])
    borders = (starts[1:] + starts[:-1]) / 2 + TIE_SEC
    ticks_sec = np.arange(max(1, frames_in(end_sec, fps))) / float(fps)
    return np.searchsorted(borders, ticks_sec, side="left")


def stored_pictures(
    path: PathLike, index: FrameIndex, start: int, stop: int, interlaced: Interlaced = "deinterlace"
) -> Generator[tuple[int, StoredFrame], None, None]:
    """Frames start ... stop - 1 with their indices, as stored (neither upright nor in RGB), or deinterlaced."""
    if start >= stop:
        return
    fields = index.first.fields
    if interlaced == "keep":
        order = "" if fields == FLAGGED else index.first.field_order
        with closing(_decoded(path, index, start, stop)) as decoded:
            yield from ((number, with_fields(stored, order)) for number, stored in decoded)
        return
    with _decoded_around(path, index, start, min(stop + 1, index.frame_count)) as numbered:
        for number, stored in deinterlaced(numbered, fields):
            if number >= start:
                yield number, stored
            if number == stop - 1:
                return


@contextmanager
def _decoded_around(path: PathLike, index: FrameIndex, start: int, stop: int) -> Iterator[Numbered]:
    """Frames start ... stop - 1, preceded by one more if they are interlaced, as the deinterlacer needs it."""
    with closing(_decoded(path, index, start, stop)) as decoded:
        first = next(decoded) if start > 0 and not index.first.fields else None
        if start == 0 or (first is not None and not first[1].interlaced_frame):
            yield decoded if first is None else chain([first], decoded)
            return
    with closing(_decoded(path, index, start - 1, stop)) as decoded:
        yield decoded


def _decoded(
    path: PathLike, index: FrameIndex, start: int, stop: int
) -> Generator[tuple[int, StoredFrame], None, None]:
    """Frames start ... stop - 1 with their indices, as stored."""
    number = start
    seek_stamp = index.seek_stamp(start) if start < stop else None
    try:
        while number < stop:
            # closed explicitly: Python ignores a Ctrl-C that arrives while a generator is garbage-collected
            with closing(_pictures(path, seek_stamp)) as pictures:
                for stored in _matching(pictures, index, number):
                    yield number, stored
                    number += 1
                    if number == stop:
                        return
            if seek_stamp is None:
                raise MediaError(
                    f"cannot decode {path} {_place(index, number)}: a frame is missing. Re-encode the file."
                )
            seek_stamp = None  # some streams (intra refresh) have no complete picture right after a keyframe
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"cannot decode {path} {_place(index, number)}: {reason(error)}. Repair the file.") from error


def _matching(pictures: Iterator[StoredFrame], index: FrameIndex, number: int) -> Iterator[StoredFrame]:
    """The pictures from frame `number` on, as long as their time stamps are those of the index."""
    for place, stored in enumerate(pictures):
        found, wanted = (stored.pts, index.ticks[number]) if index.stamped else (place, number)
        if found == wanted:
            yield stored
            number += 1
        elif found is not None and found > wanted:
            return


def _place(index: FrameIndex, frame: int) -> str:
    return f"at {float(index.time(frame)):.2f} s"


def _pictures(path: PathLike, seek_stamp: int | None) -> Generator[StoredFrame, None, None]:
    """Decoded pictures from the packet with the time stamp `seek_stamp` on, or from the first."""
    if seek_stamp is not None:
        with open_input(path) as container:
            stream = video_stream(container, path)
            packets = packets_from(container, stream, seek_stamp)
            if packets is not None:
                for packet in packets:
                    yield from packet.decode()
                return
    with open_input(path) as container:
        yield from container.decode(video_stream(container, path))


def packets_from(container: InputContainer, stream: VideoStream, seek_stamp: int) -> Iterator[Packet] | None:
    """The packets from one at or before `seek_stamp` on; None if the file cannot be seeked there."""
    try:
        container.seek(seek_stamp, stream=stream)
        packets = container.demux(stream)
        first = next(packet for packet in packets if packet.size)
    except (av.error.FFmpegError, StopIteration):
        return None
    stamp = first.pts if first.dts is None else first.dts
    return chain([first], packets) if stamp is not None and stamp <= seek_stamp else None
