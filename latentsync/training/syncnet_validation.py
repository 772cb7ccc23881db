"""Scoring a StableSyncNet on clips that its training does not see."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from latentsync.audio.mel import sync_mel
from latentsync.data.sync_clips import SyncClip
from latentsync.metrics.sync import ClipEmbeddings, find_offset, pair_similarities
from latentsync.models.syncnet import StableSyncNet
from latentsync.timebase import samples_of_frames
from latentsync.training.syncnet_step import MIN_SHIFT


def embed_clip(net: StableSyncNet, clip: SyncClip, num_frames: int) -> ClipEmbeddings:
    """Embed all windows of `num_frames` frames that have their pictures and sound."""
    count = clip.starts(num_frames)
    lips = embed_windows(net.embed_lips, [clip.image(start, num_frames) for start in range(count)])
    return ClipEmbeddings(lips, embed_sound(net, clip, num_frames))


def embed_sound(net: StableSyncNet, clip: SyncClip, num_frames: int) -> Tensor:
    """Embeddings [windows, D] of the sound alone."""
    return embed_windows(net.embed_audio, [clip.sound(start, num_frames) for start in range(clip.starts(num_frames))])


@torch.no_grad()
def embed_windows(embed: Callable[[Tensor], Tensor], windows: list[Tensor], batch_size: int = 32) -> Tensor:
    """Embeddings [n, D] of n windows; the batch size does not change them beyond rounding."""
    batches = [windows[first : first + batch_size] for first in range(0, len(windows), batch_size)]
    return torch.cat([embed(torch.stack(batch)) for batch in batches])


def validation_pairs(
    net: StableSyncNet, clips: list[SyncClip], num_frames: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Similarities of right and of wrong pairs of the clips (see `pair_similarities`)."""
    embedded = [embed_clip(net, clip, num_frames) for clip in clips if clip.starts(num_frames) > 2 * MIN_SHIFT]
    return pair_similarities(embedded, MIN_SHIFT, torch.Generator().manual_seed(seed))


def shift_sound(waveform: np.ndarray, frames: int) -> np.ndarray:
    """Sound moved later (frames > 0) or earlier by video frames, silence where nothing is left; same length."""
    samples = samples_of_frames(abs(frames))
    if frames >= 0:
        return np.concatenate([np.zeros(samples, waveform.dtype), waveform])[: len(waveform)]
    return np.concatenate([waveform[samples:], np.zeros(samples, waveform.dtype)])


def offset_errors(
    net: StableSyncNet, clip: SyncClip, waveform: np.ndarray, shifts: range, num_frames: int
) -> list[int]:
    """For every shift of the sound, the found offset minus the true one, in frames."""
    lips = embed_clip(net, clip, num_frames).lips
    moved = [SyncClip(clip.lips, sync_mel(torch.from_numpy(shift_sound(waveform, shift)))) for shift in shifts]
    found = [find_offset(lips, embed_sound(net, sound, num_frames)) for sound in moved]
    return [offset - shift for offset, shift in zip(found, shifts, strict=True)]
