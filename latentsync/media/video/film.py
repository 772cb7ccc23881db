"""A film of which parts are replaced: which of its packets can be copied, and what they need to follow other parts.

Decoding can end after any packet whose pictures, with all before, are shown before all others; it can begin at a key frame that
refers to nothing before it. Pictures that follow a key frame in the file but are shown before it (of an open group) refer to
pictures before it, so they are encoded.

Legend: n frames in the order of display.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from latentsync.media.container import PathLike, open_input, video_stream
from latentsync.media.index.frame_index import FrameIndex, frame_index
from latentsync.media.pixels.geometry import Orientation
from latentsync.media.pixels.pixel_format import pixel_format
from latentsync.media.video import nal
from latentsync.media.video.h264_slices import (
    PictureSettings,
    Renumbered,
    recovers_at_once,
    settings_of,
    with_gaps_allowed,
)
from latentsync.media.video.hevc_slices import SliceSettings, free_id, numbered_set, numbered_slice
from latentsync.media.video.read import packets_from

CODECS = ("h264", "hevc")
PROFILES = {"Constrained Baseline": "baseline", "Baseline": "baseline", "Main": "main", "High": "high"}


class NotCopiedError(ValueError):
    """The packets of a film cannot be copied; the message is the reason, without an end."""


@dataclass(frozen=True)
class Film:
    """A video whose packets can be copied in parts."""

    path: PathLike
    codec: str  # "h264" or "hevc"
    header: bytes  # of its track
    profile: str  # x264's name, empty for HEVC

    @cached_property
    def index(self) -> FrameIndex:
        return frame_index(self.path)

    @property
    def parameter_set_id(self) -> int:
        """The number for the parameter sets of new parts: one that the film does not use."""
        if self.codec == "h264":
            return nal.AvcHeader.parsed(self.header).free_id()
        return free_id(nal.HevcHeader.parsed(self.header).parameter_sets)

    def spans(self, edited: Sequence[range]) -> tuple[range, ...]:
        """The frames to encode so that those in `edited` (rising, disjoint) can differ; packets of all others can be copied."""
        encoded: list[range] = []
        for part in edited:
            start = self._cut(part.start)
            if encoded and start <= encoded[-1].stop:
                start = encoded.pop().start
            encoded.append(range(start, self._resume(part.stop)))
        return tuple(encoded)

    def _cut(self, frame: int) -> int:
        """The last frame up to `frame` before which decoding can end."""
        shown = self.index.decode_order[:frame]
        ends = np.flatnonzero(np.maximum.accumulate(shown) == np.arange(frame)) if frame else shown
        return int(ends[-1]) + 1 if len(ends) else 0

    def _resume(self, frame: int) -> int:
        """The first frame from `frame` on at which decoding can begin; the end of the film if there is none."""
        index = self.index
        key_frames = np.searchsorted(index.ticks[:-1], index.key_ticks)
        firsts = np.minimum.accumulate(index.decode_order[::-1])[::-1]  # of the pictures from a packet on
        with open_input(self.path) as container:
            stream = video_stream(container, self.path)
            for key, stamp in zip(key_frames, index.key_stamps, strict=True):
                if key < frame:
                    continue
                place = int(np.flatnonzero(index.decode_order == key)[0])
                if firsts[place] == place and self._begins_alone(first_packet(container, stream, int(stamp))):
                    return int(key)
        return index.frame_count

    def _begins_alone(self, packet: Packet | None) -> bool:
        """Whether the pictures that are decoded and shown after a key frame refer to nothing before it."""
        if packet is None:
            return False
        content = bytes(packet)
        if self.codec == "hevc":
            return any(nal.hevc_type(unit) in nal.HEVC_IRAP for unit in nal.units(content))
        return is_idr(content) or bool(self.settings and recovers_at_once(content, self.settings))

    @cached_property
    def settings(self) -> dict[int, PictureSettings] | None:
        """Of H.264, to change slice headers; None if they cannot be changed."""
        try:
            return settings_of(nal.AvcHeader.parsed(self.header))
        except nal.HeaderError:
            return None

    def joined_header(self, others: Sequence[bytes], starts: Sequence[int]) -> bytes:
        """The header of a track with parts of the film that begin at the frames `starts`, and parts with the headers `others`."""
        if self.codec == "hevc":
            joined = nal.HevcHeader.parsed(self.header)
            for part in map(nal.HevcHeader.parsed, others):
                sets = [numbered_set(unit, self.parameter_set_id) for unit in part.parameter_sets]
                joined = joined.with_sets_of(sets, part.facts[nal.HEVC_LEVEL])
            return bytes(joined)
        header = nal.AvcHeader.parsed(self.header)
        if any(map(self._is_open, starts)):  # pictures are left out, and their numbers are missing
            header = replace(header, sps=with_gaps_allowed(header))
        for other in others:
            header = header.with_sets_of(nal.AvcHeader.parsed(other))
        return bytes(header)

    def _is_open(self, frame: int) -> bool:
        """Whether a frame of H.264 is the key picture of an open group."""
        with open_input(self.path) as container:
            found = self._packets(container, video_stream(container, self.path), range(frame, frame + 1))
            return frame > 0 and not is_idr(bytes(next(found)))

    def packets(self, container: InputContainer, stream: VideoStream, frames: range) -> Iterator[Packet]:
        """The packets of `frames`, a part between those of `spans`, such that it can follow any other part."""
        renumbered: Renumbered | None = None
        for place, packet in enumerate(self._packets(container, stream, frames)):
            if place == 0 and frames.start and self.codec == "hevc":
                yield changed(packet, begins_anew(bytes(packet)))
                continue
            if place == 0 and frames.start and not is_idr(bytes(packet)):
                assert self.settings is not None, "else the part began elsewhere"
                renumbered = Renumbered(self.settings)
            yield packet if renumbered is None else changed(packet, renumbered.changed(bytes(packet)))

    def _packets(self, container: InputContainer, stream: VideoStream, frames: range) -> Iterator[Packet]:
        """The packets of `frames` as they are."""
        stamp, left = self.index.seek_stamp(frames.start), len(frames)
        packets = None if stamp is None else packets_from(container, stream, stamp)
        for packet in container.demux(stream) if packets is None else packets:
            if packet.size and packet.pts is not None:
                frame = int(np.searchsorted(self.index.ticks[:-1], packet.pts))
                if frame in frames:
                    yield packet
                    left -= 1
                    if not left:
                        return

    def new_packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
        """The packets of an encoded part, such that it can follow packets of the film."""
        packets = (packet for packet in container.demux(stream) if packet.size)
        if self.codec == "h264":  # libx264 has numbered the parameter sets as asked
            yield from packets
            return
        sets = nal.HevcHeader.parsed(stream.codec_context.extradata or b"").parameter_sets
        settings, number = SliceSettings.parsed(sets), self.parameter_set_id
        for packet in packets:
            units = nal.units(bytes(packet))
            yield changed(
                packet,
                nal.packet_of(
                    [
                        numbered_slice(u, settings, number) if nal.hevc_type(u) < nal.HEVC_SETS.start else u
                        for u in units
                    ]
                ),
            )


def is_idr(packet: bytes) -> bool:
    """Whether a packet of H.264 holds a picture at which decoding begins anew."""
    return any(unit[0] & 31 == nal.H264_IDR for unit in nal.units(packet))


def begins_anew(packet: bytes) -> bytes:
    """A key picture of HEVC after which decoding begins anew, also of an open group, whose other pictures are left out."""
    found = nal.units(packet)
    return nal.packet_of(
        [nal.with_hevc_type(u, nal.HEVC_BLA) if nal.hevc_type(u) == nal.HEVC_CRA else u for u in found]
    )


def changed(packet: Packet, content: bytes) -> Packet:
    """A packet with other content."""
    other = Packet(content)
    other.is_keyframe = packet.is_keyframe
    return other


def is_deep(index: FrameIndex) -> bool:
    """Whether pictures have more than 8 bits or alpha."""
    return pixel_format(index.first.pixel_format).is_deep


def states_orientation(container: InputContainer, stream: VideoStream, codec: str) -> bool:
    """Whether pictures are turned by their own message, and not by the container alone."""
    packet = next(packet for packet in container.demux(stream) if packet.size)
    length, kind = (1, nal.H264_SEI) if codec == "h264" else (nal.HEVC_HEADER, nal.HEVC_SEI)
    return any(
        message == nal.DISPLAY_ORIENTATION
        for unit in nal.units(bytes(packet))
        if (unit[0] & 31 if codec == "h264" else nal.hevc_type(unit)) == kind
        for message, _ in nal.sei_messages(nal.plain(unit[length:]))
    )


def first_packet(container: InputContainer, stream: VideoStream, stamp: int) -> Packet | None:
    """The packet with a decoding time stamp, None if the file cannot be seeked there."""
    for packet in packets_from(container, stream, stamp) or ():
        own = packet.pts if packet.dts is None else packet.dts
        if packet.size and own is not None and own >= stamp:
            return packet
    return None


def open_film(path: PathLike) -> Film:
    """A film whose packets can be copied. Raises NotCopiedError with the reason if they cannot, MediaError as `probe` does."""
    index = frame_index(path)
    with open_input(path) as container:
        stream = video_stream(container, path)
        codec, header = index.first.codec, stream.codec_context.extradata or b""
        profile = stream.codec_context.profile or ""
        try:
            if codec not in CODECS:
                raise NotCopiedError(f"its codec is {codec}, not H.264 or HEVC")
            if not index.one_each:
                raise NotCopiedError("its packets are not one picture each")
            if index.orientation != Orientation() and is_deep(index):
                raise NotCopiedError("its pictures of more than 8 bits are stored turned")
            if index.orientation != Orientation() and states_orientation(container, stream, codec):
                raise NotCopiedError("its pictures state how they are turned")
            if index.first.fields:
                raise NotCopiedError("its pictures are interlaced")
            if codec == "h264" and profile not in PROFILES:
                raise NotCopiedError(f"its H.264 profile is {profile or 'unknown'}")
            nal.AvcHeader.parsed(header) if codec == "h264" else nal.HevcHeader.parsed(header)
        except nal.HeaderError as error:
            raise NotCopiedError(str(error)) from error
        return Film(path, codec, header, PROFILES.get(profile, ""))
