"""Mel cepstral coefficients (MFCC), the audio input of SyncNet v2 (sync confidence): 13 coefficients at 100 Hz."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import dct

from latentsync.timebase import SAMPLE_RATE_HZ

FRAMES_PER_BLOCK = 4096  # computed at once, so that memory does not grow with the length of the audio
INT16_SCALE = 32768.0  # scale of the samples in SyncNet v2's training: [-1, 1] times this
SMALLEST = float(np.finfo(np.float64).eps)  # replaces an energy of zero before the logarithm


@dataclass(frozen=True)
class MfccConfig:
    """Parameters of the MFCC; windows and hops in samples. The defaults are those of the public SyncNet v2."""

    sample_rate_hz: int = SAMPLE_RATE_HZ
    window: int = 400
    hop: int = 160
    n_fft: int = 512
    num_filters: int = 26
    num_cepstra: int = 13
    low_hz: float = 0.0
    high_hz: float = SAMPLE_RATE_HZ / 2
    preemphasis: float = 0.97
    lifter: int = 22


EXPERT = MfccConfig()


def mfcc(samples: NDArray[np.generic], config: MfccConfig = EXPERT) -> NDArray[np.float64]:
    """Mel cepstral coefficients (Davis & Mermelstein 1980), the first replaced by the logarithm of the frame's energy.

    Args:
        samples: [n] mono samples at `config.sample_rate_hz` scaled to 16-bit integers, not [-1, 1]; n > 0.

    Returns:
        [1 + ceil((n - window) / hop), num_cepstra] float64; row i starts at sample i * hop, the last is zero padded.

    Raises:
        ValueError: the samples are empty or not one-dimensional.
    """
    rows = []
    for filtered, energy in filter_energies(samples, config):
        cepstra = dct(np.log(_not_zero(filtered)), type=2, norm="ortho", axis=1)[:, : config.num_cepstra]
        cepstra *= _lifter(config)
        cepstra[:, 0] = np.log(_not_zero(energy))
        rows.append(cepstra)
    return np.concatenate(rows)


def filter_energies(
    samples: NDArray[np.generic], config: MfccConfig = EXPERT
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield, in blocks of frames, the energy of every mel filter [frames, num_filters] and of the whole frame [frames].

    `samples` and errors as in `mfcc`.
    """
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"mfcc needs mono samples of shape [n], n > 0; got {list(samples.shape)}")
    filters = mel_triangles(config).T
    frames = _frames(samples.astype(np.float64), config)  # [frames, window], a view
    for first in range(0, len(frames), FRAMES_PER_BLOCK):
        spectrum = np.fft.rfft(frames[first : first + FRAMES_PER_BLOCK], config.n_fft)
        power = (spectrum.real**2 + spectrum.imag**2) / config.n_fft  # [block, n_fft / 2 + 1]
        yield power @ filters, power.sum(axis=1)


def _frames(samples: NDArray[np.float64], config: MfccConfig) -> NDArray[np.float64]:
    """Overlapping windows [frames, window] of the pre-emphasised samples; the last window is zero padded."""
    count = 1 + max(0, -(-(len(samples) - config.window) // config.hop))
    padded = np.zeros((count - 1) * config.hop + config.window)
    padded[: len(samples)] = samples
    padded[1 : len(samples)] -= config.preemphasis * samples[:-1]
    return sliding_window_view(padded, config.window)[:: config.hop]


@lru_cache(maxsize=8)
def mel_triangles(config: MfccConfig) -> NDArray[np.float64]:
    """Triangular filters [num_filters, n_fft // 2 + 1] of height 1, equally spaced in HTK mels, corners rounded to FFT bins."""
    low, high = (2595.0 * np.log10(1.0 + hz / 700.0) for hz in (config.low_hz, config.high_hz))
    corners_hz = 700.0 * (10.0 ** (np.linspace(low, high, config.num_filters + 2) / 2595.0) - 1.0)
    corners = np.floor((config.n_fft + 1) * corners_hz / config.sample_rate_hz)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(config.n_fft // 2 + 1)
    rising = (bins - left) / np.maximum(centre - left, 1)
    falling = (right - bins) / np.maximum(right - centre, 1)
    return np.maximum(0.0, np.where(bins < centre, rising, falling))


def _lifter(config: MfccConfig) -> NDArray[np.float64]:
    """Gain of each coefficient (liftering), which scales up the higher coefficients."""
    return 1.0 + config.lifter / 2 * np.sin(np.pi * np.arange(config.num_cepstra) / config.lifter)


def _not_zero(energy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(energy == 0, SMALLEST, energy)
