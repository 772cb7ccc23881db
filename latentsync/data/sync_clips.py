"""Clips for the SyncNet, held in memory: small lower faces, and the mel spectrogram of the sound.

Tensor legend: b batch, f frames, c colours, h w pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from latentsync.audio.mel import sync_mel, sync_mel_window
from latentsync.data.aligned import AlignedClip
from latentsync.face.pixels import frames_to_pixels, resize_frames
from latentsync.timebase import sync_mel_length


@dataclass(frozen=True)
class SyncClip:
    """One clip: `lips` uint8 [t, h/2, w, 3], the lower half of each face; `mel` [80, n]; `mouth` [t, 2] where it is known."""

    lips: Tensor
    mel: Tensor
    mouth: Tensor | None = None

    def starts(self, num_frames: int) -> int:
        """Number of windows of `num_frames` frames that have all of their pictures and sound."""
        starts = len(self.lips) - num_frames + 1
        while starts > 0 and sync_mel_window(self.mel, starts - 1, num_frames).shape[-1] < sync_mel_length(num_frames):
            starts -= 1
        return max(0, starts)

    def image(self, start: int, num_frames: int) -> Tensor:
        """Frames packed into channels: [f * 3, h/2, w] in [-1, 1]."""
        return rearrange(frames_to_pixels(self.lips[start : start + num_frames]), "f c h w -> (f c) h w")

    def sound(self, start: int, num_frames: int) -> Tensor:
        """Mel window [1, 80, n] of the same stretch."""
        return sync_mel_window(self.mel, start, num_frames)[None]


def load_sync_clip(clip: AlignedClip, resolution: int) -> SyncClip:
    """Read an aligned clip at the SyncNet's resolution."""
    faces = resize_frames(torch.from_numpy(np.array(clip.faces)), resolution)
    mouth = None if clip.mouth is None else torch.from_numpy(clip.mouth)
    return SyncClip(faces[:, resolution // 2 :].contiguous(), sync_mel(torch.from_numpy(clip.waveform)), mouth)
