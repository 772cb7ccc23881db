"""Writing frames to a video file as a stream, with their times and an audio track, encoded once.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.packet import Packet
from av.video.frame import PictureType
from av.video.frame import VideoFrame as StoredFrame
from av.video.stream import VideoStream

from latentsync.files import partial_path
from latentsync.media.container import MediaError, PathLike, file_url
from latentsync.media.index.hdr import HdrMetadata
from latentsync.media.mark import Mark
from latentsync.media.pixels.colour import BT709, FULL_RANGE, LIMITED_RANGE, MATRICES, ColourTags, stored_frame
from latentsync.media.pixels.geometry import Orientation
from latentsync.media.pixels.interlace import FieldOrder, with_fields
from latentsync.media.pixels.picture import Picture, StoredForm
from latentsync.media.pixels.pixel_format import USUAL, PixelFormat, pixel_format
from latentsync.media.probe import MediaInfo
from latentsync.media.sound.copy import AudioSource, check_sound
from latentsync.media.video.encode import INTERLACED, Beside, Codec, Encoder, choose_encoder, usual_scheduling
from latentsync.media.video.join import Pictures, write_file
from latentsync.media.video.mux import CONTAINERS, check_output, writing

FPS_MAX_DENOMINATOR = 100_000  # of a rate given as a float
DEFAULT_CRF = 15
PART_SUFFIX = ".mp4"
BT2020_PRIMARIES = BT2020_MATRIX = 9  # code points of ITU-T H.273
MOV_ONLY = {"prores": ".mov"}  # codecs that PART_SUFFIX does not hold


@dataclass(frozen=True)
class VideoFormat:
    """The format of an output's video."""

    width: int  # px
    height: int  # px
    fps: Fraction  # the average where the rate varies
    time_base: Fraction  # seconds of one tick of the time stamps given to `VideoWriter.write`
    sample_aspect: Fraction = Fraction(1)  # width of a pixel over its height
    colour: ColourTags = field(default_factory=ColourTags)
    codec: Codec = "auto"
    crf: int = DEFAULT_CRF  # quality in the encoder's own scale: 0 best, 51 (AV1: 63) worst; ffv1 and prores have none
    pixel_format: str = USUAL  # of the frames given: its bits, chroma and alpha are kept if the codec can
    hdr: HdrMetadata = field(default_factory=HdrMetadata)
    fields: FieldOrder = ""  # pictures are flagged as interlaced in this order
    beside: Beside | None = None  # it is a part that is joined with packets of a film

    @classmethod
    def constant(cls, width: int, height: int, fps: Fraction | float, **others: object) -> "VideoFormat":
        """Frames at a constant rate, BT.709; one tick is one frame."""
        rate = Fraction(fps).limit_denominator(FPS_MAX_DENOMINATOR)
        return cls(width, height, rate, 1 / rate, **others)  # type: ignore[arg-type]

    @classmethod
    def like(cls, info: MediaInfo, **others: object) -> "VideoFormat":
        """The format of an existing file: size, rate or time base, pixel aspect, colour, bits, HDR. `others` override.

        For pictures of `read_pictures`; frames of `read_frames` have square pixels and the size `MediaInfo.square_size`.
        """
        colour = yuv_colour(info.colour, pixel_format(info.pixel_format)) if not info.is_still else ColourTags()
        same = cls(info.width, info.height, info.fps, info.time_base, info.sample_aspect, colour)
        if not info.is_still:
            same = replace(same, pixel_format=info.pixel_format, hdr=info.hdr)
        return replace(same, **others)  # type: ignore[arg-type]

    @property
    def usual_ticks(self) -> int:
        """The average duration of a frame in ticks."""
        return max(1, round(1 / (self.fps * self.time_base)))

    def encoding(self, suffix: str) -> tuple[Encoder, StoredForm]:
        """The encoder for a file with that suffix, and the form in which it stores pictures. Raises MediaError if there is none."""
        encoder = choose_encoder(self.codec, self.width, self.height, suffix, self.sample_aspect, self.pixel_format)
        stored = encoder.format_for(self.width, self.height, self.pixel_format)
        return encoder, StoredForm(stored, encoder.colour(self.colour, stored))

    @property
    def segment_suffix(self) -> str:
        """The ending of files that are parts to be joined: of a container that holds the codec and has an exact clock."""
        return MOV_ONLY.get(self.codec, PART_SUFFIX)


def yuv_colour(colour: ColourTags, source: PixelFormat) -> ColourTags:
    """The tags of pictures with these colours when they are stored as YUV, with a supported matrix."""
    if colour.matrix in MATRICES:
        return colour
    if not (source.is_rgb and source.is_deep):
        return ColourTags()
    matrix = BT2020_MATRIX if colour.primaries == BT2020_PRIMARIES else BT709
    return replace(colour, matrix=matrix, full_range=False)


class VideoWriter:
    """Encode frames, one at a time, to an .mp4, .mov or .mkv file: a context manager.

    One encode at constant quality, with the colour tags of the format, by the codec's first installed encoder
    (attribute `encoder`). Even sizes are stored as yuv420p, which every player supports; an odd width or height as
    yuv444p, the only pixel format of H.264 that supports it. ffv1 stores RGB values without loss. More bits, chroma or alpha
    are kept by codecs that support them (attribute `form`).

    The track of `audio` is copied packet by packet if the container can hold its codec, otherwise encoded once as AAC at its
    own rate and channels; it ends with the video or before. With a `mark` the metadata say what is generated. The file exists under
    `path` only after a successful end of the `with` block; until then the video is in `NAME.pictures.partial` beside it.
    Matroska rounds times to milliseconds; MP4 and QuickTime times are exact.

    Raises MediaError if the suffix is not supported, the folder cannot be written, there is no encoder, the audio file cannot
    be read or has no audio, a frame has another size or is not later than the one before, the disk is full, or no frame was
    written.
    """

    def __init__(self, path: PathLike, format: VideoFormat, audio: AudioSource | None = None, mark: Mark | None = None):
        self.path = Path(path)
        self.format = format
        self.audio, self.mark = audio, mark
        self.ticks: list[int] = []  # time of each frame written so far
        self.end = 0  # ticks, of the last one
        self.decode_order: list[int] = []

    def __enter__(self) -> "VideoWriter":
        check_output(self.path)
        if self.audio is not None:
            check_sound(self.audio)
        self.encoder, self.form = self.format.encoding(self.path.suffix.lower())
        self.spool = partial_path(f"{self.path}.pictures")
        with writing(self.path):
            self.container = av.open(
                file_url(self.spool), "w", format=CONTAINERS[MOV_ONLY.get(self.encoder.codec, PART_SUFFIX)]
            )
            try:
                self.stream = self._add_stream()
            except BaseException:
                self._discard()
                raise
        return self

    def _add_stream(self) -> VideoStream:
        form = self.format
        options = self.encoder.settings(form.crf, form.hdr, self.form.is_deep, form.beside)
        if form.fields:
            marks = INTERLACED if self.encoder.can_flag_fields(form.height) else {}
            options |= {**marks, "field_order": "tt" if form.fields == "tff" else "bb"}
        stream = cast(VideoStream, self.container.add_stream(self.encoder.name, rate=form.fps, options=options))
        context = stream.codec_context
        context.width, context.height = form.width, form.height
        context.pix_fmt = self.form.pixel_format
        context.time_base = 1 / form.fps
        context.sample_aspect_ratio = form.sample_aspect
        colour = self.form.colour
        context.color_primaries, context.color_trc, context.colorspace = (
            colour.primaries,
            colour.transfer,
            colour.matrix,
        )
        context.color_range = FULL_RANGE if colour.full_range else LIMITED_RANGE
        return stream

    @property
    def frame_count(self) -> int:
        """Frames written so far."""
        return len(self.ticks)

    def write(self, frame: np.ndarray, pts: int | None = None, duration: int | None = None) -> None:
        """Append one frame: uint8 `h w 3` RGB of the format's size; it may be overwritten afterwards.

        `pts` is its time and `duration` its display time, both in ticks of the format's time base. Without `pts` it follows the
        frame before it; without `duration` it has the average one (the next frame's `pts` ends it anyway).
        """
        self._check_shape(frame)
        stored = stored_frame(frame, self.form.pixel_format, self.form.colour)
        self.write_stored(with_fields(stored, self.format.fields), pts, duration)

    def write_picture(self, picture: Picture, pts: int | None = None, duration: int | None = None) -> None:
        """Append a picture, which is not converted if it is stored in the form of this file.

        In a part of a film that is shown turned, it is turned back.
        """
        if self.format.beside is not None and self.format.beside.orientation != Orientation():
            turned_back = self.format.beside.orientation.inverse.apply(picture.rgb())
            self.write(np.ascontiguousarray(turned_back), pts, duration)
            return
        stored = picture.stored_as(self.form)
        if stored is None or (stored.height, stored.width) != (self.format.height, self.format.width):
            self.write(picture.rgb(), pts, duration)
        else:
            self.write_stored(stored, pts, duration)

    def write_stored(self, picture: StoredFrame, pts: int | None = None, duration: int | None = None) -> None:
        """Append a picture in the encoder's form and of the format's size; its time stamp is overwritten."""
        start = self._start(pts)
        self.ticks.append(start)
        self.end = start + (self.format.usual_ticks if duration is None else duration)
        picture.pts, picture.time_base = self.frame_count - 1, 1 / self.format.fps
        picture.pict_type = PictureType.NONE  # the type of a decoded picture would force the encoder's choice
        with writing(self.path), usual_scheduling():  # the first picture opens the encoder
            self._mux(self.stream.encode(picture))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _check_shape(self, frame: np.ndarray) -> None:
        """Raise MediaError for a frame of another size or type."""
        height_width = (self.format.height, self.format.width)
        if frame.shape != (*height_width, 3) or frame.dtype != np.uint8:
            raise MediaError(
                f"cannot write a frame of shape {frame.shape} and type {frame.dtype} to {self.path}: "
                f"its frames are uint8 of shape {(*height_width, 3)}."
            )

    def _start(self, pts: int | None) -> int:
        """Time of a frame in ticks from the first; MediaError if it is not later than the one before."""
        if not self.ticks:
            self.first_pts = pts or 0
        start = self.end if pts is None else pts - self.first_pts
        if self.ticks and start <= self.ticks[-1]:
            raise MediaError(
                f"cannot write frame {self.frame_count} to {self.path}: it is not later than the one before."
            )
        return start

    def _mux(self, packets: Sequence[Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None and packet.time_base is not None, "encoded packets have time stamps"
            self.decode_order.append(round(packet.pts * packet.time_base * self.format.fps))
            packet.pts = packet.dts = len(self.decode_order)  # only their order is used later
            packet.duration = 1
            self.container.mux(packet)

    def _finish(self) -> None:
        if not self.ticks:
            raise MediaError(f"cannot write {self.path}: no frame was given to it.")
        with writing(self.path):
            self._mux(self.stream.encode(None))
            self.container.close()
        ticks = np.array([*self.ticks, self.end], dtype=np.int64)
        pictures = Pictures(self.spool, ticks, np.array(self.decode_order, dtype=np.int64))
        write_file([pictures], self.path, self.format.time_base, self.audio, mark=self.mark)

    def _discard(self) -> None:
        with suppress(av.error.FFmpegError, OSError):  # closing an unfinished file may fail
            self.container.close()
        self.spool.unlink(missing_ok=True)
