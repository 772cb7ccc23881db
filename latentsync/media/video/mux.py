"""Muxing a video file from packets, atomically.

The file is written as `NAME.partial` and renamed when it is complete; a failure leaves nothing. Its bytes depend on the
packets only: no dates, no random numbers.
"""

import errno
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from latentsync.files import atomic_write, partial_path
from latentsync.media.container import MediaError, PathLike, file_url, open_input, reason
from latentsync.media.mark import Mark
from latentsync.media.probe import MADE_HERE
from latentsync.media.sound.copy import AudioSource, SoundTrack, sound_track
from latentsync.system import replace_file

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO}
MIN_TICKS_PER_SEC = 10_000  # of an MP4 file's time base, so that audio can be placed exactly


def container_format(path: PathLike) -> str:
    """libav's name of the container for a file's suffix; MediaError if it is not supported."""
    suffix = Path(path).suffix.lower()
    if suffix not in CONTAINERS:
        raise MediaError(f"cannot write {path}: outputs are {', '.join(CONTAINERS)} files. Use one of these endings.")
    return CONTAINERS[suffix]


def check_output(path: PathLike) -> None:
    """Create the folder of an output and check that it can be written. Raises MediaError if not."""
    container_format(path)
    if Path(path).is_dir():
        raise MediaError(f"cannot write {path}: it is a folder. Give the path of a file.")
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path)
        partial.open("wb").close()
        partial.unlink()


@contextmanager
def writing(path: PathLike, audio: AudioSource | None = None) -> Iterator[None]:
    """Convert errors of the disk and of libav to a MediaError about writing `path`, or `audio` into it."""
    try:
        yield
    except MediaError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if getattr(error, "errno", None) in DISK_FULL:
            way_out = "Free some space on its disk, or choose another folder."
        elif isinstance(error, PermissionError) and Path(path).exists():
            way_out = "Close it in other programs, or give another name."
        elif audio is not None:
            raise MediaError(
                f"cannot put the sound of {audio.path} into {path}: {reason(error)}. Convert it to WAV."
            ) from error
        else:
            way_out = "Check the folder and the inputs, or choose another folder."
        raise MediaError(f"cannot write {path}: {reason(error)}. {way_out}") from error


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """`atomic_write` that raises MediaError if the file cannot be written."""
    with writing(path), atomic_write(path) as partial:
        yield partial


class OutputFile:
    """A muxer and its output file: a context manager that removes the file unless `finish` has completed it."""

    def __init__(self, path: PathLike, audio: AudioSource | None, time_base: Fraction, mark: Mark | None = None):
        self.path, self.mark = Path(path), mark
        self.partial = partial_path(path)
        self.format = container_format(path)
        self.audio = audio
        self.time_base = time_base
        self.sound: SoundTrack | None = None
        self.opened = ExitStack()

    def __enter__(self) -> "OutputFile":
        check_output(self.path)
        with writing(self.path):
            self.container = self._open()
            written = {"comment": MADE_HERE} if self.mark is None else self.mark.metadata(self.format)
            self.container.metadata.update(written)
        return self

    def _open(self) -> OutputContainer:
        options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
        if self.format != "matroska":
            ticks_per_sec = self.time_base.denominator
            ticks_per_sec *= -(-MIN_TICKS_PER_SEC // ticks_per_sec)
            # the index first, so that browsers play while loading; the same time base for the track and the file
            options |= {"movflags": "+faststart"}
            options |= {"video_track_timescale": str(ticks_per_sec), "movie_timescale": str(ticks_per_sec)}
        opened = av.open(file_url(self.partial), "w", format=self.format, container_options=options)
        return self.opened.enter_context(opened)

    def add_video(self, template: VideoStream, tag: str) -> VideoStream:
        """Add a video stream with the encoding of `template`, with a codec tag where the container has them."""
        stream = self.container.add_stream_from_template(template, opaque=True)
        stream.time_base = self.time_base
        if template.sample_aspect_ratio:  # which some bitstreams do not state, only the container
            stream.codec_context.sample_aspect_ratio = template.sample_aspect_ratio
        if tag and self.format != "matroska":
            stream.codec_context.codec_tag = tag
        return stream

    def add_audio(self) -> None:
        """Add the audio stream; after the video, which players expect first."""
        if self.audio is not None:
            container = self.opened.enter_context(open_input(self.audio.path))
            with writing(self.path, self.audio):
                self.sound = sound_track(self.audio, container, self.container)
                self.container.start_encoding()

    def mux(self, packets: Iterable[Packet], time_sec: Fraction) -> None:
        """Write video packets, and the audio up to `time_sec`."""
        with writing(self.path):
            self.container.mux(list(packets))
        if self.sound is not None:
            with writing(self.path, self.audio):
                self.sound.mux_until(time_sec)

    def finish(self, duration_sec: Fraction) -> None:
        """Complete the file, with its audio cut at `duration_sec`, and rename it."""
        if self.sound is not None:
            with writing(self.path, self.audio):
                self.sound.finish(duration_sec)
        with writing(self.path):
            self.opened.close()
            if self.mark is not None:
                with self.partial.open("ab") as file:
                    file.write(self.mark.box(self.format))
            replace_file(self.partial, self.path)

    def __exit__(self, *error: object) -> None:
        with suppress(av.error.FFmpegError, OSError):  # closing an unfinished file may fail
            self.opened.close()
        self.partial.unlink(missing_ok=True)
