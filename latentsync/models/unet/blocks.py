"""Residual blocks, resampling and the levels of the U-Net.

Legend: b clips, f frames, c channels, h w latent height and width, s audio tokens, d width of an audio token.
Feature maps are (b f) c h w, channels last in memory, so that pixels become tokens without a copy.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentsync.models.attention import AudioKV, ClipGroupNorm, SpatialTransformer
from latentsync.models.unet.motion import MotionModule, MotionModuleConfig


@dataclass(frozen=True)
class Conditioning:
    """Inputs of one forward pass that every layer shares."""

    time: Tensor  # b t: time embedding after its activation
    audio: AudioKV
    frames: int  # f


class ResidualBlock(nn.Module):
    """Two times norm, SiLU, convolution, with the time embedding added after the first convolution; residual."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int, norm_groups: int, norm_eps: float):
        super().__init__()
        self.norm1 = ClipGroupNorm(norm_groups, in_channels, eps=norm_eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, out_channels)
        self.norm2 = ClipGroupNorm(norm_groups, out_channels, eps=norm_eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, cond.frames)))
        h = h + repeat(self.time_emb_proj(cond.time), "b c -> (b f) c 1 1", f=cond.frames)
        h = self.conv2(F.silu(self.norm2(h, cond.frames)))
        return self.conv_shortcut(x) + h


class Downsample(nn.Module):
    """Halves height and width (rounded up)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to a given size, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """`x` n c h w, `size` (height, width) of the next skip connection, 2h or 2h-1 by 2w or 2w-1."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


@dataclass(frozen=True)
class LevelPlan:
    """Settings of the layers of one level of the U."""

    channels: int
    time_width: int
    norm_groups: int
    norm_eps: float
    heads: int
    audio_width: int | None  # None: no audio cross-attention
    has_attention: bool
    motion: MotionModuleConfig | None  # None: no motion modules


class Level(nn.Module):
    """Layers of one resolution, each a residual block and, where planned, a spatial transformer and a motion module.

    `in_channels` holds one entry per residual block; `attended` of the layers have a transformer and a motion module.
    """

    def __init__(self, plan: LevelPlan, in_channels: list[int], attended: int):
        super().__init__()
        width, groups, motion = plan.channels, plan.norm_groups, plan.motion
        self.resnets = nn.ModuleList(
            ResidualBlock(channels, width, plan.time_width, groups, plan.norm_eps) for channels in in_channels
        )
        self.attentions = nn.ModuleList(
            SpatialTransformer(width, plan.heads, plan.audio_width, groups)
            for _ in range(attended)
            if plan.has_attention
        )
        self.motion_modules = nn.ModuleList(
            MotionModule(width, groups, motion) for _ in range(attended) if motion is not None
        )
        self.gradient_checkpointing = False

    def layer(self, index: int, x: Tensor, cond: Conditioning) -> Tensor:
        """Run layer `index`; with gradient checkpointing its activations are recomputed in the backward pass."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._layer, index, x, cond, use_reentrant=False)
        return self._layer(index, x, cond)

    def _layer(self, index: int, x: Tensor, cond: Conditioning) -> Tensor:
        x = self.resnets[index](x, cond)
        if index < len(self.attentions):
            x = self.attentions[index](x, cond.audio)
        if index < len(self.motion_modules):
            x = self.motion_modules[index](x, cond.frames)
        return x


class DownLevel(Level):
    """A down level: pushes every layer's output, and the downsampled map, onto the stack of skip connections."""

    def __init__(self, plan: LevelPlan, in_channels: list[int], is_last: bool):
        super().__init__(plan, in_channels, attended=len(in_channels))
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(plan.channels)])

    def forward(self, x: Tensor, cond: Conditioning, skips: list[Tensor]) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.layer(index, x, cond)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x


class MiddleLevel(Level):
    """The bottom level: a full layer, then a residual block."""

    def __init__(self, plan: LevelPlan):
        super().__init__(plan, [plan.channels, plan.channels], attended=1)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        return self.layer(1, self.layer(0, x, cond), cond)


class UpLevel(Level):
    """An up level: pops its skip connections from the stack.

    Only its `layers` are run, by default all.
    """

    def __init__(self, plan: LevelPlan, in_channels: list[int], is_last: bool):
        super().__init__(plan, in_channels, attended=len(in_channels))
        self.upsamplers = nn.ModuleList([] if is_last else [Upsample(plan.channels)])

    def forward(self, x: Tensor, cond: Conditioning, skips: list[Tensor], layers: slice = slice(None)) -> Tensor:
        for index in range(len(self.resnets))[layers]:
            x = self.layer(index, torch.cat([x, skips.pop()], dim=1), cond)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[-2:])
        return x
