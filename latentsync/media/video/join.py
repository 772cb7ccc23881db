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
from latentsync.media.mark import Mark
from latentsync.media.sound.copy import AudioSource
from latentsync.media.video.film import Film
from latentsync.media.video.mux import OutputFile
from latentsync.media.video.nal import HeaderError

HEVC_TAG = "hvc1"  # Apple's players do not support libav's default, hev1


@dataclass(frozen=True)
class Pictures:
    """The encoded pictures of one file and their times in the output."""

    path: PathLike
    ticks: np.ndarray  # int64 n + 1: time of each picture, the first at 0, and the end of the last
    decode_order: np.ndarray  # int64 n: index of the picture of each packet
    frames: range | None = None  # of a film, of which only these are taken; None: it is a whole file


def join(parts: Sequence[PathLike], path: PathLike, audio: AudioSource | None = None, mark: Mark | None = None) -> None:
    """Concatenate the video of files that were written by `VideoWriter` in the same format, with new audio and a mark.

    Every frame keeps its packet and its exact duration. The bytes of the result depend only on the parts, the audio
    and the mark. Parts are .mp4 or .mov files (`VideoFormat.segment_suffix`), which store exact times; the result may be .mkv.

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
    write_file(pieces, path, indexes[0].time_base, audio, mark=mark)


def join_film(
    film: Film,
    parts: Sequence[tuple[range, PathLike]],
    ticks: np.ndarray,
    time_base: Fraction,
    path: PathLike,
    audio: AudioSource | None = None,
    mark: Mark | None = None,
) -> None:
    """Write a film in which some frames are replaced by encoded parts; the packets of all others are copied.

    `parts`: frames of the film, rising, and the file of `VideoWriter` with as many; together they are `Film.spans`. `ticks` [n + 1]
    of `time_base` seconds: the time of each frame, the first at 0, and the end.

    Raises MediaError as `join` does.
    """
    check_same_encoding([part for _, part in parts])
    pieces, done = [], 0
    for frames, part in [*parts, (range(film.index.frame_count, film.index.frame_count), film.path)]:
        if done < frames.start:
            pieces.append(film_piece(film, range(done, frames.start), ticks))
        if frames:
            pieces.append(Pictures(part, shifted(ticks, frames), frame_index(part).decode_order))
        done = frames.stop
    write_file(pieces, path, time_base, audio, film, mark)


def film_piece(film: Film, frames: range, ticks: np.ndarray) -> Pictures:
    """The packets of some frames of a film."""
    order = film.index.decode_order
    order = order[(order >= frames.start) & (order < frames.stop)] - frames.start
    return Pictures(film.path, shifted(ticks, frames), order, frames)


def shifted(ticks: np.ndarray, frames: range) -> np.ndarray:
    """Times of frames and their end, the first at 0."""
    return ticks[frames.start : frames.stop + 1] - ticks[frames.start]


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


def write_file(
    pieces: Sequence[Pictures],
    path: PathLike,
    time_base: Fraction,
    audio: AudioSource | None,
    film: Film | None = None,
    mark: Mark | None = None,
) -> None:
    """Write pieces one after the other, some of them of `film`; one of their ticks lasts `time_base` seconds."""
    starts = np.cumsum([0, *(int(piece.ticks[-1]) for piece in pieces)])
    shown = np.concatenate([piece.ticks[:-1] + start for piece, start in zip(pieces, starts, strict=False)])
    firsts = np.cumsum([0, *(len(piece.decode_order) for piece in pieces)])
    order = np.concatenate([piece.decode_order + first for piece, first in zip(pieces, firsts, strict=False)])
    stamps = Stamps.of(shown, order, int(starts[-1]))
    first = pieces[0].path if film is None else film.path
    with OutputFile(path, audio, time_base, mark) as file, open_input(first) as container:
        template = video_stream(container, first)
        tag = HEVC_TAG if template.codec_context.codec.canonical_name == "hevc" else ""
        joined = file.add_video(template, tag)
        if film is not None:
            others = [header_of(piece.path) for piece in pieces if piece.frames is None][:1]
            copied = [piece.frames.start for piece in pieces if piece.frames is not None]
            joined.codec_context.extradata = film.joined_header(others, copied)
        file.add_audio()
        place = 0
        for piece in pieces:
            place = append_pictures(piece, joined, file, stamps, place, film)
        assert place == len(shown), "as many packets as frames"
        file.finish(stamps.end * time_base)


def header_of(path: PathLike) -> bytes:
    """The codec's header of a video track."""
    with open_input(path) as container:
        return video_stream(container, path).codec_context.extradata or b""


def append_pictures(
    piece: Pictures, joined: VideoStream, file: OutputFile, stamps: Stamps, place: int, film: Film | None = None
) -> int:
    """Copy one file's packets, the first of which is number `place` of all; returns the number after its last."""
    with open_input(piece.path) as container:
        stream = video_stream(container, piece.path)
        packets = container.demux(stream)
        if film is not None and piece.frames is not None:
            packets = film.packets(container, stream, piece.frames)
        elif film is not None:
            packets = film.new_packets(container, stream)
        try:
            for packet in packets:
                if packet.size:
                    packet.stream, packet.time_base = joined, file.time_base
                    packet.pts, packet.dts = int(stamps.shown[place]), int(stamps.decoded[place])
                    packet.duration = int(stamps.durations[place])
                    file.mux([packet], int(stamps.shown[place]) * file.time_base)
                    place += 1
        except av.error.FFmpegError as error:
            raise MediaError(f"cannot read {piece.path}: {reason(error)}. Write it again.") from error
        except HeaderError as error:
            raise MediaError(
                f"cannot join {piece.path} with packets of the film: {error}. Choose another codec, so that all is encoded."
            ) from error
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
