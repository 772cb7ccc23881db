"""How well a StableSyncNet tells right from wrong, and the offset between lips and sound that it finds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentsync.data.sync_clips import SyncClip
from latentsync.losses.sync import sync_similarity
from latentsync.models.syncnet import StableSyncNet

THRESHOLD = 0.5  # a pair counts as right from this similarity on


@dataclass(frozen=True)
class ClipEmbeddings:
    """Embeddings of every window of a clip, [windows, D] each; row i starts at frame i."""

    lips: Tensor
    sound: Tensor


@torch.no_grad()
def embed_clip(net: StableSyncNet, clip: SyncClip, num_frames: int, batch_size: int = 32) -> ClipEmbeddings:
    """Embed all windows of `num_frames` frames; the batch size does not change the result beyond rounding."""
    starts = range(clip.starts(num_frames))
    batches = [starts[first : first + batch_size] for first in range(0, len(starts), batch_size)]
    lips = [net.embed_lips(torch.stack([clip.image(s, num_frames) for s in batch])) for batch in batches]
    sound = [net.embed_audio(torch.stack([clip.sound(s, num_frames) for s in batch])) for batch in batches]
    return ClipEmbeddings(torch.cat(lips), torch.cat(sound))


def pair_accuracy(clips: list[ClipEmbeddings], min_shift: int, generator: torch.Generator) -> float:
    """Share of pairs judged rightly: every window with its own sound, and with a wrong one.

    Wrong sounds alternate between another moment of the same clip, at least `min_shift` frames away, and another clip.
    """
    right, wrong = [], []
    for index, clip in enumerate(clips):
        other = clips[(index + 1) % len(clips)]
        count = len(clip.lips)
        right.append(sync_similarity(clip.lips, clip.sound))
        for start in range(count):
            elsewhere = [s for s in range(count) if abs(s - start) >= min_shift]
            pool = clip.sound[elsewhere] if start % 2 and elsewhere else other.sound
            pick = int(torch.randint(len(pool), (1,), generator=generator))
            wrong.append(sync_similarity(clip.lips[start][None], pool[pick][None]))
    hits = (torch.cat(right) > THRESHOLD).sum() + (torch.cat(wrong) <= THRESHOLD).sum()
    return float(hits) / (sum(map(len, right)) + len(wrong))


def offset_similarities(lips: Tensor, sound: Tensor, max_offset: int) -> Tensor:
    """Mean similarity for every offset -max_offset ... max_offset, [2 * max_offset + 1].

    At offset k window i of the lips is compared with window i + k of the sound: k > 0 means that the sound is late.
    """
    count = len(lips)
    means = []
    for offset in range(-max_offset, max_offset + 1):
        first, last = max(0, -offset), min(count, count - offset)
        pairs = sync_similarity(lips[first:last], sound[first + offset : last + offset])
        means.append(pairs.mean() if len(pairs) else torch.tensor(0.0))
    return torch.stack(means)


def find_offset(lips: Tensor, sound: Tensor, max_offset: int = 10) -> int:
    """Offset in frames at which lips [n, D] and sound [n, D] fit best; positive where the sound is late."""
    return int(offset_similarities(lips, sound, max_offset).argmax()) - max_offset
