"""Frames to an MP4 file, streaming, with one H.264 encode and the user's own sound.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from latentsync.media.colour import BT709, LIMITED_RANGE, bt709_frame
from latentsync.media.container import MediaError, PathLike
from latentsync.media.mp4 import Mp4File
from latentsync.media.sound import AudioSource

VIDEO_ENCODER: Final = "libx264"
FPS_MAX_DENOMINATOR = 100_000  # of a rate given as a float


class VideoWriter:
    """Encode frames, one at a time, to an MP4 file: a context manager.

    H.264 (libx264) at constant quality `crf`, BT.709 limited range, tagged so. Even sizes are stored as yuv420p, which
    every player shows; an odd width or height as yuv444p, the only form of H.264 that keeps such a size exactly.

    The sound of `audio` is copied packet by packet where MP4 can hold its codec (AAC, MP3, AC-3, ALAC, FLAC, Opus),
    otherwise encoded once as AAC at its own rate and channels, and ends with the video. The file exists under `path`
    only after a successful end of the `with` block.

    Raises MediaError if the name does not end in .mp4, the folder cannot be written, the audio file cannot be read or
    has no sound, a frame has another size, or no frame was written.
    """

    def __init__(
        self,
        path: PathLike,
        width: int,
        height: int,
        fps: Fraction | float,
        crf: int = 18,
        audio: AudioSource | None = None,
    ):
        self.size = (height, width)
        self.fps = Fraction(fps).limit_denominator(FPS_MAX_DENOMINATOR)
        self.crf = crf
        self.pixel_format = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        self.file = Mp4File(path, audio)
        self.frame_count = 0  # frames written so far

    def __enter__(self) -> "VideoWriter":
        self.file.__enter__()
        try:
            self.stream = self._add_video(self.file.container)
            self.file.add_sound()
        except BaseException:
            self.file.__exit__(None, None, None)
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one frame: uint8 `h w 3` RGB of the writer's size; it may be overwritten afterwards."""
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise MediaError(
                f"cannot write a frame of shape {frame.shape} and type {frame.dtype} to {self.file.path}: "
                f"its frames are uint8 of shape {(*self.size, 3)}."
            )
        stored = bt709_frame(frame, self.pixel_format)
        stored.pts = self.frame_count
        stored.time_base = 1 / self.fps
        self.frame_count += 1
        self.file.mux(self.stream.encode(stored), self.duration_sec)

    @property
    def duration_sec(self) -> float:
        """Duration of the frames written so far."""
        return float(self.frame_count / self.fps)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self.file.__exit__(kind, *error)

    def _finish(self) -> None:
        if self.frame_count == 0:
            raise MediaError(f"cannot write {self.file.path}: no frame was given to it.")
        self.file.mux(self.stream.encode(None), self.duration_sec)
        self.file.finish(self.duration_sec)

    def _add_video(self, container: OutputContainer) -> VideoStream:
        options = {"crf": str(self.crf), "preset": "medium"}
        try:
            stream = container.add_stream(VIDEO_ENCODER, rate=self.fps, options=options)
        except (av.error.FFmpegError, av.codec.codec.UnknownCodecError) as error:
            raise MediaError(f"this PyAV lacks {VIDEO_ENCODER}. Install its wheel: pip install av.") from error
        context = stream.codec_context
        context.height, context.width = self.size
        context.pix_fmt = self.pixel_format
        context.time_base = 1 / self.fps
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        return stream
