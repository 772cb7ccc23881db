"""Scoring a StableSyncNet on clips that its training does not see."""

import numpy as np
import torch

from latentsync.audio.mel import sync_mel
from latentsync.data.sync_clips import SyncClip
from latentsync.metrics.sync import ClipEmbeddings, find_offset, pair_accuracy
from latentsync.models.syncnet import StableSyncNet
from latentsync.timebase import samples_of_frames

MIN_SHIFT = 5  # frames between lips and sound from which a pair of one clip counts as wrong


@torch.no_grad()
def embed_clip(net: StableSyncNet, clip: SyncClip, num_frames: int, batch_size: int = 32) -> ClipEmbeddings:
    """Embed all windows of `num_frames` frames; the batch size does not change the result beyond rounding."""
    starts = range(clip.starts(num_frames))
    batches = [starts[first : first + batch_size] for first in range(0, len(starts), batch_size)]
    lips = [net.embed_lips(torch.stack([clip.image(s, num_frames) for s in batch])) for batch in batches]
    sound = [net.embed_audio(torch.stack([clip.sound(s, num_frames) for s in batch])) for batch in batches]
    return ClipEmbeddings(torch.cat(lips), torch.cat(sound))


def validation_accuracy(net: StableSyncNet, clips: list[SyncClip], num_frames: int, seed: int = 0) -> float:
    """Share of right and wrong pairs that the net judges rightly (see `pair_accuracy`)."""
    embedded = [embed_clip(net, clip, num_frames) for clip in clips if clip.starts(num_frames) > 2 * MIN_SHIFT]
    return pair_accuracy(embedded, MIN_SHIFT, torch.Generator().manual_seed(seed))


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
    shifted = [SyncClip(clip.lips, sync_mel(torch.from_numpy(shift_sound(waveform, shift)))) for shift in shifts]
    found = [embed_clip(net, moved, num_frames) for moved in shifted]
    return [find_offset(e.lips, e.sound) - shift for e, shift in zip(found, shifts, strict=True)]
