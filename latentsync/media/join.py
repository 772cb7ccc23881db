"""Finished pieces of a video joined to one file without encoding them again."""

from collections.abc import Sequence
from fractions import Fraction

from av.video.stream import VideoStream

from latentsync.media.container import MediaError, PathLike, open_input, video_stream
from latentsync.media.mp4 import Mp4File
from latentsync.media.sound import AudioSource


def join_videos(parts: Sequence[PathLike], path: PathLike, audio: AudioSource | None = None) -> None:
    """Write the pictures of MP4 files that one kind of `VideoWriter` wrote, one after the other, with new sound.

    Raises MediaError as `VideoWriter` does, and if the parts differ in codec settings, size or frame rate.
    """
    assert parts, "there is at least one part to join"
    with open_input(parts[0]) as container, Mp4File(path, audio) as file:
        first = video_stream(container, parts[0])
        joined = file.container.add_stream_from_template(first)
        file.add_sound()
        frame_count = 0
        for part in parts:
            frame_count += append_pictures(part, first, joined, file, frame_count)
        file.finish(float(frame_count / frame_rate(first)))


def append_pictures(part: PathLike, first: VideoStream, joined: VideoStream, file: Mp4File, start_frame: int) -> int:
    """Copy one part's packets, shown from `start_frame` on; returns the part's number of frames."""
    with open_input(part) as container:
        stream = video_stream(container, part)
        check_alike(stream, first, part)
        assert stream.time_base is not None, "an opened stream has a time base"
        ticks = 1 / (frame_rate(stream) * stream.time_base)  # per frame
        # A short part reorders fewer pictures than a long one; one clock of decoding for all keeps the rate even.
        late_frames = stream.codec_context.reorder_depth
        index = start_frame
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                packet.pts += round(start_frame * ticks)
                packet.dts = round((index - late_frames) * ticks)
                packet.stream = joined
                index += 1
                file.mux([packet], float(index / frame_rate(stream)))
        return index - start_frame


def frame_rate(stream: VideoStream) -> Fraction:
    assert stream.average_rate, "an MP4 file has a frame rate"
    return stream.average_rate


def check_alike(stream: VideoStream, first: VideoStream, part: PathLike) -> None:
    context, wanted = stream.codec_context, first.codec_context
    same_size = (context.width, context.height) == (wanted.width, wanted.height)
    if not same_size or context.extradata != wanted.extradata or stream.average_rate != first.average_rate:
        raise MediaError(f"cannot join {part}: size, rate or encoding differ from the first part's. Write all alike.")
