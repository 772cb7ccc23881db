"""Sound in and out: any file's audio track as a mono waveform, and a waveform as a WAV file.

Tensor legend: n samples; a waveform is float32 [-1, 1) `n`.
"""

import math
import wave
from collections.abc import Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from latentsync.files import atomic_write
from latentsync.media.container import MediaError, PathLike, audio_stream, open_input, reason, start_sec
from latentsync.media.sound.downmix import MonoResampler
from latentsync.timebase import SAMPLE_RATE_HZ

FULL_SCALE = 32768  # of a 16-bit sample
LONGEST_PACKET_SEC = 0.25
LATE_START_SEC = 1e-3  # less is the rounding of time stamps


def read_audio(path: PathLike, sample_rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """Decode a file's default audio track, or the one of a `ChosenTracks`, to a mono waveform, float32 `n` in [-1, 1).

    Mixed to mono (unless its channels cancel each other, see `latentsync.media.sound.downmix`) and resampled to 16-bit samples,
    then divided by 32768: the decoding that the Whisper encoder was trained with. Sample 0 is the start of the file: sound
    that starts later than its video is preceded by silence.

    Raises MediaError if the file is missing, unreadable, has no audio stream, or its sound cannot be decoded.
    """
    resampler = MonoResampler(path, sample_rate_hz)
    with open_input(path) as container:
        stream = audio_stream(container, path)
        silence = np.zeros(round(late_sec(container, stream) * sample_rate_hz), dtype=np.int16)
        try:
            pieces = [frame.to_ndarray()[0] for frame in decoded_sound(container, stream, resampler)]
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"cannot decode the sound of {path}: {reason(error)}. Repair the file.") from error
        end_sec = stated_end_sec(container, stream)
    if not pieces:
        raise MediaError(f"the audio stream of {path} is empty. Give a file that contains sound.")
    samples = np.concatenate([silence, *pieces])
    inside_last_packet = 0 < len(samples) / sample_rate_hz - end_sec < LONGEST_PACKET_SEC
    return samples[: round(end_sec * sample_rate_hz) if inside_last_packet else None].astype(np.float32) / FULL_SCALE


def stated_end_sec(container: InputContainer, stream: AudioStream) -> float:
    """When the sound ends by an MP4 file's index, which may be inside its last packet; infinite for other files."""
    if not stream.duration or stream.time_base is None or "mp4" not in container.format.name.split(","):
        return math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start_sec(container)


def decoded_sound(
    container: InputContainer, stream: AudioStream, resampler: AudioResampler | MonoResampler
) -> Iterator[AudioFrame]:
    """Decode a stream through a resampler, its tail included; frames follow each other whatever their time stamps."""
    empty = True
    for frame in container.decode(stream):
        empty = False
        frame.pts = None
        yield from resampler.resample(frame)
    if not empty:
        yield from resampler.resample(None)


def late_sec(container: InputContainer, stream: AudioStream) -> float:
    """How much later than the file the stream starts, in seconds; 0 for less than a millisecond."""
    begin_sec = float((stream.start_time or 0) * (stream.time_base or 0))
    late = begin_sec - start_sec(container)
    return late if late > LATE_START_SEC else 0.0


def write_wav(path: PathLike, waveform: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write a mono waveform (float `n`, clipped to [-1, 1)) as a 16-bit WAV file, which appears when it is complete."""
    assert waveform.ndim == 1, f"a mono waveform has one axis, got shape {waveform.shape}"
    samples = np.clip(np.rint(np.asarray(waveform, np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")
    with atomic_write(path) as partial, partial.open("wb") as stream, wave.open(stream, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate_hz)
        writer.writeframes(samples.tobytes())
