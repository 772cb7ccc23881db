"""Opening media files: the one place that turns a path into a demuxer, with a sentence for every way it can fail."""

import os
from pathlib import Path
from typing import TypeAlias

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

PathLike: TypeAlias = str | os.PathLike[str]

HEAD_BYTES = 512
GIT_LFS_HEAD = b"version https://git-lfs"


class MediaError(ValueError):
    """A media file that cannot be read or written; the message names the file, the reason and the way out."""


def file_url(path: PathLike) -> str:
    """The name libav opens: with its protocol, so that colons and leading dashes in a file name mean nothing."""
    return "file:" + os.fspath(path)


def open_input(path: PathLike) -> InputContainer:
    """Open a media file for reading; use the result as a context manager.

    Raises MediaError if the file is missing, a folder, empty, a Git LFS pointer, a text file or of no readable format.
    """
    check_readable(path)
    try:
        return av.open(file_url(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"cannot read {path}: {reason(error)}. Is it a complete video or audio file?") from error


def check_readable(path: PathLike) -> None:
    """Raise MediaError for what is certainly no media file, before a demuxer guesses at it."""
    file = Path(path)
    if not file.exists():
        raise MediaError(f"cannot read {path}: there is no such file. Check the path.")
    if file.is_dir():
        raise MediaError(f"cannot read {path}: it is a folder. Give the path of one file in it.")
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"cannot read {path}: {reason(error)}. Check the file's permissions.") from error
    if not head:
        raise MediaError(f"cannot read {path}: the file is empty. Copy or download it again.")
    if head.startswith(GIT_LFS_HEAD):
        raise MediaError(f"cannot read {path}: it is a Git LFS pointer, not the media itself. Run `git lfs pull`.")
    if is_text(head):
        raise MediaError(f"cannot read {path}: it is a text file, not a video or audio file. Check the path.")


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are printable ASCII only."""
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def video_stream(container: InputContainer, path: PathLike) -> VideoStream:
    """The first real video stream (cover pictures do not count); MediaError if there is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    raise MediaError(f"{path} has no video stream. Give a file that contains a video.")


def audio_stream(container: InputContainer, path: PathLike) -> AudioStream:
    """The first audio stream; MediaError if there is none."""
    if container.streams.audio:
        return container.streams.audio[0]
    raise MediaError(f"{path} has no audio stream. Give a file that contains sound.")


def start_sec(container: InputContainer) -> float:
    """Where the file's clock starts, in seconds: the earliest time stamp of its streams, shown by players as 0:00."""
    return (container.start_time or 0) / av.time_base


def reason(error: Exception) -> str:
    """The operating system's or libav's own words for an error, without its class and number."""
    return str(getattr(error, "strerror", None) or error)
