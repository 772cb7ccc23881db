"""Scoring a StableSyncNet on validation clips."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from latentsync.audio.sync_mel import sync_mel
from latentsync.data.settings import MIN_SHIFT
from latentsync.data.sync_clips import SyncClip
from latentsync.metrics.sync.accuracy import ClipEmbeddings, accuracy, best_threshold, pair_similarities
from latentsync.metrics.sync.offset import most_similar_offset, offset_of_shift
from latentsync.models.syncnet import StableSyncNet
from latentsync.timebase import samples_of_frames


@dataclass(frozen=True)
class SyncScores:
    """Similarities [n] of right and of wrong pairs, and the scores computed from them."""

    right: Tensor
    wrong: Tensor
    accuracy: float  # each half of the clips is judged by the threshold that suits the other half
    offsets: list[int] = field(default_factory=list)  # of training clips, in frames; > 0: audio early

    @property
    def threshold(self) -> float:
        """The one with the best accuracy on all pairs."""
        return best_threshold(self.right, self.wrong)

    @property
    def loss(self) -> float:
        """Balanced cross-entropy; 0.693 is chance."""
        similarities = torch.cat([self.right, self.wrong])
        return float(
            F.binary_cross_entropy(similarities, torch.cat([torch.ones_like(self.right), torch.zeros_like(self.wrong)]))
        )

    def summary(self) -> dict[str, float]:
        """The scores by name, for a log row and a checkpoint's metadata."""
        named = {"accuracy": self.accuracy, "loss": self.loss, "threshold": self.threshold}
        within = [abs(offset) <= 1 for offset in self.offsets]
        named["offset_within_1"] = sum(within) / max(1, len(within))
        return {name: round(value, 4) for name, value in named.items()} | {"pairs": 2 * len(self.right)}


def score_syncnet(
    validation: Iterable[ClipEmbeddings | None], training: Iterable[ClipEmbeddings | None], min_shift: int = MIN_SHIFT
) -> SyncScores:
    """Scores from embedded validation clips, with the offsets of embedded training clips; None stands for one left out."""
    scores = score_embedded([clip for clip in validation if clip], min_shift)
    return replace(scores, offsets=[most_similar_offset(clip.lips, clip.sound) for clip in training if clip])


def score_embedded(clips: list[ClipEmbeddings], min_shift: int = MIN_SHIFT) -> SyncScores:
    """Scores of validation clips; a single clip is judged by the threshold that suits itself."""
    halves = [
        pair_similarities(half, min_shift, torch.Generator().manual_seed(0))
        for half in (clips[::2], clips[1::2])
        if half
    ]
    correct = [
        accuracy(*half, best_threshold(*other)) * len(half[0]) for half, other in zip(halves, halves[::-1], strict=True)
    ]
    right, wrong = (torch.cat(pairs) for pairs in zip(*halves, strict=True))
    return SyncScores(right, wrong, sum(correct) / len(right))


def embed_clips(
    net: StableSyncNet, clips: Iterable[SyncClip], num_frames: int, min_shift: int = MIN_SHIFT
) -> Iterator[ClipEmbeddings | None]:
    """Embeddings of each clip, None for one that is too short for wrong pairs; one clip is in memory at a time."""
    for clip in clips:
        yield embed_clip(net, clip, num_frames) if clip.starts(num_frames) > 2 * min_shift else None


def embed_clip(net: StableSyncNet, clip: SyncClip, num_frames: int) -> ClipEmbeddings:
    """Embeddings of all windows of `num_frames` frames with both pictures and audio."""
    count = clip.starts(num_frames)
    lips = embed_windows(net, net.embed_lips, lambda start: clip.image(start, num_frames), count)
    return ClipEmbeddings(lips, embed_sound(net, clip, num_frames))


def embed_sound(net: StableSyncNet, clip: SyncClip, num_frames: int) -> Tensor:
    """Embeddings [windows, D] of the audio alone."""
    return embed_windows(net, net.embed_audio, lambda start: clip.sound(start, num_frames), clip.starts(num_frames))


@torch.no_grad()
def embed_windows(
    net: StableSyncNet,
    embed: Callable[[Tensor], Tensor],
    window: Callable[[int], Tensor],
    count: int,
    batch_size: int = 32,
) -> Tensor:
    """Embeddings [count, D], float32 on the CPU, of windows 0 ... count - 1; they depend on `batch_size` by rounding only."""
    weight = next(net.parameters())
    batches = [range(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
    return torch.cat([embed(torch.stack([window(i) for i in batch]).to(weight)).float().cpu() for batch in batches])


def offset_errors(
    net: StableSyncNet, clip: SyncClip, waveform: np.ndarray, shifts: range, num_frames: int
) -> list[int]:
    """The error of the measured offset, in frames, for every shift of the audio in `shifts` (see `moved_sound`)."""
    lips, errors = embed_clip(net, clip, num_frames).lips, []
    for shift in shifts:
        pictures, sound = moved_sound(clip.pictures, waveform, shift)
        embedded = embed_sound(net, SyncClip(pictures, sync_mel(torch.from_numpy(sound))), num_frames)
        found = most_similar_offset(lips[max(0, shift) :][: len(embedded)], embedded)
        errors.append(found - offset_of_shift(shift))
    return errors


def moved_sound(pictures: Tensor, waveform: np.ndarray, shift: int) -> tuple[Tensor, np.ndarray]:
    """Pictures [t, ...] and their audio [n] at 16 kHz, which comes `shift` frames later (below 0: earlier) than it should.

    Both are cut to the part in which there is audio for the pictures: silence at an edge would show the shift without the lips.
    """
    samples = samples_of_frames(abs(shift))
    if shift > 0:
        return pictures[shift:], waveform[: len(waveform) - samples]
    return pictures[: len(pictures) + shift], waveform[samples:]
