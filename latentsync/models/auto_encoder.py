"""The image auto-encoder of Stable Diffusion (Rombach et al. 2022), and the decoder of a small one, as they are run.

They are diffusers' `AutoencoderKL` and `AutoencoderTiny`, with their parameter names and, to the bit, their numbers: what of them
these models use. Importing the library takes longer than sampling a second of video. Training builds the library's own classes.

Tensor legend: f frames, c h w; pixels float [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentsync.device import fused_attention
from latentsync.weights.table import LATENT_CHANNELS

COLOURS = 3
NORM_EPS = 1e-6
MAX_LOG_VARIANCE = (-30.0, 20.0)
NHWC_FRAMES, NHWC_ELEMENTS = 64, 2**31  # from here on PyTorch's upsampling needs contiguous pixels


class AutoEncoder(nn.Module):
    """Pixels [f, 3, h, w] to latents [f, 4, h/8, w/8] (at four levels) and back, with diffusers' calls for both."""

    def __init__(self, block_out_channels: Sequence[int], layers_per_block: int = 1, norm_num_groups: int = 32):
        super().__init__()
        self.config = {
            "block_out_channels": list(block_out_channels),
            "layers_per_block": layers_per_block,
            "norm_num_groups": norm_num_groups,
        }
        self.encoder = Encoder(block_out_channels, layers_per_block, norm_num_groups)
        self.decoder = Decoder(block_out_channels, layers_per_block, norm_num_groups)
        self.quant_conv = nn.Conv2d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.post_quant_conv = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)

    @property
    def dtype(self) -> torch.dtype:
        return self.quant_conv.weight.dtype

    def encode(self, pixels: Tensor) -> "Encoded":
        """The distribution of the latents of pixels."""
        return Encoded(Posterior(self.quant_conv(self.encoder(pixels))))

    def decode(self, latents: Tensor) -> "Decoded":
        """The pixels of latents."""
        return Decoded(self.decoder(self.post_quant_conv(latents)))


@dataclass(frozen=True)
class Posterior:
    """A normal distribution of latents; `parameters` [f, 8, h, w] are mean and logarithm of the variance."""

    parameters: Tensor

    @property
    def mean(self) -> Tensor:
        return self.parameters.chunk(2, dim=1)[0]

    @property
    def logvar(self) -> Tensor:
        return self.parameters.chunk(2, dim=1)[1].clamp(*MAX_LOG_VARIANCE)

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator) -> Tensor:
        """A sample, with noise drawn on the generator's device."""
        like = self.parameters
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device, dtype=like.dtype)
        return self.mean + self.std * noise.to(like.device)


@dataclass(frozen=True)
class Encoded:
    """What `encode` returns."""

    latent_dist: Posterior


@dataclass(frozen=True)
class Decoded:
    """What `decode` returns."""

    sample: Tensor


class Encoder(nn.Module):
    """Pixels to mean and logarithm of the variance, before the last 1x1 convolution."""

    def __init__(self, widths: Sequence[int], layers: int, groups: int):
        super().__init__()
        self.conv_in = nn.Conv2d(COLOURS, widths[0], 3, padding=1)
        before = [widths[0], *widths]
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            DownBlock(before[level], width, layers, groups, level != last) for level, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * LATENT_CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents, after the first 1x1 convolution, to pixels."""

    def __init__(self, block_out_channels: Sequence[int], layers: int, groups: int):
        super().__init__()
        widths = block_out_channels[::-1]
        before = [widths[0], *widths]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            UpBlock(before[level], width, layers + 1, groups, level != last) for level, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[0], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], COLOURS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class DownBlock(nn.Module):
    """Residual blocks, then half the height and width."""

    def __init__(self, width_in: int, width: int, layers: int, groups: int, shrinks: bool):
        super().__init__()
        self.resnets = residual_blocks(width_in, width, layers, groups)
        self.downsamplers = nn.ModuleList([Downsample(width)] if shrinks else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nn.Module):
    """Residual blocks, then twice the height and width."""

    def __init__(self, width_in: int, width: int, layers: int, groups: int, grows: bool):
        super().__init__()
        self.resnets = residual_blocks(width_in, width, layers, groups)
        self.upsamplers = nn.ModuleList([Upsample(width)] if grows else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class MidBlock(nn.Module):
    """Attention between all places, between two residual blocks."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.attentions = nn.ModuleList([PlaceAttention(width, groups)])
        self.resnets = residual_blocks(width, width, 2, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class ResidualBlock(nn.Module):
    """Two normalised convolutions, added to the input."""

    def __init__(self, width_in: int, width: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in, NORM_EPS)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, NORM_EPS)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + y


def residual_blocks(width_in: int, width: int, count: int, groups: int) -> nn.ModuleList:
    """So many blocks one after the other, of which the first changes the width."""
    return nn.ModuleList(ResidualBlock(width if number else width_in, width, groups) for number in range(count))


class PlaceAttention(nn.Module):
    """Attention of one head between all places of a picture, added to the input."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, NORM_EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)  # f (h w) c
        normed = self.group_norm(places.transpose(1, 2)).transpose(1, 2)
        query, key, value = (layer(normed)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        seen = fused_attention(query, key, value)[:, 0]
        return self.to_out[0](seen).transpose(-1, -2).reshape(x.shape) + x


class Downsample(nn.Module):
    """Half the height and width by a convolution; padded at the bottom and the right alone."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the height and width: each value four times, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) >= NHWC_FRAMES or 2 * x.numel() > NHWC_ELEMENTS:
            x = x.contiguous()
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


# The decoder of the small auto-encoder, as in "TAESD" (Bohan 2023).
class TinyDecoder(nn.Module):
    """Latents [f, 4, h, w], limited softly to about [-3, 3], to pixels [f, 3, 8h, 8w] (at four levels)."""

    def __init__(self, decoder_block_out_channels: Sequence[int], num_decoder_blocks: Sequence[int]):
        super().__init__()
        widths, last = decoder_block_out_channels, len(decoder_block_out_channels) - 1
        layers: list[nn.Module] = [nn.Conv2d(LATENT_CHANNELS, widths[0], 3, padding=1), nn.ReLU()]
        for level, (width, count) in enumerate(zip(widths, num_decoder_blocks, strict=True)):
            layers += [TinyBlock(width) for _ in range(count)]
            if level < last:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        last_layer = nn.Conv2d(widths[-1], COLOURS, 3, padding=1)
        self.decoder = nn.ModuleDict({"layers": nn.Sequential(*layers, last_layer)})
        self.config = {
            "decoder_block_out_channels": list(decoder_block_out_channels),
            "num_decoder_blocks": list(num_decoder_blocks),
        }

    def decode(self, latents: Tensor) -> Decoded:
        """The pixels of latents."""
        return Decoded(self.decoder["layers"](torch.tanh(latents / 3) * 3).mul(2).sub(1))


class TinyBlock(nn.Module):
    """Three convolutions, added to the input."""

    def __init__(self, width: int):
        super().__init__()
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)
