"""Short-time spectra in bounded memory and Slaney mel filters, shared by both mel spectrograms."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

FRAMES_PER_BLOCK = 4096  # computed at once, so that memory does not grow with the length of the audio

SLANEY_LINEAR_HZ = 200.0 / 3.0  # width of a mel below 1 kHz
SLANEY_BREAK_HZ = 1000.0
SLANEY_BREAK_MEL = SLANEY_BREAK_HZ / SLANEY_LINEAR_HZ
SLANEY_LOG_STEP = np.log(6.4) / 27.0  # log of the frequency ratio of one mel above 1 kHz


def hz_to_mel(hz: float) -> float:
    """Frequency on Slaney's scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above."""
    if hz < SLANEY_BREAK_HZ:
        return hz / SLANEY_LINEAR_HZ
    return SLANEY_BREAK_MEL + float(np.log(hz / SLANEY_BREAK_HZ)) / SLANEY_LOG_STEP


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    above = SLANEY_BREAK_HZ * np.exp(SLANEY_LOG_STEP * (mel - SLANEY_BREAK_MEL))
    return np.where(mel < SLANEY_BREAK_MEL, SLANEY_LINEAR_HZ * mel, above)


@lru_cache(maxsize=8)
def mel_filters(num_mels: int, n_fft: int, sample_rate_hz: int, fmin_hz: float, fmax_hz: float) -> Tensor:
    """Triangular filters [num_mels, n_fft // 2 + 1], float32, equally spaced in Slaney mels, of unit area in Hz."""
    bins_hz = np.linspace(0.0, sample_rate_hz / 2, n_fft // 2 + 1)
    corners_hz = mel_to_hz(np.linspace(hz_to_mel(fmin_hz), hz_to_mel(fmax_hz), num_mels + 2))
    low, centre, high = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * 2.0 / (high - low)).astype(np.float32))


def spectra(padded: Tensor, n_fft: int, hop: int) -> Iterator[Tensor]:
    """Yield complex spectra [frames, n_fft // 2 + 1] of Hann-windowed frames of `padded` [n], in blocks of frames.

    Frame i covers samples i * hop ... i * hop + n_fft - 1; the window is periodic. The dtype follows that of `padded`.
    """
    window = torch.hann_window(n_fft, dtype=padded.dtype, device=padded.device)
    for block in padded.unfold(0, n_fft, hop).split(FRAMES_PER_BLOCK):
        yield torch.fft.rfft(block * window)
