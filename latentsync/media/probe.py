"""What a video file contains, without decoding it where its index tells."""

import os
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from latentsync.media.container import MediaError, PathLike, open_input, reason, video_stream

# A packet of these holds several pictures or one that is never shown, so only decoding counts their frames.
COUNTED_BY_DECODING = {"vp8", "mpeg4"}


@dataclass(frozen=True)
class MediaInfo:
    """A video file as a player shows it."""

    width: int  # px, after rotation
    height: int  # px, after rotation
    fps: Fraction  # the average where the rate varies
    frame_count: int  # exact
    duration_sec: float  # of the video stream
    has_audio: bool
    audio_rate_hz: int  # 0 without audio
    channels: int  # 0 without audio
    rotation: int  # degrees counter-clockwise (0, 90, 180, 270) by which the stored frames are turned


def probe(path: PathLike) -> MediaInfo:
    """Describe a video file.

    The frame count comes from the container's index; where it has none, from the packets (the file is read once, not
    decoded), or from decoding for the codecs whose packets are not frames.

    Raises MediaError if the file is missing, unreadable, cut short, a Git LFS pointer or text, or has no video stream
    that can be decoded.
    """
    with open_input(path) as container:
        stream = video_stream(container, path)
        check_complete(stream, path)
        first = first_frame(container, stream, path)
        turned = first.rotation % 180 != 0
        frame_count = indexed_frames(stream)
        fps = stream.average_rate or stream.guessed_rate or Fraction(25)
        sound = container.streams.audio[0] if container.streams.audio else None
        frame_count = frame_count or count_frames(path)
        return MediaInfo(
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            fps=Fraction(fps),
            frame_count=frame_count,
            duration_sec=stream_duration_sec(stream) or float(frame_count / fps),
            has_audio=sound is not None,
            audio_rate_hz=sound.rate if sound else 0,
            channels=sound.channels if sound else 0,
            rotation=first.rotation % 360,
        )


def check_complete(stream: VideoStream, path: PathLike) -> None:
    """Raise MediaError if the index names frames that lie behind the end of the file; decoders would drop them."""
    end_bytes = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end_bytes > os.path.getsize(path):
        raise MediaError(f"{path} is cut short: its index names frames behind its end. Copy or download it again.")


def first_frame(container: InputContainer, stream: VideoStream, path: PathLike) -> VideoFrame:
    try:
        for frame in container.decode(stream):
            return frame
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot decode {path}: {reason(error)}. Re-encode or repair the file.") from error
    raise MediaError(f"{path} holds no video frame. Re-encode or repair the file.")


def indexed_frames(stream: VideoStream) -> int:
    """Number of shown frames by the container's index; 0 if it has no complete one."""
    entries = stream.index_entries
    if stream.frames == 0 or len(entries) != stream.frames:
        return 0
    return sum(not entry.is_discard for entry in entries)


def count_frames(path: PathLike) -> int:
    """Number of shown frames, by reading the whole file."""
    with open_input(path) as container:
        stream = video_stream(container, path)
        if stream.codec_context.name in COUNTED_BY_DECODING:
            return sum(1 for _ in container.decode(stream))
        return sum(bool(packet.size) and not packet.is_discard for packet in container.demux(stream))


def stream_duration_sec(stream: VideoStream) -> float:
    if not stream.duration or stream.time_base is None:
        return 0.0
    return float(stream.duration * stream.time_base)
