"""Motion module: attention over the frames of a clip, separately at every pixel (Guo et al. 2023, "AnimateDiff").

Legend: b clips, f frames, c channels, h w latent height and width, p pixels (h w).
"""

import math
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from latentsync.models.attention import PROJECTION_NORM_EPS, ClipGroupNorm, FeedForward, attend

SELF_ATTENTION = "Temporal_Self"
MAX_ATTENTION_HEADS = 65_535  # per call, a limit of GPU kernels (grid size); larger inputs are split by pixels


@dataclass
class MotionModuleConfig:
    """The `motion_module_kwargs` section of a U-Net configuration.

    `num_attention_heads` heads; `num_transformer_block` blocks, each with one self-attention over frames per entry of
    `attention_block_types`; `temporal_position_encoding_max_len` is the longest clip in frames;
    the inner width is the channel count divided by `temporal_attention_dim_div`.
    """

    num_attention_heads: int = 8
    num_transformer_block: int = 1
    attention_block_types: list[str] = field(default_factory=lambda: [SELF_ATTENTION, SELF_ATTENTION])
    temporal_position_encoding: bool = True
    temporal_position_encoding_max_len: int = 24
    temporal_attention_dim_div: int = 1
    zero_initialize: bool = True

    def __post_init__(self) -> None:
        for kind in self.attention_block_types:
            if kind != SELF_ATTENTION:
                raise ValueError(f"attention_block_types: '{kind}' is not supported, use '{SELF_ATTENTION}'.")
        for name in ("num_attention_heads", "num_transformer_block", "temporal_attention_dim_div"):
            if getattr(self, name) < 1:
                raise ValueError(f"motion_module_kwargs.{name} is {getattr(self, name)}, but must be at least 1.")

    def inner_width(self, channels: int) -> int:
        """Width inside a motion module of a layer with `channels` channels; ValueError if it is not a multiple of the heads."""
        width, rest = divmod(channels, self.temporal_attention_dim_div)
        heads = self.num_attention_heads
        if rest or width % heads:
            raise ValueError(
                f"block_out_channels: {channels} over temporal_attention_dim_div ({self.temporal_attention_dim_div})"
                f" is not a multiple of motion_module_kwargs.num_attention_heads ({heads})."
            )
        return width


class FramePositions(nn.Module):
    """Adds the sinusoidal table of frame positions; the table `pe` (1 f c) is stored with the parameters."""

    pe: Tensor

    def __init__(self, width: int, max_frames: int):
        super().__init__()
        with torch.device("cpu"):  # on the meta device PyTorch would first import its compiler, for seconds
            angle = torch.arange(max_frames)[:, None] * torch.exp(
                torch.arange(0, width, 2) * (-math.log(10_000.0) / width)
            )
            table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
        self.register_buffer("pe", table[None].to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """`x` b f p c -> the same shape; ValueError for clips longer than the table."""
        frames = x.shape[1]
        if frames > self.pe.shape[1]:
            raise ValueError(
                f"The clip has {frames} frames, but temporal_position_encoding_max_len is {self.pe.shape[1]}:"
                " use shorter clips."
            )
        return x + self.pe[0, :frames, None].to(x.dtype)


class FrameAttention(nn.Module):
    """Multi-head self-attention over the frames of a clip, separately at every pixel."""

    def __init__(self, width: int, config: MotionModuleConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        max_frames = config.temporal_position_encoding_max_len
        self.pos_encoder = FramePositions(width, max_frames) if config.temporal_position_encoding else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`x` b f p c -> b f p c."""
        x = self.pos_encoder(x)
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        pixels = max(1, MAX_ATTENTION_HEADS // self.heads)
        parts = [self._attend(*part) for part in zip(*(t.split(pixels, dim=2) for t in (q, k, v)), strict=True)]
        return self.to_out[0](parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # pixels and heads are adjacent in memory, so merging them into one head dimension copies no tensor
        q, k, v = (rearrange(t, "b f p (heads c) -> b (p heads) f c", heads=self.heads) for t in (q, k, v))
        return rearrange(attend(q, k, v), "b (p heads) f c -> b f p (heads c)", heads=self.heads)


class FrameTransformerBlock(nn.Module):
    """Self-attentions over frames, then feed-forward; each with its own LayerNorm, each residual."""

    def __init__(self, width: int, config: MotionModuleConfig):
        super().__init__()
        self.attention_blocks = nn.ModuleList(FrameAttention(width, config) for _ in config.attention_block_types)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in config.attention_block_types)
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class FrameTransformer(nn.Module):
    """GroupNorm of each frame, linear in, transformer blocks over frames, linear out, residual."""

    def __init__(self, channels: int, norm_groups: int, config: MotionModuleConfig):
        super().__init__()
        width = config.inner_width(channels)
        self.norm = ClipGroupNorm(norm_groups, channels, eps=PROJECTION_NORM_EPS)
        self.proj_in = nn.Linear(channels, width)
        self.transformer_blocks = nn.ModuleList(
            FrameTransformerBlock(width, config) for _ in range(config.num_transformer_block)
        )
        self.proj_out = nn.Linear(width, channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """`x` (b f) c h w with `frames` frames a clip -> the same shape."""
        tokens = self.proj_in(rearrange(self.norm(x), "(b f) c h w -> b f (h w) c", f=frames))
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return x + rearrange(self.proj_out(tokens), "b f (h w) c -> (b f) c h w", h=x.shape[2])


class MotionModule(nn.Module):
    """One motion module of the U-Net; with `zero_initialize` it is the identity before training."""

    def __init__(self, channels: int, norm_groups: int, config: MotionModuleConfig):
        super().__init__()
        self.temporal_transformer = FrameTransformer(channels, norm_groups, config)
        if config.zero_initialize:
            nn.init.zeros_(self.temporal_transformer.proj_out.weight)
            nn.init.zeros_(self.temporal_transformer.proj_out.bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """`x` (b f) c h w with `frames` frames a clip -> the same shape."""
        return self.temporal_transformer(x, frames)
