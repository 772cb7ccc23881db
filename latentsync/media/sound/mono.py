"""Sound of any file as 16-bit mono samples: streaming, or one exact stretch of it; and lossless into a FLAC file.

Tensor legend: n samples, int16 `n`. Sample 0 is the start of the file as a player counts it.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from latentsync.files import atomic_write
from latentsync.media.container import MediaError, PathLike, audio_stream, file_url, open_input, reason
from latentsync.media.sound.downmix import MonoResampler
from latentsync.media.sound.read import late_sec
from latentsync.timebase import SAMPLE_RATE_HZ

Samples = NDArray[np.int16]

SEEK_FROM_SEC = 20.0  # a stretch that begins earlier is decoded from the start
EARLY_SEC = 1.0  # decoding begins this long before a stretch: codecs and the resampling filter need some
STRICT = {"err_detect": "explode"}  # a decoder reports damage instead of covering it up


def mono_pieces(path: PathLike, sample_rate_hz: int = SAMPLE_RATE_HZ, strict: bool = False) -> Iterator[Samples]:
    """Yield a file's audio track, mixed to mono and resampled, piece by piece; together as `read_audio` has it.

    Sound that starts later than its file is preceded by silence. `strict`: damaged packets are errors too.

    Raises MediaError if the file is missing, unreadable, has no audio stream, or its sound cannot be decoded.
    """
    with open_input(path) as container:
        stream = audio_stream(container, path)
        if strict:
            stream.codec_context.options = STRICT
        silence = np.zeros(round(late_sec(container, stream) * sample_rate_hz), np.int16)
        if len(silence):
            yield silence
        yield from _resampled(container, stream, path, 0, sample_rate_hz)


def mono_span(path: PathLike, start_sec: float, count: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """The `count` samples from `start_sec` on, as `span_pieces` gives them."""
    return np.concatenate([*span_pieces(path, start_sec, count, sample_rate_hz), np.zeros(0, np.int16)])


def span_pieces(
    path: PathLike, start_sec: float, count: int, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> Iterator[Samples]:
    """Yield `count` samples from `start_sec` on, mono and resampled, piece by piece; silence where the file has no sound.

    Where the stretch lies far into the file, decoding starts shortly before it.

    Raises MediaError as `mono_pieces` does.
    """
    done = 0
    with open_input(path) as container:
        stream = audio_stream(container, path)
        begin_sec = start_sec - late_sec(container, stream)  # in the stream
        first_source = _enter(container, stream, begin_sec)
        place = round((Fraction(first_source, stream.rate) - Fraction(begin_sec)) * sample_rate_hz)  # in the result
        for piece in _resampled(container, stream, path, first_source, sample_rate_hz):
            wanted = piece[max(0, done - place) : max(0, count - place)]
            if len(wanted):
                if place > done:  # the sound begins within the stretch
                    yield np.zeros(place - done, np.int16)
                yield wanted
                done = min(place + len(piece), count)
            place += len(piece)
            if done == count:
                return
    yield np.zeros(count - done, np.int16)


def write_flac(path: PathLike, pieces: Iterable[Samples], sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write mono samples as a FLAC file, which appears when it is complete; MediaError if the disk does not take it."""
    try:
        with atomic_write(path) as partial, av.open(file_url(partial), "w", format="flac") as container:
            stream = container.add_stream("flac", rate=sample_rate_hz)
            stream.codec_context.layout, stream.codec_context.format = "mono", "s16"
            written = 0
            for piece in pieces:
                if len(piece):
                    frame = AudioFrame.from_ndarray(np.ascontiguousarray(piece[None]), format="s16", layout="mono")
                    frame.sample_rate, frame.time_base, frame.pts = sample_rate_hz, Fraction(1, sample_rate_hz), written
                    container.mux(stream.encode(frame))
                    written += len(piece)
            container.mux(stream.encode(None))
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"cannot write {path}: {reason(error)}. Make room or choose another folder.") from error


def _enter(container: InputContainer, stream: AudioStream, begin_sec: float) -> int:
    """Seek to shortly before a second of the stream; returns the sample of the stream at which to begin."""
    if begin_sec < SEEK_FROM_SEC or stream.time_base is None:
        return 0
    target_sec = begin_sec - 2 * EARLY_SEC
    try:
        container.seek(int((stream.start_time or 0) + target_sec / stream.time_base), stream=stream)
    except av.error.FFmpegError:
        return 0
    return int((begin_sec - EARLY_SEC) * stream.rate)


def _resampled(
    container: InputContainer, stream: AudioStream, path: PathLike, first_source: int, sample_rate_hz: int
) -> Iterator[Samples]:
    """Decode from the container's place on, leave out samples before `first_source` of the stream, and resample."""
    resampler = MonoResampler(path, sample_rate_hz)
    place: int | None = None if first_source else 0  # in samples of the stream
    empty = True
    try:
        for frame in container.decode(stream):
            place = _sample_of(frame, stream) if place is None else place
            skip, place = max(0, first_source - place), place + frame.samples
            if skip >= frame.samples:
                continue
            kept = frame if skip == 0 else _tail(frame, skip)
            kept.pts = None
            empty = False
            yield from (out.to_ndarray()[0] for out in resampler.resample(kept))
        if not empty:
            yield from (out.to_ndarray()[0] for out in resampler.resample(None))
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot decode the sound of {path}: {reason(error)}. Repair the file.") from error


def _sample_of(frame: AudioFrame, stream: AudioStream) -> int:
    """Which sample of the stream a frame begins with, by its time stamp."""
    assert frame.time_base is not None and stream.time_base is not None, "decoded frames have a clock"
    begin_sec = float((frame.pts or 0) * frame.time_base - (stream.start_time or 0) * stream.time_base)
    return round(begin_sec * stream.rate)


def _tail(frame: AudioFrame, skip: int) -> AudioFrame:
    """A frame without its first samples."""
    samples: Any = frame.to_ndarray()
    step = 1 if frame.format.is_planar else len(frame.layout.channels)
    rest = AudioFrame.from_ndarray(
        np.ascontiguousarray(samples[:, skip * step :]), format=frame.format.name, layout=frame.layout.name
    )
    rest.sample_rate = frame.sample_rate
    return rest
