"""Whisper's audio encoder (Radford et al. 2022): the class of openai-whisper, whose import brings the decoder and its compiler."""

import math

import torch
from torch import Tensor, nn

from latentsync.device import fused_attention

MAX_TIMESCALE = 10_000  # of the positions


class AudioEncoder(nn.Module):
    """`whisper.model.AudioEncoder` with its parameter names and, in float32, its numbers; it is not run as a whole (see
    `latentsync.audio.whisper_features`, which needs the output of every block)."""

    def __init__(self, n_mels: int, n_ctx: int, n_state: int, n_head: int, n_layer: int):
        super().__init__()
        self.dims = {  # as checkpoints store them
            "n_mels": n_mels,
            "n_audio_ctx": n_ctx,
            "n_audio_state": n_state,
            "n_audio_head": n_head,
            "n_audio_layer": n_layer,
        }
        self.conv1 = nn.Conv1d(n_mels, n_state, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(n_state, n_state, kernel_size=3, stride=2, padding=1)
        self.positional_embedding: Tensor
        self.register_buffer("positional_embedding", sinusoids(n_ctx, n_state))
        self.blocks = nn.ModuleList(EncoderBlock(n_state, n_head) for _ in range(n_layer))
        self.ln_post = nn.LayerNorm(n_state)  # of the whole encoder's output; kept because checkpoints hold it


class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward network, each behind its normalisation: [b, s, w] -> [b, s, w]."""

    def __init__(self, n_state: int, n_head: int):
        super().__init__()
        self.attn = SelfAttention(n_state, n_head)
        self.attn_ln = nn.LayerNorm(n_state)
        self.mlp = nn.Sequential(nn.Linear(n_state, 4 * n_state), nn.GELU(), nn.Linear(4 * n_state, n_state))
        self.mlp_ln = nn.LayerNorm(n_state)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class SelfAttention(nn.Module):
    """Attention between all rows: [b, s, w] -> [b, s, w]."""

    def __init__(self, n_state: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.query = nn.Linear(n_state, n_state)
        self.key = nn.Linear(n_state, n_state, bias=False)
        self.value = nn.Linear(n_state, n_state)
        self.out = nn.Linear(n_state, n_state)

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.query(x), self.key(x), self.value(x))
        heads = (part.view(*part.shape[:2], self.n_head, -1).permute(0, 2, 1, 3) for part in parts)
        return self.out(fused_attention(*heads).permute(0, 2, 1, 3).flatten(start_dim=2))


def sinusoids(length: int, channels: int) -> Tensor:
    """The positions as sines and cosines of geometrically rising wavelengths: [length, channels]."""
    half = channels // 2
    frequencies = torch.exp(-math.log(MAX_TIMESCALE) / (half - 1) * torch.arange(half))
    angles = torch.arange(length)[:, None] * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
