"""A file's audio track as mono samples: complete, piece by piece, or one exact span of it.

Tensor legend: n samples, float32 [-1, 1) or int16 `n`. Sample 0 is the start of the file as players count it.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from latentsync.media.container import MediaError, PathLike, audio_stream, check_length, open_input, reason, start_sec
from latentsync.media.sound.downmix import MonoResampler
from latentsync.timebase import SAMPLE_RATE_HZ

Samples = NDArray[np.int16]

FULL_SCALE = 32768  # of a 16-bit sample
LONGEST_PACKET_SEC = 0.25
LATE_START_SEC = 1e-3  # a smaller delay is the rounding of time stamps
SEEK_FROM_SEC = 20.0  # a span that begins earlier is decoded from the start
EARLY_SEC = 1.0  # decoding begins this long before a span: codecs and the resampling filter need it
STRICT = {"err_detect": "explode"}  # the decoder raises an error for damage instead of concealing it


def read_audio(path: PathLike, sample_rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """Decode a file's default audio track, or the one selected by a `ChosenTracks`, to a mono waveform, float32 `n` in [-1, 1).

    Mixed to mono (unless its channels cancel each other, see `latentsync.media.sound.downmix`) and resampled to 16-bit samples,
    then divided by 32768: the decoding that the Whisper encoder was trained with. Sample 0 is the start of the file: audio
    that starts later than its video is preceded by silence.

    Raises MediaError if the file is missing, unreadable, has no audio stream, or its audio cannot be decoded.
    """
    resampler = MonoResampler(path, sample_rate_hz)
    with open_input(path) as container:
        stream = audio_stream(container, path)
        silence = silence_before(container, stream, path, sample_rate_hz)
        pieces, count = [silence], len(silence)
        try:
            for frame in decoded_sound(container, stream, resampler):
                pieces.append(frame.to_ndarray()[0])
                count += frame.samples
                check_length(count / sample_rate_hz, path)
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"cannot decode the sound of {path}: {reason(error)}. Repair the file.") from error
        end_sec = stated_end_sec(container, stream)
    if len(pieces) == 1:
        raise MediaError(f"the audio stream of {path} is empty. Give a file that contains sound.")
    inside_last_packet = 0 < count / sample_rate_hz - end_sec < LONGEST_PACKET_SEC
    waveform = as_float(pieces, count)
    return waveform[: round(end_sec * sample_rate_hz)].copy() if inside_last_packet else waveform


def as_float(pieces: list[Samples], count: int) -> np.ndarray:
    """Pieces of `count` samples together, float32 [-1, 1); empties the list, so that both need memory only in part."""
    waveform, place = np.empty(count, np.float32), 0
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        np.divide(piece, FULL_SCALE, out=waveform[place : place + len(piece)], dtype=np.float32)
        place += len(piece)
    return waveform


def stated_sec(path: PathLike) -> float:
    """The end of the default or selected audio track in seconds, by its packets; nothing is decoded.

    Raises MediaError as `read_audio` does, and if the file is too small for so much sound.
    """
    with open_input(path) as container:
        stream = audio_stream(container, path)
        begin_sec, ticks = late_sec(container, stream), 0
        check_length(begin_sec, path)
        try:
            for packet in container.demux(stream):
                ticks += packet.duration or 0
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"cannot read the sound of {path}: {reason(error)}. Repair the file.") from error
        end_sec = begin_sec + float(ticks * (stream.time_base or 0))
    check_length(end_sec, path)
    return end_sec


def stated_end_sec(container: InputContainer, stream: AudioStream) -> float:
    """The end of the audio by an MP4 file's index, which may be inside its last packet; infinite for other files."""
    if not stream.duration or stream.time_base is None or "mp4" not in container.format.name.split(","):
        return math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start_sec(container)


def decoded_sound(
    container: InputContainer, stream: AudioStream, resampler: AudioResampler | MonoResampler
) -> Iterator[AudioFrame]:
    """Decode a stream and resample it, with the resampler's tail; time stamps are ignored, frames are contiguous."""
    empty = True
    for frame in container.decode(stream):
        empty = False
        frame.pts = None
        yield from resampler.resample(frame)
    if not empty:
        yield from resampler.resample(None)


def late_sec(container: InputContainer, stream: AudioStream) -> float:
    """The start of the stream relative to the start of the file, in seconds; 0 for less than a millisecond."""
    begin_sec = float((stream.start_time or 0) * (stream.time_base or 0))
    late = begin_sec - start_sec(container)
    return late if late > LATE_START_SEC else 0.0


def silence_before(container: InputContainer, stream: AudioStream, path: PathLike, sample_rate_hz: int) -> Samples:
    """Silence from the start of the file to that of the stream; MediaError if the file is too small for so much sound."""
    length_sec = late_sec(container, stream)
    check_length(length_sec, path)
    return np.zeros(round(length_sec * sample_rate_hz), np.int16)


def mono_pieces(path: PathLike, sample_rate_hz: int = SAMPLE_RATE_HZ, strict: bool = False) -> Iterator[Samples]:
    """Yield a file's audio track piece by piece, mixed to mono and resampled as by `read_audio`.

    Audio that starts later than its file is preceded by silence. With `strict`, damaged packets raise an error too.

    Raises MediaError if the file is missing, unreadable, has no audio stream, or its audio cannot be decoded.
    """
    with open_input(path) as container:
        stream = audio_stream(container, path)
        if strict:
            stream.codec_context.options = STRICT
        silence = silence_before(container, stream, path, sample_rate_hz)
        if len(silence):
            yield silence
        yield from _resampled(container, stream, path, 0, sample_rate_hz)


def mono_span(path: PathLike, start_sec: float, count: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """The `count` samples from `start_sec` on, as `span_pieces` yields them."""
    return np.concatenate([*span_pieces(path, start_sec, count, sample_rate_hz), np.zeros(0, np.int16)])


def span_pieces(
    path: PathLike, start_sec: float, count: int, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> Iterator[Samples]:
    """Yield `count` samples from `start_sec` on, piece by piece, mono and resampled; silence where the file has no audio.

    Decoding of a span far into the file starts shortly before it.

    Raises MediaError as `mono_pieces` does.
    """
    done = 0
    with open_input(path) as container:
        stream = audio_stream(container, path)
        begin_sec = start_sec - late_sec(container, stream)  # in the stream
        first_source = _seek(container, stream, begin_sec)
        place = round((Fraction(first_source, stream.rate) - Fraction(begin_sec)) * sample_rate_hz)  # in the result
        for piece in _resampled(container, stream, path, first_source, sample_rate_hz):
            wanted = piece[max(0, done - place) : max(0, count - place)]
            if len(wanted):
                if place > done:  # the audio begins within the span
                    yield np.zeros(place - done, np.int16)
                yield wanted
                done = min(place + len(piece), count)
            place += len(piece)
            if done == count:
                return
    yield np.zeros(count - done, np.int16)


def _seek(container: InputContainer, stream: AudioStream, begin_sec: float) -> int:
    """Seek to shortly before `begin_sec` of the stream; returns the sample of the stream at which to begin."""
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
    """Decode from the container's current position, drop samples before `first_source` of the stream, and resample."""
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
    """The sample of the stream at which a frame begins, by its time stamp."""
    assert frame.time_base is not None and stream.time_base is not None, "decoded frames have a time base"
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
