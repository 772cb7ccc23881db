"""Log-mel spectrogram, the input of the Whisper encoder: 100 frames a second, clamped to 8 decades below its maximum."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.audio.spectrum import mel_filters, spectra
from latentsync.timebase import SAMPLE_RATE_HZ, WHISPER_HOP

N_FFT = 400
DYNAMIC_RANGE = 8.0  # decades
OFFSET, SCALE = 4.0, 4.0  # of decades: the spectrogram is (decades + OFFSET) / SCALE
MIN_SAMPLES = 2 * WHISPER_HOP  # one feature row


def whisper_log_mel(waveform: Tensor | np.ndarray, num_mels: int = 80) -> Tensor:
    """Log-mel spectrogram of a whole file (Radford et al. 2022, section 2.2), without the zero padding at the end.

    Args:
        waveform: [n] samples in [-1, 1] at 16 kHz, at least 320 (20 ms, one feature row).
        num_mels: 80 for all public encoders but large-v3 (128).

    Returns:
        [num_mels, n // 160] float32 on the waveform's device. Values are clamped relative to the maximum of the whole file.

    Raises:
        ValueError: the waveform is not one-dimensional or shorter than 20 ms.
    """
    samples = torch.as_tensor(waveform).float()
    if samples.ndim != 1 or len(samples) < MIN_SAMPLES:
        raise ValueError(
            f"audio features need mono samples of shape [n], n >= {MIN_SAMPLES} (20 ms at 16 kHz); "
            f"got {list(samples.shape)}"
        )
    padded = F.pad(samples[None], (N_FFT // 2, N_FFT // 2), mode="reflect")[0]
    filters = mel_filters(num_mels, N_FFT, SAMPLE_RATE_HZ, 0.0, SAMPLE_RATE_HZ / 2).to(samples.device)
    power = torch.cat([filters @ s.abs().square().T for s in spectra(padded, N_FFT, WHISPER_HOP)], dim=1)
    level = power[:, : len(samples) // WHISPER_HOP].clamp(min=1e-10).log10()
    return (level.clamp(min=float(level.max()) - DYNAMIC_RANGE) + OFFSET) / SCALE
