"""Mono samples to WAV and FLAC files.

Tensor legend: n samples.
"""

import wave
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame

from latentsync.files import atomic_write
from latentsync.media.container import MediaError, PathLike, file_url, reason
from latentsync.media.sound.read import FULL_SCALE, Samples
from latentsync.timebase import SAMPLE_RATE_HZ


def write_wav(path: PathLike, waveform: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write a mono waveform (float `n`, clipped to [-1, 1)) as a 16-bit WAV file, atomically."""
    assert waveform.ndim == 1, f"a mono waveform has one axis, got shape {waveform.shape}"
    samples = np.clip(np.rint(np.asarray(waveform, np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")
    with atomic_write(path) as partial, partial.open("wb") as stream, wave.open(stream, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate_hz)
        writer.writeframes(samples.tobytes())


def write_flac(path: PathLike, pieces: Iterable[Samples], sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write mono samples as a FLAC file, atomically; MediaError if it cannot be written."""
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
        raise MediaError(
            f"cannot write {path}: {reason(error)}. Free some disk space or choose another folder."
        ) from error
