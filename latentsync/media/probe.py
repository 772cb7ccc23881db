"""The properties of a video file or still image, read mostly from its packets."""

from dataclasses import dataclass
from fractions import Fraction

import av

from latentsync.media.container import MediaError, PathLike, audio_tracks, open_input, selected_track
from latentsync.media.index.frame_index import frame_index
from latentsync.media.index.hdr import HdrMetadata
from latentsync.media.pixels.colour import ColourTags
from latentsync.media.pixels.geometry import Size, square_size
from latentsync.media.pixels.interlace import FieldOrder, Fields
from latentsync.media.pixels.pixel_format import pixel_format, turned_format

MADE_HERE = "Made with LatentSync"  # the comment that every written file carries


@dataclass(frozen=True)
class MediaInfo:
    """A video file or still image. Its size is upright but in stored pixels; `square_size` is the size that a player shows."""

    width: int  # px, after rotation
    height: int  # px, after rotation
    fps: Fraction  # the average where the rate varies; 25 for a still image
    frame_count: int  # exact
    duration_sec: float  # of the video track, from the first frame to the end of the last; 0 for a still image
    has_audio: bool
    audio_rate_hz: int  # 0 without audio
    channels: int  # 0 without audio
    rotation: int  # degrees counter-clockwise (0, 90, 180, 270) by which the stored frames are turned
    codec: str  # of the video track
    variable_rate: bool
    time_base: Fraction  # seconds of one tick; all times are whole numbers of ticks
    start_sec: float  # when the first frame is shown, from the start of the file; above 0 if its audio starts earlier
    sample_aspect: Fraction  # width of a pixel over its height, after rotation; 1 when unknown
    colour: ColourTags
    pixel_format: str  # libav's name of the format that holds its upright pictures without loss
    has_alpha: bool
    hdr: HdrMetadata
    fields: Fields  # whether pictures are interlaced, and by which source
    field_order: FieldOrder  # of interlaced pictures
    is_still: bool

    @property
    def square_size(self) -> Size:
        """Width and height in square pixels: the size that a player shows and that `read_frames` returns."""
        return square_size((self.width, self.height), self.sample_aspect)

    @property
    def square_scale(self) -> tuple[float, float]:
        """Square pixels per pixel of the upright picture, along x and y."""
        width, height = self.square_size
        return width / self.width, height / self.height

    @property
    def bits(self) -> int:
        """Of one component; the networks get 8."""
        return pixel_format(self.pixel_format).bits


def probe(path: PathLike) -> MediaInfo:
    """Describe a video file or still image (PNG, JPEG, WebP).

    The file's packets are read once, not decoded, except for codecs whose packets are not frames. The result is cached, so
    that reading frames afterwards does not read them again.

    Raises MediaError if the file is missing, unreadable, cut short, a Git LFS pointer or text, or has no video stream
    that can be decoded.
    """
    index = frame_index(path)
    width, height = index.first.size
    turned, aspect = index.orientation.turned, index.first.sample_aspect
    rate_hz, channels = sound_format(path)
    return MediaInfo(
        width=height if turned else width,
        height=width if turned else height,
        fps=index.fps,
        frame_count=index.frame_count,
        duration_sec=float(index.time(index.frame_count)) if not index.first.is_still else 0.0,
        has_audio=channels > 0,
        audio_rate_hz=rate_hz,
        channels=channels,
        rotation=index.orientation.degrees,
        codec=index.first.codec,
        variable_rate=index.rate is None and not index.first.is_still,
        time_base=index.time_base if index.rate is None else 1 / index.rate,
        start_sec=index.first.start_sec,
        sample_aspect=1 / aspect if turned else aspect,
        colour=index.colour,
        pixel_format=turned_format(index.first.pixel_format) if turned else index.first.pixel_format,
        has_alpha=index.first.has_alpha,
        hdr=index.first.hdr,
        fields=index.first.fields,
        field_order=index.first.field_order,
        is_still=index.first.is_still,
    )


def sound_format(path: PathLike) -> tuple[int, int]:
    """Sample rate in Hz and number of channels of the selected audio track; zeros without one."""
    with open_input(path) as container:
        tracks = audio_tracks(container)
        sound = selected_track(tracks, "audio", path) if tracks else None
        if sound is None or sound.codec_context is None:
            return 0, 0
        return sound.rate, sound.channels


def made_here(path: PathLike) -> bool:
    """Whether a file was written by this project, by its comment; False if it cannot be read."""
    try:
        with open_input(path) as container:
            comments = [text for key, text in container.metadata.items() if key.lower() == "comment"]
            return any(text.startswith(MADE_HERE) for text in comments)
    except (MediaError, av.error.FFmpegError):
        return False
