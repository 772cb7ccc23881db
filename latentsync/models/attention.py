"""Attention parts shared by the U-Net's spatial transformers and motion modules.

Legend: b clips, f frames, c channels, h w latent height and width, s tokens, d width of an audio token, n any batch.
Parameter names follow the public checkpoints, so a strict load needs no renaming.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latentsync.device import fused_attention

PROJECTION_NORM_EPS = 1e-6  # of the GroupNorm before a spatial transformer or motion module
# largest number of keys for which a CPU does not use the fused kernel
SHORT_KEYS = {torch.float32: 32, torch.bfloat16: 256}


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of q n heads s c, k and v n heads t c -> n heads s c.

    Uses the fused kernel, except for few keys on a CPU, where softmax(q kᵀ) v is faster: measured with gradients on an AVX-512
    CPU 1.3 to 1.8 times in float32 (16 keys), 2 to 10 times in bfloat16 (16 to 256 keys).
    """
    if q.device.type == "cpu" and k.shape[-2] <= SHORT_KEYS.get(q.dtype, 0):
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1).to(v.dtype) @ v
    return fused_attention(q, k, v)


class ClipGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics are shared by the frames of a clip, or, with `frames` 1, computed for each frame separately."""

    def forward(self, input: Tensor, frames: int = 1) -> Tensor:
        """`input` (b f) c h w -> the same shape, in the type of the parameters, so float32 under autocast."""
        clips = rearrange(input, "(b f) c h w -> b c (f h) w", f=frames)  # a view for channels-last memory
        return rearrange(super().forward(clips.to(self.weight.dtype)), "b c (f h) w -> (b f) c h w", f=frames)


@dataclass(frozen=True)
class AttentionKV:
    """Keys and values of one attention: `keys`, `values` n heads s c.

    The first `num_unconditional` of n + num_unconditional items attend to zeros. Without biases their keys and values are zero,
    so nothing is computed for them.
    """

    keys: Tensor
    values: Tensor
    num_unconditional: int = 0


class Attention(nn.Module):
    """Multi-head attention: queries from `x`; keys and values from another sequence, or from `x` itself."""

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width or width, width, bias=False)
        self.to_v = nn.Linear(context_width or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, kv: AttentionKV | None = None) -> Tensor:
        """Attend from tokens `x` n s c to `kv`, or to `x` itself if it is None -> n s c."""
        kv = self.project_kv(x) if kv is None else kv
        q = self._heads(self.to_q(x[kv.num_unconditional :]))
        attended = self.to_out[0](rearrange(attend(q, kv.keys, kv.values), "n heads s c -> n s (heads c)"))
        if not kv.num_unconditional:
            return attended
        unconditional = self.out_bias.to(attended).expand(kv.num_unconditional, *attended.shape[1:])
        return torch.cat([unconditional, attended])

    @property
    def out_bias(self) -> Tensor:
        """[c]: the output where all keys and values are zero."""
        out = self.to_out[0]
        assert isinstance(out, nn.Linear)
        return out.bias

    def project_kv(self, context: Tensor) -> AttentionKV:
        """Keys and values of `context` n t d."""
        return AttentionKV(self._heads(self.to_k(context)), self._heads(self.to_v(context)))

    def _heads(self, tokens: Tensor) -> Tensor:
        return rearrange(tokens, "n s (heads c) -> n heads s c", heads=self.heads)


class GEGLU(nn.Module):
    """Gated linear unit with the exact GELU (Shazeer 2020, "GLU variants improve transformer")."""

    def __init__(self, width: int, inner_width: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner_width)

    def forward(self, x: Tensor) -> Tensor:
        # two products, each with half of the weights: results are contiguous, and gradients need no concatenation
        (value_weight, gate_weight), (value_bias, gate_bias) = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
        return F.linear(x, value_weight, value_bias) * F.gelu(F.linear(x, gate_weight, gate_bias))


class FeedForward(nn.Module):
    """Two layers for each token, four times as wide inside; `net.1` is a dropout in the public layout."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TokenConv1x1(nn.Conv2d):
    """A linear layer on tokens n s c with the parameters of a 1x1 convolution, as in the public checkpoints."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.flatten(1), self.bias)


class TransformerBlock(nn.Module):
    """Self-attention, audio cross-attention (unless built without it), feed-forward; each residual."""

    def __init__(self, width: int, heads: int, audio_width: int | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.has_audio = audio_width is not None
        if self.has_audio:
            self.norm2 = nn.LayerNorm(width)
            self.attn2 = Attention(width, heads, audio_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, audio: "AudioKV") -> Tensor:
        """`x` n s c -> n s c."""
        x = x + self.attn1(self.norm1(x))
        if self.has_audio and audio.projected:
            x = x + self.attn2(self.norm2(x), audio.of(self.attn2))
        return x + self.ff(self.norm3(x))


@dataclass(frozen=True)
class AudioKV:
    """The audio's keys and values for every cross-attention of a network: computed once, used in every sampling step.

    With `num_unconditional`, the batch begins with that many additional clips, whose audio is zeros (for guidance). If `projected`
    is empty, the cross-attentions are skipped, which is not the same as audio of zeros.
    """

    projected: Mapping[nn.Module, AttentionKV]  # by cross-attention
    clips: int
    frames: int  # of a clip
    num_unconditional: int = 0  # clips

    @property
    def batch_clips(self) -> int:
        """Clips of the batch that this audio belongs to."""
        return self.num_unconditional + self.clips

    def of(self, attention: nn.Module) -> AttentionKV:
        """Keys and values for one cross-attention; KeyError for one that they were not projected for."""
        return replace(self.projected[attention], num_unconditional=self.num_unconditional * self.frames)

    def with_unconditional(self) -> "AudioKV":
        """The same for a doubled batch, whose first half has zeros for audio."""
        return replace(self, num_unconditional=self.clips)


class ProjectedOnUse(Mapping[nn.Module, AttentionKV]):
    """Keys and values of `tokens` n t d, computed whenever a cross-attention reads them.

    For training: with FSDP a block's parameters are complete only during its forward pass, and their gradients are reduced at the
    end of its backward pass.
    """

    def __init__(self, tokens: Tensor, attentions: Sequence[Attention]):
        self.tokens, self.attentions = tokens, attentions

    def __getitem__(self, attention: nn.Module) -> AttentionKV:
        assert isinstance(attention, Attention)
        return attention.project_kv(self.tokens)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.attentions)

    def __len__(self) -> int:
        return len(self.attentions)


class SpatialTransformer(nn.Module):
    """Self-attention over the pixels of each frame and cross-attention to the frame's audio window; residual.

    `audio_width` None builds it without the audio cross-attention.
    """

    def __init__(self, channels: int, heads: int, audio_width: int | None, norm_groups: int):
        super().__init__()
        self.norm = ClipGroupNorm(norm_groups, channels, eps=PROJECTION_NORM_EPS)
        self.proj_in = TokenConv1x1(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, audio_width)])
        self.proj_out = TokenConv1x1(channels, channels)

    def forward(self, x: Tensor, audio: AudioKV) -> Tensor:
        """`x` (b f) c h w -> (b f) c h w."""
        tokens = self.proj_in(rearrange(self.norm(x), "n c h w -> n (h w) c"))
        for block in self.transformer_blocks:
            tokens = block(tokens, audio)
        return x + rearrange(self.proj_out(tokens), "n (h w) c -> n c h w", h=x.shape[2])
