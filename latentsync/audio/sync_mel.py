"""Mel spectrogram of the SyncNet: 80 bands, 80 columns a second, values in [-4, 4]."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.audio.spectrum import mel_filters, spectra
from latentsync.timebase import SAMPLE_RATE_HZ, SYNC_MEL_HOP, sync_mel_length, sync_mel_start

NUM_MELS = 80
N_FFT = 800
FMIN_HZ, FMAX_HZ = 55.0, 7600.0
PREEMPHASIS = 0.97
MIN_LEVEL_DB, REFERENCE_LEVEL_DB = -100.0, 20.0
MAX_VALUE = 4.0


def sync_mel(waveform: Tensor | np.ndarray) -> Tensor:
    """Mel spectrogram, the audio input of the SyncNet (parameters of Tacotron and Wav2Lip).

    Args:
        waveform: [n] samples in [-1, 1] at 16 kHz, at least one.

    Returns:
        [80, 1 + n // 200] float32 on the CPU, in [-4, 4]; column i is centred on sample 200 * i.

    Raises:
        ValueError: the waveform is empty or not one-dimensional.
    """
    # float64, as in the training of the checkpoints: in quiet bands float32 has visible rounding errors
    samples = torch.as_tensor(waveform).to(device="cpu", dtype=torch.float64)
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"sync_mel needs mono samples of shape [n], n > 0; got {list(samples.shape)}")
    padded = F.pad(preemphasise(samples), (N_FFT // 2, N_FFT // 2))
    filters = mel_filters(NUM_MELS, N_FFT, SAMPLE_RATE_HZ, FMIN_HZ, FMAX_HZ).double()
    return torch.cat([normalise(filters @ s.abs().T) for s in spectra(padded, N_FFT, SYNC_MEL_HOP)], dim=1)


def preemphasise(samples: Tensor) -> Tensor:
    """y[n] = x[n] - 0.97 x[n - 1] with x[-1] = 0."""
    return torch.cat([samples[:1], samples[1:] - PREEMPHASIS * samples[:-1]])


def normalise(magnitude: Tensor) -> Tensor:
    """Magnitude to decibels below the reference level, [-100, 0] dB mapped to [-4, 4] and clipped; float32."""
    level_db = 20.0 * magnitude.clamp(min=10.0 ** (MIN_LEVEL_DB / 20.0)).log10() - REFERENCE_LEVEL_DB
    value = 2.0 * MAX_VALUE * (level_db - MIN_LEVEL_DB) / -MIN_LEVEL_DB - MAX_VALUE
    return value.clamp(-MAX_VALUE, MAX_VALUE).float()


def sync_mel_window(mel: Tensor, start_frame: int, num_frames: int) -> Tensor:
    """The window of `mel` [..., 80, columns] for `num_frames` video frames at 25 fps from `start_frame`.

    Returns a view [..., 80, t], t = `timebase.sync_mel_length(num_frames)` (52 for 16 frames); shorter where the audio
    ends before the window, so a caller that needs a whole window must check the length.

    Raises:
        ValueError: `start_frame` is negative.
    """
    if start_frame < 0:
        raise ValueError(f"the mel window starts at frame {start_frame}, but the first frame is 0")
    start = sync_mel_start(start_frame)
    return mel[..., start : start + sync_mel_length(num_frames)]
