"""Accuracy of a SyncNet: how often it distinguishes a window's own audio from other audio.

The formulas are for embeddings [n, D] of unit length; row i belongs to the window that starts at frame i.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

THRESHOLD = 0.5  # a pair counts as right above this similarity, if the network has no threshold of its own


@dataclass(frozen=True)
class ClipEmbeddings:
    """Embeddings of each window of a clip, [windows, D] each; row i starts at frame i."""

    lips: Tensor
    sound: Tensor


def similarity(lips: Tensor, sound: Tensor) -> Tensor:
    """Cosine similarity [n] of unit-length embeddings [n, D], clamped to [0, 1]."""
    return (lips * sound).sum(-1).clamp(0, 1)


def pair_similarities(clips: list[ClipEmbeddings], min_shift: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Similarities [n] of right pairs and [n] of wrong pairs: each window with its own audio, and with a wrong one.

    The wrong audio comes alternately from another window of the same clip, at least `min_shift` frames away, and another clip.
    """
    right, wrong = [], []
    for index, clip in enumerate(clips):
        other = clips[(index + 1) % len(clips)]
        count = len(clip.lips)
        right.append(similarity(clip.lips, clip.sound))
        for start in range(count):
            elsewhere = [s for s in range(count) if abs(s - start) >= min_shift]
            pool = clip.sound[elsewhere] if start % 2 and elsewhere else other.sound
            pick = int(torch.randint(len(pool), (1,), generator=generator))
            wrong.append(similarity(clip.lips[start][None], pool[pick][None]))
    return torch.cat(right), torch.cat(wrong)


def accuracy(right: Tensor, wrong: Tensor, threshold: float = THRESHOLD) -> float:
    """Fraction of pairs classified correctly if a pair counts as right above the threshold."""
    return float((right > threshold).sum() + (wrong <= threshold).sum()) / (len(right) + len(wrong))


def best_threshold(right: Tensor, wrong: Tensor) -> float:
    """The threshold, in steps of 0.01, with the best accuracy on these pairs, which should be others than those to be judged."""
    candidates = [step / 100 for step in range(30, 96)]
    return max(candidates, key=lambda threshold: accuracy(right, wrong, threshold))


def judge_clip(clip: ClipEmbeddings, other: ClipEmbeddings, min_shift: int, threshold: float) -> dict[str, float]:
    """Scores of one clip: `accuracy` over its `pairs`, half of them wrong, and the mean similarity of `right` and `wrong`.

    The wrong audio of window i is alternately that of the window half a clip later (if it is at least `min_shift` frames
    away) and window i of the `other` clip; indices wrap around at the end.
    """
    count = len(clip.lips)
    steps = torch.arange(count)
    elsewhere = (steps + count // 2) % count
    own = (steps % 2 == 1) & ((elsewhere - steps).abs() >= min_shift)
    wrong_sound = torch.where(own[:, None], clip.sound[elsewhere], other.sound[steps % len(other.sound)])
    right, wrong = similarity(clip.lips, clip.sound), similarity(clip.lips, wrong_sound)
    return {
        "accuracy": accuracy(right, wrong, threshold),
        "right": float(right.mean()),
        "wrong": float(wrong.mean()),
        "pairs": 2 * count,
    }
