"""Opening media files: the one place that turns a path into a demuxer, with a sentence for every way it can fail."""

import os
from pathlib import Path
from typing import TypeAlias

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from latentsync.media.threads import decoder_threads

PathLike: TypeAlias = str | os.PathLike[str]

HEAD_BYTES = 512
GIT_LFS_HEAD = b"version https://git-lfs"
# Demuxers that read one file and nothing else. Playlists (HLS, DASH, concat, SDP, image sequences) would open whatever
# other files and addresses they name, so they are not among them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,mxf,flv,asf,ogg,nut,gif,ivf,obu,dv,rm,wtv,"
    "h264,hevc,m4v,mjpeg,yuv4mpegpipe,wav,w64,mp3,aac,ac3,eac3,dts,truehd,flac,aiff,caf,au,amr,ape,tta,wv"
)
STILL_FORMATS = "png_pipe,jpeg_pipe,webp_pipe"
MAX_PIXELS = 1 << 27  # of a picture: 134 megapixels; a damaged header that claims more asks for gigabytes


class MediaError(ValueError):
    """A media file that cannot be read or written; the message names the file, the reason and the way out."""


def file_url(path: PathLike) -> str:
    """The name libav opens: with its protocol, so that colons and leading dashes in a file name mean nothing."""
    return "file:" + os.fspath(path)


def open_input(path: PathLike) -> InputContainer:
    """Open a media file for reading; use the result as a context manager.

    Nothing but this one file is opened, whatever it says: no playlist, no other file, no network.

    Raises MediaError if the file is missing, a folder, empty, a Git LFS pointer, a text file or of no readable format.
    """
    still = still_format(check_readable(path))
    options = {"format_whitelist": still or FORMATS, "protocol_whitelist": "file"}
    try:
        return av.open(file_url(path), format=still, options=options, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaError(f"cannot read {path}: {reason(error)}. Is it a complete video or audio file?") from error


def check_readable(path: PathLike) -> bytes:
    """The first bytes of a file; MediaError for what is certainly no media file, before a demuxer guesses at it."""
    file = Path(path)
    try:
        if not file.exists():
            raise MediaError(f"cannot read {path}: there is no such file. Check the path.")
        if file.is_dir():
            raise MediaError(f"cannot read {path}: it is a folder. Give the path of one file in it.")
        if not file.is_file():
            raise MediaError(f"cannot read {path}: it is no regular file. Give the path of a file.")
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"cannot read {path}: {reason(error)}. Check the path and the file's permissions.") from error
    if not head:
        raise MediaError(f"cannot read {path}: the file is empty. Copy or download it again.")
    if head.startswith(GIT_LFS_HEAD):
        raise MediaError(f"cannot read {path}: it is a Git LFS pointer, not the media itself. Run `git lfs pull`.")
    if is_text(head):
        raise MediaError(f"cannot read {path}: it is a text file, not a video or audio file. Check the path.")
    return head


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are printable ASCII only."""
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def still_format(head: bytes) -> str | None:
    """The demuxer of a still image with these first bytes, or None.

    Named rather than guessed: for image names libav would read `%03d` as the number of an image in a sequence.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png_pipe"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg_pipe"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp_pipe"
    return None


def is_still(container: InputContainer) -> bool:
    """Whether an opened file is one still image."""
    return container.format.name in STILL_FORMATS.split(",")


def video_stream(container: InputContainer, path: PathLike) -> VideoStream:
    """The first real video stream (cover pictures do not count); MediaError if there is none or it is absurdly large."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise MediaError(f"cannot decode the video of {path}: its codec is unknown. Re-encode it as H.264.")
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                raise MediaError(f"{path} has pictures of over {MAX_PIXELS >> 20} megapixels. Scale or repair it.")
            stream.thread_type, stream.codec_context.thread_count = "AUTO", decoder_threads()
            return stream
    raise MediaError(f"{path} has no video stream. Give a file that contains a video.")


def audio_stream(container: InputContainer, path: PathLike) -> AudioStream:
    """The first audio stream; MediaError if there is none."""
    for stream in container.streams.audio:
        if stream.codec_context is None:
            raise MediaError(f"cannot decode the sound of {path}: its codec is unknown. Convert it to WAV.")
        if not stream.rate or not stream.channels:
            raise MediaError(f"cannot decode the sound of {path}: its rate or channels are unknown. Convert it to WAV.")
        return stream
    raise MediaError(f"{path} has no audio stream. Give a file that contains sound.")


def start_sec(container: InputContainer) -> float:
    """Where the file's clock starts, in seconds: the earliest time stamp of its streams, shown by players as 0:00."""
    return (container.start_time or 0) / av.time_base


def reason(error: Exception) -> str:
    """The operating system's or libav's own words for an error, without its class and number."""
    return str(getattr(error, "strerror", None) or error)
