"""StableSyncNet: scores whether lips and audio are in sync, by two convolutional encoders with a common embedding space.

Tensor legend: clips b c f h w; inputs of an encoder b c h w, with the frames of a clip packed into channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latentsync.device import fused_attention
from latentsync.models.attention import FeedForward
from latentsync.models.sections import arguments_of
from latentsync.weights import check_agreement, load_strict, read_checkpoint

NORM_GROUPS = 32
NORM_EPS = 1e-6
ATTENTION_HEADS = 8
# The last group norm has D / 32 values a group; with one or two a group the network cannot learn.
MIN_EMBEDDING = 4 * NORM_GROUPS


@dataclass
class SyncNetEncoderConfig:
    """One encoder: a residual block per entry of `block_out_channels`, followed by attention where `attn_blocks` is 1.

    `downsample_factors` holds a factor, or a pair (height, width), per block; no `attn_blocks` means no attention.
    """

    in_channels: int
    block_out_channels: list[int]
    downsample_factors: list[Any]
    attn_blocks: list[int] = field(default_factory=list)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.attn_blocks = list(self.attn_blocks) or [0] * len(self.block_out_channels)
        lengths = {len(self.block_out_channels), len(self.downsample_factors), len(self.attn_blocks)}
        if len(lengths) != 1 or not self.block_out_channels:
            raise ValueError(
                "block_out_channels, downsample_factors and attn_blocks of a SyncNet encoder must have one entry per "
                f"block each; they have {len(self.block_out_channels)}, {len(self.downsample_factors)} and "
                f"{len(self.attn_blocks)}"
            )
        odd = [c for c in self.block_out_channels if c % NORM_GROUPS]
        if odd:
            raise ValueError(f"SyncNet block widths must be multiples of {NORM_GROUPS} (group norm); got {odd}")

    @property
    def strides(self) -> list[tuple[int, int]]:
        """Downsampling factor (height, width) of every block."""
        return [(f, f) if isinstance(f, int) else (int(f[0]), int(f[1])) for f in self.downsample_factors]


@dataclass
class SyncNetConfig:
    """Both encoders of a SyncNet."""

    audio_encoder: SyncNetEncoderConfig
    visual_encoder: SyncNetEncoderConfig

    @classmethod
    def from_dict(cls, sections: Mapping[str, Mapping[str, Any]]) -> "SyncNetConfig":
        """Build from the sections `audio_encoder` and `visual_encoder`; ValueError if a key is unknown, missing or inconsistent."""
        encoders = arguments_of(cls, sections, "the SyncNet's configuration")
        return cls(
            **{
                name: SyncNetEncoderConfig(**arguments_of(SyncNetEncoderConfig, encoder, name))
                for name, encoder in encoders.items()
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain sections; the inverse of `from_dict`."""
        return asdict(self)


def downsample_padding(stride: tuple[int, int]) -> tuple[int, int, int, int]:
    """Zeros (left, right, top, bottom) before the 3x3 convolution of this stride, as the checkpoints were trained."""
    if stride[0] == 1:
        return (0, 1, 1, 1)
    if stride[1] == 1:
        return (1, 1, 0, 1)
    return (0, 1, 0, 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after a GroupNorm, with a shortcut; then a strided 3x3 convolution unless the stride is (1, 1)."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, in_channels, NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, out_channels, NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.padding = downsample_padding(stride)
        self.downsample_conv = nn.Conv2d(out_channels, out_channels, 3, stride) if stride != (1, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        h = h + self.conv_shortcut(x)
        if self.downsample_conv is None:
            return h
        return self.downsample_conv(F.pad(h, self.padding))


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence [b, s, c] to itself; unlike the U-Net's, its projections have a bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(project(x), "b s (n d) -> b n s d", n=ATTENTION_HEADS)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out[0](rearrange(fused_attention(q, k, v), "b n s d -> b s (n d)"))


class AttentionBlock(nn.Module):
    """Self-attention over all positions of a feature map, then feed-forward; residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels, NORM_EPS)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        self.conv_in = nn.Conv2d(channels, channels, 1)
        self.conv_out = nn.Conv2d(channels, channels, 1)
        self.attn = SelfAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        tokens = rearrange(self.conv_in(self.norm1(x)), "b c h w -> b (h w) c")
        tokens = tokens + self.attn(self.norm2(tokens))
        tokens = tokens + self.ff(self.norm3(tokens))
        return x + self.conv_out(rearrange(tokens, "b (h w) c -> b c h w", h=height))


class SyncNetEncoder(nn.Module):
    """Feature map of one modality: [b, in_channels, h, w] -> [b, D, h', w'], not negative."""

    def __init__(self, config: SyncNetEncoderConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for before, width, stride, attend in zip(
            widths[:1] + widths[:-1], widths, config.strides, config.attn_blocks, strict=True
        ):
            self.down_blocks.append(ResidualBlock(before, width, stride, config.dropout))
            if attend:
                self.down_blocks.append(AttentionBlock(width))
        self.norm_out = nn.GroupNorm(NORM_GROUPS, widths[-1], NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return F.relu(self.norm_out(x))


class StableSyncNet(nn.Module):
    """Embeds a clip of lips and a mel window; their cosine similarity in [0, 1] is high if they are in sync.

    LatentSync (Li et al. 2024), section 3.3. Attribute names are those of the public checkpoints.
    """

    def __init__(self, config: SyncNetConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_encoder = SyncNetEncoder(config.audio_encoder)
        self.visual_encoder = SyncNetEncoder(config.visual_encoder)

    def embed_lips(self, image: Tensor) -> Tensor:
        """Packed frames [b, f * c, h, w] (see `pack_frames`) -> unit-length embeddings [b, D], not negative."""
        return F.normalize(self.visual_encoder(image).flatten(1), dim=1)

    def embed_audio(self, mel: Tensor) -> Tensor:
        """SyncNet mel windows [b, 1, 80, t] in [-4, 4] -> unit-length embeddings [b, D], not negative."""
        return F.normalize(self.audio_encoder(mel).flatten(1), dim=1)

    def forward(self, image: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(vision, audio) embeddings, [b, D] each, of `image` [b, f * c, h, w] and `mel` [b, 1, 80, t]."""
        return self.embed_lips(image), self.embed_audio(mel)


def pack_frames(clip: Tensor, lower_half: bool) -> Tensor:
    """Clip [b, c, f, h, w] -> encoder input [b, f * c, h', w]: frame-major channels, optionally rows from h // 2 down.

    Pixels are in [-1, 1], latents are scaled. Pixel networks get the lower half of the face, latent ones the whole face.
    """
    visible = clip[..., clip.shape[-2] // 2 :, :] if lower_half else clip
    return rearrange(visible, "b c f h w -> b (f c) h w")


@dataclass(frozen=True)
class LayerSize:
    """Size of a feature map after a layer."""

    layer: str
    channels: int
    height: int
    width: int


def encoder_sizes(config: SyncNetEncoderConfig, height: int, width: int) -> list[LayerSize]:
    """Feature map sizes of an encoder for an input of `height` x `width`; 0 where a map is too small for its kernel."""
    sizes = [LayerSize("input", config.in_channels, height, width)]
    for index, (channels, stride) in enumerate(zip(config.block_out_channels, config.strides, strict=True)):
        if stride != (1, 1):
            left, right, top, bottom = downsample_padding(stride)
            height = max(0, (height + top + bottom - 3) // stride[0] + 1) if height else 0
            width = max(0, (width + left + right - 3) // stride[1] + 1) if width else 0
        sizes.append(LayerSize(f"block {index}, factor {stride[0]}x{stride[1]}", channels, height, width))
    return sizes


def check_geometry(
    config: SyncNetConfig, image_size: Sequence[int], mel_size: Sequence[int]
) -> dict[str, list[LayerSize]]:
    """Sizes per layer of both encoders for an image (h, w), after the lower half is cut, and a mel window (80, t).

    Raises:
        ValueError: an encoder does not end in D x 1 x 1, the two D differ (the message contains the table), or D is too
            small for the last group norm.
    """
    table = {
        "visual_encoder": encoder_sizes(config.visual_encoder, *image_size),
        "audio_encoder": encoder_sizes(config.audio_encoder, *mel_size),
    }
    ends = [sizes[-1] for sizes in table.values()]
    if any((end.height, end.width) != (1, 1) for end in ends) or ends[0].channels != ends[1].channels:
        raise ValueError(
            "both SyncNet encoders must reduce their input to D x 1 x 1 with the same D; change downsample_factors or "
            f"block_out_channels:\n{format_sizes(table)}"
        )
    if ends[0].channels < MIN_EMBEDDING:
        raise ValueError(
            f"a SyncNet embedding of {ends[0].channels} numbers cannot be trained: the last group norm has "
            f"{NORM_GROUPS} groups; make the last block at least {MIN_EMBEDDING} wide"
        )
    return table


def format_sizes(table: Mapping[str, Sequence[LayerSize]]) -> str:
    """The table of `check_geometry` as text, a layer per line."""
    return "\n".join(
        f"{encoder:15} {size.layer:20} {size.channels} x {size.height} x {size.width}"
        for encoder, sizes in table.items()
        for size in sizes
    )


def load_syncnet(path: Path | str, config: SyncNetConfig | None = None) -> tuple[StableSyncNet, dict[str, Any]]:
    """The network, frozen and in evaluation mode, and its file's metadata; a public file needs its `config`.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or shape, contradicts `config`, or has no
            configuration and none is given.
    """
    checkpoint = read_checkpoint(path)
    checkpoint.require_kind("syncnet")
    if config is None or "model" in checkpoint.metadata:
        stored = SyncNetConfig.from_dict(checkpoint.section("model"))
        check_agreement(stored.to_dict(), config.to_dict() if config else {}, path)
        config = stored
    net = StableSyncNet(config)
    load_strict(net, checkpoint.tensors, path)
    return net.eval().requires_grad_(False), checkpoint.metadata
