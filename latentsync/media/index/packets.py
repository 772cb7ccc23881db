"""Time stamps of a video's pictures from its packets, or by decoding where packets do not state them; and its first picture."""

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from latentsync.media.container import (
    MAX_PIXELS,
    MediaError,
    PathLike,
    is_still,
    open_input,
    reason,
    start_sec,
    video_stream,
)
from latentsync.media.index.hdr import HdrMetadata, hdr_metadata, side_data
from latentsync.media.pixels.colour import ColourTags, colour_tags
from latentsync.media.pixels.geometry import (
    Orientation,
    Size,
    exif_orientation,
    matrix_orientation,
    plausible_aspect,
    square_size,
)
from latentsync.media.pixels.interlace import FLAGGED, FieldOrder, Fields, fields_of
from latentsync.media.pixels.pixel_format import pixel_format

# A packet of these may hold several pictures, or one that is never shown.
DECODED_FOR_TIMES = {"vp8", "mpeg4", "msmpeg4v3", "gif"}
UNTIMED = {"avi"}  # containers that number packets from 0, so that reordered pictures have wrong times
USUAL_FPS = Fraction(25)
PLAUSIBLE_FPS = (Fraction(1, 100), Fraction(1000))
SIMPLE_DENOMINATOR = 1001
WHOLE_PICTURES = {"hevc", "av1", "vp8", "vp9", "gif"}  # codecs whose pictures are never or hardly ever interlaced
SAMPLED_AT = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))  # positions in a video that are checked for combing
OPAQUE_MAYBE = {"gif", "png", "webp", "mjpeg"}  # codecs whose pictures often have an alpha channel that is fully opaque


@dataclass(frozen=True)
class FirstPicture:
    """Properties of a video that are known from its first decoded picture."""

    ticks: int | None  # its time stamp
    size: Size  # stored width, height
    colour: ColourTags
    pixel_format: str
    has_alpha: bool
    hdr: HdrMetadata
    orientation: Orientation
    is_still: bool
    fields: Fields
    field_order: FieldOrder
    start_sec: float  # its time from the start of the file as players count it
    codec: str
    sample_aspect: Fraction  # width of a stored pixel over its height

    @property
    def square_size(self) -> Size:
        """Width and height, before the turn, with square pixels: see `latentsync.media.pixels.geometry`."""
        return square_size(self.size, self.sample_aspect)


@dataclass(frozen=True)
class PacketTimes:
    """Times of the displayed pictures of a file in the order of their packets."""

    ticks: np.ndarray  # int64 n
    durations: np.ndarray  # int64 n; 0 unknown
    key_ticks: np.ndarray  # int64 k
    key_stamps: np.ndarray  # int64 k: decoding time stamps of the keyframes, to seek to
    time_base: Fraction
    stamped: bool  # whether decoded pictures carry these ticks; else they are counted
    end: int | None  # in ticks, as stated by the container
    stated_rates: tuple[Fraction, ...]  # frames per second, the most plausible first; may be wrong
    one_each: bool  # whether every packet is one displayed picture

    @property
    def usual_rate(self) -> Fraction:
        return self.stated_rates[0] if self.stated_rates else USUAL_FPS


@dataclass(frozen=True)
class _Stamp:
    ticks: int | None
    duration: int
    is_key: bool
    seek_ticks: int | None


def first_picture(path: PathLike) -> FirstPicture:
    """Decode the first picture; MediaError if there is none or the file is cut short."""
    with open_input(path) as container:
        stream = video_stream(container, path)
        check_complete(stream, path)
        frame = first_frame(container, stream, path)
        still = is_still(container)
        aspect = plausible_aspect(stream.sample_aspect_ratio)
        check_square_size((frame.width, frame.height), aspect, path)
        timed = frame.pts is not None and container.format.name not in UNTIMED
        begin_sec = float((frame.pts or 0) * time_base_of(stream)) - start_sec(container) if timed else 0.0
        codec = stream.codec_context.codec.canonical_name
        is_sure = frame.interlaced_frame or still or codec in WHOLE_PICTURES
        samples = [frame] if is_sure else [frame, *spread_pictures(container, stream)]
        fields, order = fields_of(samples, stated_field_order(stream))
        return FirstPicture(
            ticks=frame.pts,
            size=(frame.width, frame.height),
            colour=colour_tags(frame),
            pixel_format=frame.format.name,
            has_alpha=has_alpha(frame, stream),
            hdr=hdr_metadata(frame),
            orientation=exif_orientation(path) if still else orientation(frame),
            is_still=still,
            fields=fields,
            field_order=order,
            start_sec=begin_sec,
            codec=codec,
            sample_aspect=aspect,
        )


def check_square_size(stored: Size, aspect: Fraction, path: PathLike) -> None:
    """Raise MediaError if pictures exceed `MAX_PIXELS` in square pixels."""
    width, height = square_size(stored, aspect)
    if width * height > MAX_PIXELS:
        raise MediaError(f"{path} has pictures of over {MAX_PIXELS >> 20} megapixels as shown. Scale or repair it.")


def check_complete(stream: VideoStream, path: PathLike) -> None:
    """Raise MediaError if the index lists frames beyond the end of the file, which decoders would drop."""
    end_bytes = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end_bytes > os.path.getsize(path):
        raise MediaError(f"{path} is cut short: its index lists frames beyond its end. Copy or download it again.")


def first_frame(container: InputContainer, stream: VideoStream, path: PathLike) -> VideoFrame:
    try:
        for frame in container.decode(stream):
            return frame
    except (av.error.FFmpegError, OSError) as error:
        if not stream.codec_context.width:  # decoding stopped before the size was known, see `pixel_limit`
            raise MediaError(
                f"cannot decode {path}: it is damaged, or its pictures are too large for a file of"
                f" {os.path.getsize(path) / 1e3:.0f} kB. Scale it down, or export it again."
            ) from error
        raise MediaError(f"cannot decode {path}: {reason(error)}. Re-encode or repair the file.") from error
    raise MediaError(f"{path} holds no video frame. Re-encode or repair the file.")


def spread_pictures(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """One picture from each position in `SAMPLED_AT`; ends early at one that cannot be decoded."""
    lasts_sec = Fraction(container.duration or 0, av.time_base)
    start = int((container.start_time or 0) / av.time_base / time_base_of(stream))
    with suppress(av.error.FFmpegError, OSError, StopIteration):
        for share in SAMPLED_AT if lasts_sec else ():
            container.seek(start + int(share * lasts_sec / time_base_of(stream)), stream=stream)
            packet = next(packet for packet in container.demux(stream) if packet.size)
            yield from [*packet.decode(), *stream.codec_context.decode(None)][:1]


def stated_field_order(stream: VideoStream) -> int:
    """The field order that a file states, as libav's value; 0: unknown (always with PyAV 17)."""
    return int(getattr(stream.codec_context, "field_order", 0))


def has_alpha(frame: VideoFrame, stream: VideoStream) -> bool:
    """Whether pictures have transparency; also for VP8 and VP9, whose alpha libav does not decode."""
    if stream.metadata.get("alpha_mode") == "1":
        return True
    if not pixel_format(frame.format.name).has_alpha:
        return False
    is_used = stream.codec_context.codec.canonical_name not in OPAQUE_MAYBE
    return is_used or bool(frame.to_ndarray(format="rgba")[..., 3].min() < 255)


def orientation(frame: VideoFrame) -> Orientation:
    """The orientation of a video, from the display matrix of its first picture."""
    matrix = side_data(frame).get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return Orientation.of_degrees(frame.rotation)
    return matrix_orientation(struct.unpack("=9i", matrix))


def packet_times(path: PathLike, first: FirstPicture) -> PacketTimes:
    """The times of all displayed pictures. Raises FFmpegError if the file cannot be read to its end."""
    with open_input(path) as container:
        stream = video_stream(container, path)
        if not needs_decoding(container, stream, first):
            packets = (packet for packet in container.demux(stream) if packet.size)
            stamps, count = shown_stamps(packets, first.ticks)
            if stamps is not None:
                return _times(stamps, stamps, stream, one_each=len(stamps) == count)
    with open_input(path) as container:
        stream = video_stream(container, path)
        return decoded_times(container, stream)


def needs_decoding(container: InputContainer, stream: VideoStream, first: FirstPicture) -> bool:
    """Whether times of pictures cannot be read from packets."""
    reordered = container.format.name in UNTIMED and stream.codec_context.has_b_frames
    fields = first.fields == FLAGGED  # a packet may be half a picture
    return bool(first.ticks is None or fields or reordered or stream.codec_context.name in DECODED_FOR_TIMES)


def shown_stamps(packets: Iterable[Packet], first_ticks: int | None) -> tuple[list[_Stamp] | None, int]:
    """The stamps of the displayed packets, None if they lack the time of a picture; and the number of all packets."""
    stamps, whole, count = [], 0, 0
    for packet in packets:
        count += 1
        if not packet.is_discard:
            stamps.append(_stamp(packet))
            whole = whole if packet.is_corrupt else len(stamps)
    # an interrupted recording ends in half a packet; pictures before the first decodable one are never displayed
    kept = [stamp for stamp in stamps[:whole] if stamp.ticks is None or stamp.ticks >= (first_ticks or 0)]
    ticks = [stamp.ticks for stamp in kept]
    return kept if None not in ticks and len(set(ticks)) == len(ticks) else None, count


def _stamp(packet: Packet) -> _Stamp:
    entry = packet.pts if packet.dts is None else packet.dts
    return _Stamp(packet.pts, packet.duration or 0, packet.is_keyframe, entry)


def decoded_times(container: InputContainer, stream: VideoStream) -> PacketTimes:
    """The times of all pictures, by decoding them; without time stamps they are counted at the stated rate."""
    keys, shown = [], []
    for packet in container.demux(stream):
        if packet.size and packet.is_keyframe and packet.pts is not None:
            keys.append(_stamp(packet))
        shown += [_Stamp(frame.pts, frame.duration or 0, False, None) for frame in packet.decode()]
    ticks = [stamp.ticks for stamp in shown if stamp.ticks is not None]
    if len(ticks) < len(shown) or any(later <= earlier for earlier, later in zip(ticks, ticks[1:], strict=False)):
        rate = (*stated_rates(stream), USUAL_FPS)[0]
        step = max(1, round(1 / (rate * time_base_of(stream))))
        counted = [_Stamp(step * index, step, False, None) for index in range(len(shown))]
        return _times(counted, [], stream, stamped=False)
    return _times(shown, keys, stream)


def _times(
    shown: list[_Stamp], keys: list[_Stamp], stream: VideoStream, stamped: bool = True, one_each: bool = False
) -> PacketTimes:
    entries = [stamp for stamp in keys if stamp.is_key and stamp.seek_ticks is not None]
    return PacketTimes(
        ticks=np.array([stamp.ticks for stamp in shown], dtype=np.int64),
        durations=np.array([stamp.duration for stamp in shown], dtype=np.int64),
        key_ticks=np.array([stamp.ticks for stamp in entries], dtype=np.int64),
        key_stamps=np.array([stamp.seek_ticks for stamp in entries], dtype=np.int64),
        time_base=time_base_of(stream),
        stamped=stamped,
        end=stated_end(stream),
        stated_rates=stated_rates(stream),
        one_each=one_each,
    )


def stated_end(stream: VideoStream) -> int | None:
    """End of the last picture in ticks as stated by the container: of the stream, or of a file with one stream."""
    if stream.duration:
        return stream.duration + (stream.start_time or 0)
    container = cast(InputContainer, stream.container)
    if container.duration and not container.start_time and len(container.streams) == 1:
        return round(Fraction(container.duration, av.time_base) / time_base_of(stream))
    return None


def time_base_of(stream: VideoStream) -> Fraction:
    assert stream.time_base is not None, "an opened stream has a time base"
    return Fraction(stream.time_base)


def stated_rates(stream: VideoStream) -> tuple[Fraction, ...]:
    """The plausible frame rates that a container states, simple ratios first."""
    rates = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    plausible = [rate for rate in rates if PLAUSIBLE_FPS[0] <= rate <= PLAUSIBLE_FPS[1]]
    return tuple(sorted(plausible, key=lambda rate: rate.denominator > SIMPLE_DENOMINATOR))
