"""The video of a job as numbered frames with timestamps: its own frames, or frames at a constant rate; and masks of its frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from pathlib import Path

from latentsync.face.align import FrameArray
from latentsync.media.container import PathLike
from latentsync.media.pixels.interlace import Interlaced
from latentsync.media.pixels.picture import Picture, StoredForm
from latentsync.media.probe import MediaInfo, probe
from latentsync.media.video.read import frame_times, frames_between, read_frames, read_pictures
from latentsync.timebase import MODEL_FPS, frames_in, stride_of


@dataclass(frozen=True)
class Source:
    """A video. `times` [n + 1]: of its frames in seconds from the first one; the last entry is the end of the last frame.

    `fps` is a constant rate, None for the video's own frames; `interlaced` as in `read_frames`.
    """

    info: MediaInfo
    path: PathLike
    times: tuple[Fraction, ...]
    fps: Fraction | None = None
    interlaced: Interlaced = "deinterlace"

    def __len__(self) -> int:
        return len(self.times) - 1

    @property
    def rate(self) -> Fraction:
        """Average frames per second."""
        return self.fps or (len(self) / self.times[-1] if self.times[-1] else Fraction(MODEL_FPS))

    @property
    def stride(self) -> int:
        """Distance between consecutive frames of a window, see `latentsync.inference.windows.stream`."""
        return stride_of(float(self.rate))

    def read(self, start: int = 0, stop: int | None = None, exact: bool = True) -> Iterator[FrameArray]:
        """Frames start ... stop - 1, uint8 h w 3, with square pixels; `exact` as in `read_frames`."""
        stop = len(self) if stop is None else stop
        if self.fps is None:
            return (shown.frame for shown in read_frames(self.path, start, stop, exact, self.interlaced))
        shown_frames = frames_between(self.path, self.fps, start, stop, exact, self.interlaced)
        return (shown.frame for shown in shown_frames)

    def pictures(self, form: StoredForm, start: int = 0, stop: int | None = None) -> Iterator[Picture]:
        """The same frames in the form in which they are stored, see `read_pictures`; they will be written in `form`."""
        return read_pictures(self.path, form, self.fps, start, len(self) if stop is None else stop, self.interlaced)


def open_source(
    path: PathLike, info: MediaInfo, fps: Fraction | None = None, interlaced: Interlaced = "deinterlace"
) -> Source:
    """Open a video with its own frames, or at a constant `fps`; a still image is one frame at the model's rate.

    Raises MediaError as `frame_times` does.
    """
    if info.is_still:
        return Source(info, path, (Fraction(0), 1 / (fps or Fraction(MODEL_FPS))))
    times = tuple(frame_times(path))
    if fps is not None:
        count = max(1, frames_in(float(times[-1]) + info.start_sec, fps))  # time 0 is the start of the file
        times = tuple(Fraction(frame) / fps for frame in range(count + 1))
    return Source(info, path, times, fps, interlaced)


def open_masks(path: Path, source: Source) -> Source:
    """The masks of a video's frames; a picture is the mask of all frames.

    Raises ValueError if they are not as large as the video, or not as many; MediaError if they cannot be read.
    """
    info = probe(path)
    width, height = source.info.square_size
    if info.square_size != (width, height):
        raise ValueError(
            f"the masks {path} are {info.square_size[0]} x {info.square_size[1]}, but the video is {width} x {height}: give"
            " masks as large as the video."
        )
    if info.is_still:
        return open_source(path, info)
    masks = open_source(path, info, source.fps)
    if len(masks) != len(source):
        raise ValueError(
            f"the masks {path} have {len(masks)} frames, but the video has {len(source)}: give one mask for each frame, or a"
            " picture."
        )
    return masks


def read_masks(masks: Source, start: int, stop: int) -> Iterator[FrameArray]:
    """The given masks of the source frames start ... stop - 1, uint8 h w 3."""
    if masks.info.is_still:
        return repeat(next(masks.read(0, 1)), stop - start)
    return masks.read(start, stop, exact=False)
