"""Opening media files and selecting their tracks, with a clear error for each way this can fail."""

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

# How many threads decode and convert pictures: one for each core, or the number set by `limit_threads`.
_ALL = 0  # libav's value for one thread for each core
CONVERTER_THREADS = 4  # at most: each cached converter keeps its threads
_limit = _ALL


def limit_threads(count: int) -> None:
    """Limit the decoding and conversion threads of this process to `count`; the pictures do not change."""
    global _limit
    _limit = count


def decoder_threads() -> int:
    """Number of threads for a decoder's `thread_count`; 0: one for each core."""
    return _limit


def converter_threads() -> int:
    """Number of threads for a `VideoReformatter`."""
    return min(_limit or os.cpu_count() or 1, CONVERTER_THREADS)


TrackKind = Literal["video", "audio"]
Track = TypeVar("Track", VideoStream, AudioStream)

HEAD_BYTES = 512
GIT_LFS_HEAD = b"version https://git-lfs"
# Demuxers that read one file and nothing else. Playlists (HLS, DASH, concat, SDP, image sequences) are excluded because
# they open other files and addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,mxf,flv,asf,ogg,nut,gif,ivf,obu,dv,rm,wtv,"
    "h264,hevc,m4v,mjpeg,yuv4mpegpipe,wav,w64,mp3,aac,ac3,eac3,dts,truehd,flac,aiff,caf,au,amr,ape,tta,wv"
)
STILL_FORMATS = "png_pipe,jpeg_pipe,webp_pipe"
MAX_PIXELS = 1 << 27  # of a picture: 134 megapixels; a damaged header that states more would need gigabytes
USUAL_PIXELS = 4096 * 2304  # of a picture in a file of any size
PIXELS_PER_BYTE = 100  # of larger pictures, at most, per byte of the whole file: more are meant to fill the memory
# Of audio; at 1 Hz, which a damaged header may state, each sample would be resampled to 16,000.
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 768_000
ANY_FILE_SEC = 1200.0  # of audio that a file of any size may hold
MIN_BYTES_PER_SEC = 64  # of a longer file, at least: less is no sound, but meant to fill the memory
NO_TRACK = Disposition.attached_pic | Disposition.timed_thumbnails  # cover pictures and previews
USUAL_LAYOUTS = {1: "mono", 2: "stereo"}  # of files that do not state one
STILL_CODECS = {"mjpeg", "png", "bmp", "webp", "tiff"}


class MediaError(ValueError):
    """A media file that cannot be read or written; the message names the file, the reason and a remedy."""


@dataclass(frozen=True)
class ChosenTracks:
    """A media file and the tracks selected in it; accepted wherever a path is.

    Tracks of a kind are numbered from 1, as in players; None is the default track.
    """

    path: PathLike
    video: int | None = None
    audio: int | None = None

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return os.fspath(self.path)


def file_url(path: PathLike) -> str:
    """The `file:` URL that libav opens, so that colons and leading dashes in a file name have no meaning."""
    return "file:" + os.fspath(path)


@contextmanager
def open_input(path: PathLike) -> Iterator[InputContainer]:
    """Open a media file for reading in a `with` block.

    Nothing but this one file is opened, whatever its content: no playlist, no other file, no network.

    Raises MediaError if the file is missing, a folder, empty, a Git LFS pointer, a text file or of no readable format.
    """
    container = opened(path)
    try:
        yield container
    finally:
        wait_for_decoders(container)
        container.close()


def wait_for_decoders(container: InputContainer) -> None:
    """Wait until all decoder threads are idle, to avoid a deadlock when the container is closed.

    PyAV frees a decoder, which joins its threads, while it holds the GIL. A thread that is still decoding (because the reader
    was closed early) and logs a message through Python's logging, which other libraries may have enabled with
    `av.logging.set_level`, waits for the GIL: a deadlock. Flushing waits for the threads without holding it.
    """
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.flush_buffers()


def opened(path: PathLike) -> InputContainer:
    """An open demuxer, which the caller must close; raises MediaError as `open_input` does."""
    still = still_format(check_readable(path))
    options = {"format_whitelist": still or FORMATS, "protocol_whitelist": "file", "max_pixels": str(pixel_limit(path))}
    options["export_xmp"] = "1"  # of .mp4 and .mov files, among the metadata
    try:
        return av.open(file_url(path), format=still, options=options, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaError(f"cannot read {path}: {reason(error)}. Is it a complete video or audio file?") from error


def check_readable(path: PathLike) -> bytes:
    """The first bytes of a file; MediaError if it cannot be a media file, although a demuxer might accept it."""
    file = Path(path)
    try:
        if not file.exists():
            raise MediaError(f"cannot read {path}: there is no such file. Check the path.")
        if file.is_dir():
            raise MediaError(f"cannot read {path}: it is a folder. Give the path of one file in it.")
        if not file.is_file():
            raise MediaError(f"cannot read {path}: it is not a regular file. Give the path of a file.")
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
    """Whether the first bytes of a file are all printable ASCII."""
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def still_format(head: bytes) -> str | None:
    """The demuxer of a still image with these first bytes, or None.

    Chosen here because libav's own choice reads `%03d` in a file name as the number of an image in a sequence.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png_pipe"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg_pipe"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp_pipe"
    return None


def is_still(container: InputContainer) -> bool:
    """Whether an open file is a still image."""
    return container.format.name in STILL_FORMATS.split(",")


def video_stream(container: InputContainer, path: PathLike) -> VideoStream:
    """The selected video track (see `selected_track`), with its decoder threads set.

    Raises MediaError if there is no such track, its codec is unknown, or its pictures exceed `MAX_PIXELS`.
    """
    stream = selected_track(video_tracks(container), "video", path)
    if stream.codec_context is None:
        raise MediaError(f"cannot decode the video of {path}: its codec is unknown. Re-encode it as H.264.")
    check_pixels(stream.codec_context.width * stream.codec_context.height, path)
    stream.codec_context.options = {"max_pixels": str(pixel_limit(path))}
    stream.thread_type, stream.codec_context.thread_count = "AUTO", decoder_threads()
    return stream


def audio_stream(container: InputContainer, path: PathLike) -> AudioStream:
    """The selected audio track (see `selected_track`).

    Raises MediaError if there is no such track, or its codec, rate or channels are unknown, or its rate is out of range.
    """
    stream = selected_track(audio_tracks(container), "audio", path)
    if stream.codec_context is None:
        raise MediaError(f"cannot decode the sound of {path}: its codec is unknown. Convert it to WAV.")
    if not stream.rate or not stream.channels:
        raise MediaError(f"cannot decode the sound of {path}: its rate or channels are unknown. Convert it to WAV.")
    if not MIN_RATE_HZ <= stream.rate <= MAX_RATE_HZ:
        limits = f"{MIN_RATE_HZ // 1000} to {MAX_RATE_HZ // 1000} kHz"
        raise MediaError(
            f"cannot decode the sound of {path}: its sample rate of {stream.rate} Hz is out of range"
            f" ({limits}). Repair or convert the file."
        )
    return stream


def pixel_limit(path: PathLike) -> int:
    """The largest picture, in pixels, that is decoded from a file of this size."""
    return min(MAX_PIXELS, max(USUAL_PIXELS, PIXELS_PER_BYTE * os.path.getsize(path)))


def check_pixels(pixels: int, path: PathLike) -> None:
    """Raise MediaError if pictures of that many pixels are too large for any file, or for one of this size."""
    if pixels > MAX_PIXELS:
        raise MediaError(f"{path} has pictures of over {MAX_PIXELS >> 20} megapixels. Scale or repair it.")
    if pixels > pixel_limit(path):
        raise MediaError(
            f"{path} states pictures of {pixels / 1e6:.0f} megapixels in {os.path.getsize(path) / 1e3:.0f} kB, which is not"
            " plausible. Scale it down, or export it again."
        )


def check_length(length_sec: float, path: PathLike) -> None:
    """Raise MediaError if a file is too small to hold that much audio."""
    size = os.path.getsize(path)
    if length_sec > max(ANY_FILE_SEC, size / MIN_BYTES_PER_SEC):
        raise MediaError(
            f"{path} holds or states over {length_sec / 60:.0f} minutes of sound in {size / 1e3:.0f} kB, which is not plausible."
            " Export it again."
        )


def video_tracks(container: InputContainer) -> list[VideoStream]:
    """The video tracks that are numbered: without cover pictures, previews, and still images beside a video."""
    tracks = [stream for stream in container.streams.video if not stream.disposition & NO_TRACK]
    return [stream for stream in tracks if not is_one_picture(stream)] or tracks


def is_one_picture(stream: VideoStream) -> bool:
    """Whether a video stream holds a single still image, such as the thumbnails that cameras and editors add."""
    if stream.disposition & Disposition.still_image:
        return True
    known = stream.codec_context is not None and stream.codec_context.codec.canonical_name in STILL_CODECS
    return known and stream.frames < 2  # 0: the container does not state it


def audio_tracks(container: InputContainer) -> list[AudioStream]:
    """The audio tracks; all of them are numbered."""
    return list(container.streams.audio)


def selected_track(tracks: Sequence[Track], kind: TrackKind, path: PathLike) -> Track:
    """The track that a path selects (`ChosenTracks`); else, of those that can be decoded, the default one or the first.

    Raises MediaError if there is none, or none of that number; the message lists the tracks of the file.
    """
    if not tracks:
        content = "a video" if kind == "video" else "sound"
        raise MediaError(f"{path} has no {kind} stream. Give a file that contains {content}.")
    number = getattr(path, kind) if isinstance(path, ChosenTracks) else None
    if number is None:
        decodable = [track for track in tracks if is_decodable(track)] or tracks
        return next((track for track in decodable if track.disposition & Disposition.default), decodable[0])
    if not 1 <= number <= len(tracks):
        listed = ", ".join(f"{place} ({describe_track(track)})" for place, track in enumerate(tracks, 1))
        raise MediaError(f"{path} has no {kind} track {number}. It has {listed}: choose one of these.")
    return tracks[number - 1]


def is_decodable(track: VideoStream | AudioStream) -> bool:
    if track.codec_context is None:
        return False
    return isinstance(track, VideoStream) or bool(track.channels and MIN_RATE_HZ <= track.rate <= MAX_RATE_HZ)


def describe_track(track: VideoStream | AudioStream) -> str:
    """A track's codec, size or channels, language, and whether it is the default one, as text."""
    if track.codec_context is None:
        facts = ["unknown codec"]
    elif isinstance(track, VideoStream):
        facts = [track.codec_context.codec.canonical_name, f"{track.width}x{track.height}"]
    else:
        facts = [track.codec_context.codec.canonical_name, USUAL_LAYOUTS.get(track.channels, track.layout.name)]
    facts += [track.language] if track.language and track.language != "und" else []
    return ", ".join([*facts, "default"] if track.disposition & Disposition.default else facts)


def default_track(path: PathLike, kind: TrackKind) -> str | None:
    """A description of the track that is used if a file has several and none was chosen; else None.

    Raises MediaError as `open_input` does.
    """
    if isinstance(path, ChosenTracks) and getattr(path, kind) is not None:
        return None
    with open_input(path) as container:
        if kind == "video":
            return describe_selection(video_tracks(container), kind, path)
        return describe_selection(audio_tracks(container), kind, path)


def describe_selection(tracks: Sequence[Track], kind: TrackKind, path: PathLike) -> str | None:
    """The selected one of several tracks, as "2 of 3 (aac, stereo, eng, default)"; None if there are not several."""
    if len(tracks) < 2:
        return None
    selected = selected_track(tracks, kind, path)
    return f"{tracks.index(selected) + 1} of {len(tracks)} ({describe_track(selected)})"


def start_sec(container: InputContainer) -> float:
    """The earliest time stamp of the file's streams in seconds, which players show as 0:00."""
    return (container.start_time or 0) / av.time_base


def reason(error: Exception) -> str:
    """The operating system's or libav's message of an error, without its class and number."""
    return str(getattr(error, "strerror", None) or error)
