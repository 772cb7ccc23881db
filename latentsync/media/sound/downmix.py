"""Mixing a file's channels to mono for networks and measurements.

Usually libswresample mixes them, as in the training of the Whisper encoder. Where channels cancel each other (a cable with
swapped polarity, a balanced signal recorded as stereo) that mix is nearly silent, and the loudest channel is used instead.
The whole file is measured before it is decoded, so that all readers, wherever they begin, use the same mix.

Tensor legend: c channels, n samples, f frequencies of one block.
"""

import os
from collections.abc import Iterator
from functools import lru_cache

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from latentsync.media.container import ChosenTracks, PathLike, audio_stream, check_length, open_input

MEASURED_HZ = 8_000
BLOCK = MEASURED_HZ // 2  # samples measured together
VOICE_HZ = (100, 3600)  # the measured band: a voice, without hum and rumble
CANCELLED = 0.25  # power of the mix relative to that of uncorrelated channels: -6 dB
INVERTED = 0.7  # normalised correlation of a channel with another one's negative
CLEARLY = 1.2  # least ratio of that correlation to the one with the other channel itself
DELAY_SEC = 0.003  # between a channel and its inverted copy, at most
MATTERS = 0.05  # least power relative to the louder channel: a quieter inverted copy cancels little
ONE_PAIR = 0.8  # fraction of the power that the two loudest channels must have, or they are not compared
NEAR_DB = 30.0  # blocks that are quieter than the loudest by more are pauses
CANCELLED_SHARE = 0.2  # fraction of cancelled blocks (pauses excluded) above which a file is not mixed
MEASURES_KEPT = 64


class MonoResampler:
    """Converts frames of any rate and layout to 16-bit mono frames; `resample(None)` flushes it.

    It has the interface of `AudioResampler` and the same result unless the file's channels cancel each other.
    """

    def __init__(self, path: PathLike, sample_rate_hz: int):
        """Raises MediaError as `audio_stream` does."""
        self.channel = single_channel(path)
        self.mono = AudioResampler(format="s16", layout="mono", rate=sample_rate_hz)
        self.float = AudioResampler(format="flt")

    def resample(self, frame: AudioFrame | None) -> list[AudioFrame]:
        if self.channel is None or frame is None:
            return self.mono.resample(frame)
        return [
            out for part in self.float.resample(frame) for out in self.mono.resample(one_channel(part, self.channel))
        ]


def one_channel(frame: AudioFrame, channel: int) -> AudioFrame:
    """A mono frame of one channel of an interleaved float frame."""
    samples = np.ascontiguousarray(channels_of(frame)[channel : channel + 1])
    alone = AudioFrame.from_ndarray(samples, format="flt", layout="mono")
    alone.sample_rate = frame.sample_rate
    return alone


def channels_of(frame: AudioFrame) -> NDArray[np.float32]:
    """The samples c n of an interleaved float frame (PyAV reads planar frames correctly only up to eight channels)."""
    return np.asarray(frame.to_ndarray(), np.float32).reshape(-1, len(frame.layout.channels)).T


def single_channel(path: PathLike) -> int | None:
    """The channel (from 0 on) that is used alone because a file's channels cancel each other; None: they are mixed.

    Cached as long as the file does not change. Raises MediaError as `audio_stream` does; damage is ignored, as decoding reports
    it later.
    """
    key = path if isinstance(path, ChosenTracks) else os.fspath(path)
    status = os.stat(path) if os.path.exists(path) else None
    return _single_channel(key, os.path.abspath(path), *((status.st_size, status.st_mtime_ns) if status else (0, 0)))


@lru_cache(maxsize=MEASURES_KEPT)
def _single_channel(path: PathLike, _location: str, _size: int, _modified: int) -> int | None:
    with open_input(path) as container:
        stream = audio_stream(container, path)
        if stream.channels == 1:
            return None
        powers, cancels = measured(decoded_blocks(plausible(container.decode(stream), path)))
    loudness = powers.max(axis=1, initial=0.0)
    sounds = loudness > loudness.max(initial=0.0) * 10 ** (-NEAR_DB / 10)
    if not sounds.any() or cancels[sounds].mean() <= CANCELLED_SHARE:
        return None
    return int(powers.sum(axis=0).argmax())


def plausible(frames: Iterator[AudioFrame], path: PathLike) -> Iterator[AudioFrame]:
    """The frames up to a length of which the file is too small for more; MediaError there."""
    length_sec = 0.0
    for frame in frames:
        length_sec += frame.samples / frame.sample_rate
        check_length(length_sec, path)
        yield frame


def decoded_blocks(frames: Iterator[AudioFrame]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Blocks c n of all channels at `MEASURED_HZ`, each with the weights c of the mix; up to the first damaged packet."""
    resampler = AudioResampler(format="flt", rate=MEASURED_HZ)
    weights, rest = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    try:
        for frame in frames:
            frame.pts = None
            for part in resampler.resample(frame):
                if not len(weights):
                    weights = mix_weights(part)
                    rest = np.zeros((len(weights), 0), np.float32)
                rest = np.concatenate([rest, channels_of(part)], axis=1)
            while rest.shape[1] >= BLOCK:
                yield rest[:, :BLOCK], weights
                rest = rest[:, BLOCK:]
    except (av.error.FFmpegError, OSError, ValueError):
        pass
    if rest.size:
        yield np.pad(rest, ((0, 0), (0, BLOCK - rest.shape[1]))), weights


def mix_weights(frame: AudioFrame) -> NDArray[np.float32]:
    """The weights by which libswresample mixes the channels of a frame to mono, up to a common factor."""
    channels = len(frame.layout.channels)
    one_by_one = np.eye(channels, dtype=np.float32).reshape(1, -1)
    probe = AudioFrame.from_ndarray(one_by_one, format="flt", layout=frame.layout.name)
    probe.sample_rate = frame.sample_rate
    mixer = AudioResampler(format="flt", layout="mono", rate=frame.sample_rate)
    mixed = [out.to_ndarray()[0] for out in mixer.resample(probe) + mixer.resample(None)]
    return np.concatenate(mixed)[:channels]


def measured(
    blocks: Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """For each block the power of every channel of the mix, [blocks, c], and whether the channels cancel each other."""
    powers, cancels = [], []
    for samples, weights in blocks:
        spectra = np.fft.rfft(samples)
        hz = np.fft.rfftfreq(BLOCK, 1 / MEASURED_HZ)
        spectra[:, (hz < VOICE_HZ[0]) | (hz > VOICE_HZ[1])] = 0
        powers.append((np.abs(spectra) ** 2).sum(axis=1) * (weights != 0))
        cancels.append(is_cancelled(spectra * weights[:, None]))
    return np.array(powers) if powers else np.zeros((0, 0)), np.array(cancels, bool)


def is_cancelled(parts: NDArray[np.complexfloating]) -> bool:
    """Whether the spectra c f of a mix's channels cancel each other, fully or partly, also with a delay between them."""
    power = (np.abs(parts) ** 2).sum(axis=1)
    if not power.any():
        return False
    if (np.abs(parts.sum(axis=0)) ** 2).sum() < CANCELLED * power.sum():
        return True
    first, second = np.argsort(power)[-2:]
    if power[first] + power[second] < ONE_PAIR * power.sum() or power[first] < MATTERS * power[second]:
        return False
    correlation = np.fft.irfft(parts[second] * parts[first].conj())
    reach = round(DELAY_SEC * MEASURED_HZ)
    near = np.concatenate([correlation[-reach:], correlation[: reach + 1]])
    whole = np.sqrt(np.fft.irfft(np.abs(parts[first]) ** 2)[0] * np.fft.irfft(np.abs(parts[second]) ** 2)[0])
    return bool(-near.min() > max(INVERTED * whole, CLEARLY * near.max()))
