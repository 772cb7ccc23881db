"""Random access to the frames of a clip on the 25 Hz clock, by PyAV, or by decord where it returns the same frames.

decord decodes a span of a clip faster, but its colour conversion is coarser: about one level brighter, and blocky at edges of
colour. So its frames are compared with PyAV's before it is used for a clip.

Tensor legend: n frames, h height, w width; frames are uint8 [0, 255] `n h w 3`, RGB.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.media.container import MediaError, PathLike, check_readable
from latentsync.media.index.frame_index import frame_index
from latentsync.media.video.read import frames_between
from latentsync.timebase import MODEL_FPS

Reader = Literal["av", "decord"]
ReaderChoice = Literal["auto", "av", "decord"]
READER_CHOICES: tuple[ReaderChoice, ...] = get_args(ReaderChoice)

EQUAL_LEVELS = 1.0  # mean difference, in levels of 255, up to which two readers' frames count as equal
CLOCK_TOLERANCE_SEC = 2e-3  # for the rounding of time stamps
SMOOTHING_PX = 8  # differences are averaged over squares of this side, because chroma has half the resolution


class DecordError(MediaError):
    """decord cannot read a clip, though PyAV may."""


def read_clip(path: PathLike, start_frame: int, stop_frame: int, reader: Reader = "av") -> NDArray[np.uint8]:
    """Frames start_frame ... stop_frame - 1 of a clip on the 25 Hz clock, uint8 `n h w 3`.

    `reader` is the result of `choose_reader` for this clip. "decord" counts stored frames, which equal those of the 25 Hz
    clock for the clips that `choose_reader` accepts.

    Raises:
        MediaError: the file cannot be read, or ends before `stop_frame`.
    """
    assert 0 <= start_frame < stop_frame
    frames = READERS[reader](path, start_frame, stop_frame)
    if len(frames) < stop_frame - start_frame:
        raise MediaError(f"{path} ends after {start_frame + len(frames)} frames, before frame {stop_frame}.")
    return frames


def choose_reader(path: PathLike, frame_count: int, choice: ReaderChoice = "auto") -> Reader:
    """The reader for a clip of `frame_count` frames: "decord" if it is chosen and suitable, else "av".

    "auto" uses decord where its frames equal PyAV's within `EQUAL_LEVELS`; "decord" also where only the colours differ.
    decord is never used for a file that it cannot read or that does not have 25 frames a second from time 0 on.

    Raises:
        ValueError: the choice is unknown.
        MediaError: PyAV cannot read the clip.
    """
    if choice not in READER_CHOICES:
        raise ValueError(f"reader is {choice!r}; it must be one of {', '.join(READER_CHOICES)}.")
    if (
        choice == "av" or decord() is None or frame_index(path).first.fields
    ):  # decord leaves interlaced frames as they are
        return "av"
    try:
        is_suitable = _runs_on_clock(path, frame_count) and all(
            _agrees(path, frame, frame_count, EQUAL_LEVELS if choice == "auto" else np.inf)
            for frame in sorted({0, frame_count // 2, frame_count - 1})
        )
    except DecordError:
        return "av"
    return "decord" if is_suitable else "av"


def _runs_on_clock(path: PathLike, frame_count: int) -> bool:
    """Whether decord's frames are those of the 25 Hz clock."""
    clip = decord_clip(path)
    if len(clip) != frame_count:
        return False
    shown_sec = clip.get_frame_timestamp(range(frame_count))[:, 0]
    return bool(np.abs(shown_sec - np.arange(frame_count) / MODEL_FPS).max() < CLOCK_TOLERANCE_SEC)


def _agrees(path: PathLike, frame: int, frame_count: int, limit_levels: float) -> bool:
    """Whether decord's frame is within a limit of PyAV's and closer to it than to its neighbours."""
    first, last = max(0, frame - 1), min(frame_count - 1, frame + 1)
    expected = read_clip(path, first, last + 1, "av")
    found = read_clip(path, frame, frame + 1, "decord")[0]
    if found.shape != expected.shape[1:]:
        return False
    levels = [difference_levels(found, other) for other in expected]
    return levels[frame - first] <= min(limit_levels, *levels)


def difference_levels(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two frames `h w 3`, in levels, of their averages over squares."""
    difference = first.astype(np.float32) - second
    return float(np.abs(cv2.blur(difference, (SMOOTHING_PX, SMOOTHING_PX))).mean())


@lru_cache(maxsize=1)
def decord() -> Any | None:
    """The decord library, or None where there is no wheel for this machine."""
    try:
        import decord as library  # not on every platform
    except (ImportError, OSError):
        return None
    library.logging.set_level(library.logging.FATAL)
    return library


def decord_clip(path: PathLike) -> Any:
    library = decord()
    if library is None:
        raise DecordError(f"cannot read {path} with decord: it is not installed. Choose the reader av.")
    try:
        return library.VideoReader(str(path), num_threads=1)
    except Exception as error:  # decord raises many classes
        raise DecordError(f"decord cannot read {path}: {str(error).splitlines()[0]}.") from error


def _read_with_decord(path: PathLike, start_frame: int, stop_frame: int) -> NDArray[np.uint8]:
    check_readable(path)
    clip = decord_clip(path)
    wanted = range(start_frame, min(stop_frame, len(clip)))
    try:
        return clip.get_batch(wanted).asnumpy() if wanted else np.empty((0, 0, 0, 3), np.uint8)
    except Exception as error:
        raise DecordError(f"decord cannot decode {path}: {str(error).splitlines()[0]}.") from error


def _read_with_av(path: PathLike, start_frame: int, stop_frame: int) -> NDArray[np.uint8]:
    frames = [shown.frame for shown in frames_between(path, MODEL_FPS, start_frame, stop_frame)]
    return np.stack(frames) if frames else np.empty((0, 0, 0, 3), np.uint8)


READERS: dict[Reader, Callable[[PathLike, int, int], NDArray[np.uint8]]] = {
    "av": _read_with_av,
    "decord": _read_with_decord,
}
