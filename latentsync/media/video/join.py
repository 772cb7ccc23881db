"""Joining encoded videos in one file, with their times and new audio, without a second encode.

Tensor legend: n frames of one piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.stream import VideoStream

from latentsync.media.container import MediaError, PathLike, open_input, reason, video_stream
from latentsync.media.index.frame_index import frame_index
from latentsync.media.sound.copy import AudioSource
from latentsync.media.video.mux import OutputFile

HEVC_TAG = "hvc1"  # Apple's players do not support libav's default, hev1


@dataclass(frozen=True)
class Pictures:
    """The encoded pictures of one file and their times in the output."""

    path: PathLike
    ticks: np.ndarray  # int64 n + 1: time of each picture, the first at 0, and the end of the last
    decode_order: np.ndarray  # int64 n: index of the picture of each packet


def join(parts: Sequence[PathLike], path: PathLike, audio: AudioSource | None = None) -> None:
    """Concatenate the video of files that were written by `VideoWriter` in the same format, with new audio.

    Every frame keeps its packet and its exact duration. The bytes of the result depend only on the parts and the
    audio. Parts are .mp4 or .mov files (`VideoFormat.segment_suffix`), which store exact times; the result may be .mkv.

    Raises MediaError as `VideoWriter` does, if a part cannot be read, and if the parts differ in codec settings, size
    or clock.
    """
    assert parts, "there must be a part to join"
    check_same_encoding(parts)
    indexes = [frame_index(part) for part in parts]
    pieces = [
        Pictures(part, index.ticks - index.ticks[0], index.decode_order)
        for part, index in zip(parts, indexes, strict=True)
    ]
    write_file(pieces, path, indexes[0].time_base, audio)


@dataclass(frozen=True)
class Stamps:
    """Presentation and decoding time stamps of a file's packets in their order, in ticks."""

    shown: np.ndarray  # int64 n
    decoded: np.ndarray  # int64 n
    durations: np.ndarray  # int64 n
    end: int  # of the last picture

    @classmethod
    def of(cls, shown: np.ndarray, order: np.ndarray, end: int) -> "Stamps":
        """Stamps of pictures shown at `shown` (in the order of display), whose packets are in `order`."""
        durations = np.diff(shown, append=end)[order]
        # An MP4 file lasts from its first to its last decoding time stamp, plus the duration of the last packet.
        durations[-1] = end - shown[-1]
        # Pictures are decoded before they are shown; one constant delay keeps both clocks equal.
        return cls(shown[order], shown - int((shown - shown[order]).max()), durations, end)


def write_file(pieces: Sequence[Pictures], path: PathLike, time_base: Fraction, audio: AudioSource | None) -> None:
    """Write pieces one after the other; one of their ticks lasts `time_base` seconds."""
    starts = np.cumsum([0, *(int(piece.ticks[-1]) for piece in pieces)])
    shown = np.concatenate([piece.ticks[:-1] + start for piece, start in zip(pieces, starts, strict=False)])
    firsts = np.cumsum([0, *(len(piece.decode_order) for piece in pieces)])
    order = np.concatenate([piece.decode_order + first for piece, first in zip(pieces, firsts, strict=False)])
    stamps = Stamps.of(shown, order, int(starts[-1]))
    with OutputFile(path, audio, time_base) as file, open_input(pieces[0].path) as container:
        template = video_stream(container, pieces[0].path)
        tag = HEVC_TAG if template.codec_context.codec.canonical_name == "hevc" else ""
        joined = file.add_video(template, tag)
        file.add_audio()
        place = 0
        for piece in pieces:
            place = append_pictures(piece, joined, file, stamps, place)
        assert place == len(shown), "as many packets as frames"
        file.finish(stamps.end * time_base)


def append_pictures(piece: Pictures, joined: VideoStream, file: OutputFile, stamps: Stamps, place: int) -> int:
    """Copy one file's packets, the first of which is number `place` of all; returns the number after its last."""
    with open_input(piece.path) as container:
        stream = video_stream(container, piece.path)
        try:
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream, packet.time_base = joined, file.time_base
                    packet.pts, packet.dts = int(stamps.shown[place]), int(stamps.decoded[place])
                    packet.duration = int(stamps.durations[place])
                    file.mux([packet], int(stamps.shown[place]) * file.time_base)
                    place += 1
        except av.error.FFmpegError as error:
            raise MediaError(f"cannot read {piece.path}: {reason(error)}. Write it again.") from error
        return place


def check_same_encoding(parts: Sequence[PathLike]) -> None:
    """Raise MediaError if the videos of files cannot be concatenated."""
    with open_input(parts[0]) as container:
        wanted = encoding(video_stream(container, parts[0]))
    for part in parts[1:]:
        with open_input(part) as container:
            if encoding(video_stream(container, part)) != wanted:
                raise MediaError(
                    f"cannot join {part}: its size, clock or encoding is not that of the first part. Write all alike."
                )


def encoding(stream: VideoStream) -> tuple[object, ...]:
    """The properties that concatenated videos must share."""
    context = stream.codec_context
    return context.name, context.width, context.height, context.pix_fmt, context.extradata, stream.time_base
