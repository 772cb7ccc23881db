"""The sync loss: cross-entropy of the cosine similarity of lips and audio, used as the probability that they are in sync."""

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.device import full_precision


def sync_similarity(vision: Tensor, audio: Tensor) -> Tensor:
    """Cosine similarity [b] of two batches of embeddings [b, D], in float32 and clamped to [0, 1].

    A SyncNet's embeddings have no negative values, so only rounding errors are clamped.
    """
    return F.cosine_similarity(vision.float(), audio.float(), dim=1, eps=1e-8).clamp(0.0, 1.0)


def sync_loss(vision: Tensor, audio: Tensor, labels: Tensor | None = None) -> Tensor:
    """Binary cross-entropy [b] of the similarity, used as a probability without scale or shift (Prajwal et al. 2020).

    Args:
        vision, audio: embeddings [b, D].
        labels: 1 where lips and audio are in sync, else 0; [b] or [b, 1]. None: all are in sync.

    Returns:
        One loss per sample, in [0, 100]: PyTorch clamps the logarithms at -100.
    """
    similarity = sync_similarity(vision, audio)
    target = torch.ones_like(similarity) if labels is None else labels.reshape(-1).to(similarity)
    with full_precision(similarity.device):  # PyTorch refuses this loss under autocast
        return F.binary_cross_entropy(similarity, target, reduction="none")
