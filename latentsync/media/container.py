"""Opening media files: the one place that turns a path into a demuxer, with a sentence for every way it can fail."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from latentsync.files import PathLike

# How many cores decoding and converting pictures take: all, or as many as a process was told that shares its machine.
_ALL = 0  # libav's word for them
CONVERTER_THREADS = 4  # at most: each conversion that stays prepared keeps them
_limit = _ALL


def limit_threads(count: int) -> None:
    """Let all reading of this process take `count` cores from now on; the pictures are the same."""
    global _limit
    _limit = count


def decoder_threads() -> int:
    """For a decoder's `thread_count`."""
    return _limit


def converter_threads() -> int:
    """For a `VideoReformatter`."""
    return min(_limit or os.cpu_count() or 1, CONVERTER_THREADS)


TrackKind = Literal["video", "audio"]
Track = TypeVar("Track", VideoStream, AudioStream)

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
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 768_000  # of sound; 1 Hz in a damaged header would become 16,000 samples for each one
NO_TRACK = Disposition.attached_pic | Disposition.timed_thumbnails  # cover pictures and previews
USUAL_LAYOUTS = {1: "mono", 2: "stereo"}  # of files that do not name one
STILL_CODECS = {"mjpeg", "png", "bmp", "webp", "tiff"}


class MediaError(ValueError):
    """A media file that cannot be read or written; the message names the file, the reason and the way out."""


@dataclass(frozen=True)
class ChosenTracks:
    """A media file and which of its tracks are meant; it may stand wherever a path may.

    Tracks of a kind are counted from 1 on, as players do; None is the default one.
    """

    path: PathLike
    video: int | None = None
    audio: int | None = None

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return os.fspath(self.path)


def file_url(path: PathLike) -> str:
    """The name libav opens: with its protocol, so that colons and leading dashes in a file name mean nothing."""
    return "file:" + os.fspath(path)


@contextmanager
def open_input(path: PathLike) -> Iterator[InputContainer]:
    """Open a media file for reading, for a `with` block, which may be left at any time and in any way.

    Nothing but this one file is opened, whatever it says: no playlist, no other file, no network.

    Raises MediaError if the file is missing, a folder, empty, a Git LFS pointer, a text file or of no readable format.
    """
    container = opened(path)
    try:
        yield container
    finally:
        rest_decoders(container)
        container.close()


def rest_decoders(container: InputContainer) -> None:
    """Wait until no decoder thread works any more.

    PyAV frees a decoder, which joins its threads, while it holds Python's global lock. A thread that is still decoding
    (the next frames of a reader that was left early) and reports something to Python's logging, which other libraries may
    have turned on with `av.logging.set_level`, waits for that lock: neither would ever go on. Flushing waits without it.
    """
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.flush_buffers()


def opened(path: PathLike) -> InputContainer:
    """A demuxer that the caller closes; MediaError as `open_input`."""
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
    """The video track that is meant (see `meant_track`), ready to be decoded.

    Raises MediaError if there is no such track, its codec is unknown, or its pictures are absurdly large.
    """
    stream = meant_track(video_tracks(container), "video", path)
    if stream.codec_context is None:
        raise MediaError(f"cannot decode the video of {path}: its codec is unknown. Re-encode it as H.264.")
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        raise MediaError(f"{path} has pictures of over {MAX_PIXELS >> 20} megapixels. Scale or repair it.")
    stream.thread_type, stream.codec_context.thread_count = "AUTO", decoder_threads()
    return stream


def audio_stream(container: InputContainer, path: PathLike) -> AudioStream:
    """The audio track that is meant (see `meant_track`).

    Raises MediaError if there is no such track, or its codec is unknown, or its rate or channels are none.
    """
    stream = meant_track(audio_tracks(container), "audio", path)
    if stream.codec_context is None:
        raise MediaError(f"cannot decode the sound of {path}: its codec is unknown. Convert it to WAV.")
    if not stream.rate or not stream.channels:
        raise MediaError(f"cannot decode the sound of {path}: its rate or channels are unknown. Convert it to WAV.")
    if not MIN_RATE_HZ <= stream.rate <= MAX_RATE_HZ:
        limits = f"{MIN_RATE_HZ // 1000} to {MAX_RATE_HZ // 1000} kHz"
        raise MediaError(
            f"cannot decode the sound of {path}: it says that it has {stream.rate} samples a second, which no sound has"
            f" ({limits} are read). Repair or convert the file."
        )
    return stream


def video_tracks(container: InputContainer) -> list[VideoStream]:
    """The video tracks as they are counted: without cover pictures, previews, and single pictures beside a film."""
    tracks = [stream for stream in container.streams.video if not stream.disposition & NO_TRACK]
    return [stream for stream in tracks if not is_one_picture(stream)] or tracks


def is_one_picture(stream: VideoStream) -> bool:
    """Whether a video stream holds one still image, as the thumbnails that cameras and editors add."""
    if stream.disposition & Disposition.still_image:
        return True
    known = stream.codec_context is not None and stream.codec_context.codec.canonical_name in STILL_CODECS
    return known and stream.frames < 2  # 0: the container does not tell


def audio_tracks(container: InputContainer) -> list[AudioStream]:
    """The audio tracks as they are counted: all of them."""
    return list(container.streams.audio)


def meant_track(tracks: Sequence[Track], kind: TrackKind, path: PathLike) -> Track:
    """The track that a path chooses (`ChosenTracks`); else, of those that can be decoded, the default one or the first.

    Raises MediaError if there is none, or none of that number: the sentence lists those that there are.
    """
    if not tracks:
        content = "a video" if kind == "video" else "sound"
        raise MediaError(f"{path} has no {kind} stream. Give a file that contains {content}.")
    number = getattr(path, kind) if isinstance(path, ChosenTracks) else None
    if number is None:
        able = [track for track in tracks if is_decodable(track)] or tracks
        return next((track for track in able if track.disposition & Disposition.default), able[0])
    if not 1 <= number <= len(tracks):
        listed = ", ".join(f"{place} ({facts_of(track)})" for place, track in enumerate(tracks, 1))
        raise MediaError(f"{path} has no {kind} track {number}. It has {listed}: choose one of these.")
    return tracks[number - 1]


def is_decodable(track: VideoStream | AudioStream) -> bool:
    if track.codec_context is None:
        return False
    return isinstance(track, VideoStream) or bool(track.channels and MIN_RATE_HZ <= track.rate <= MAX_RATE_HZ)


def facts_of(track: VideoStream | AudioStream) -> str:
    """What tells a track from its neighbours: codec, size or channels, language, and whether it is the default one."""
    if track.codec_context is None:
        facts = ["unknown codec"]
    elif isinstance(track, VideoStream):
        facts = [track.codec_context.codec.canonical_name, f"{track.width}x{track.height}"]
    else:
        facts = [track.codec_context.codec.canonical_name, USUAL_LAYOUTS.get(track.channels, track.layout.name)]
    facts += [track.language] if track.language and track.language != "und" else []
    return ", ".join([*facts, "default"] if track.disposition & Disposition.default else facts)


def default_track(path: PathLike, kind: TrackKind) -> str | None:
    """The track that is taken where a file has several and none is chosen: its number and what it is; else None.

    Raises MediaError as `open_input`.
    """
    if isinstance(path, ChosenTracks) and getattr(path, kind) is not None:
        return None
    with open_input(path) as container:
        if kind == "video":
            return place_of(video_tracks(container), kind, path)
        return place_of(audio_tracks(container), kind, path)


def place_of(tracks: Sequence[Track], kind: TrackKind, path: PathLike) -> str | None:
    """Which of several tracks is meant, as "2 of 3 (aac, stereo, eng, default)"; None where there are not several."""
    if len(tracks) < 2:
        return None
    meant = meant_track(tracks, kind, path)
    return f"{tracks.index(meant) + 1} of {len(tracks)} ({facts_of(meant)})"


def start_sec(container: InputContainer) -> float:
    """Where the file's clock starts, in seconds: the earliest time stamp of its streams, shown by players as 0:00."""
    return (container.start_time or 0) / av.time_base


def reason(error: Exception) -> str:
    """The operating system's or libav's own words for an error, without its class and number."""
    return str(getattr(error, "strerror", None) or error)
