"""The video transformer of the temporal loss: VideoMAE v2 ViT-g (Wang et al. 2023, "VideoMAE V2").

Legend: b clips, c channels, f frames, h w pixels, s tokens ordered time, row, column, d width of a token.
Parameter names are those of the public checkpoint, so a strict load needs no renaming.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentsync.device import fused_attention
from latentsync.weights import load_strict, read_checkpoint

TIME_MARGIN = (
    0.1  # added to the number of time steps before the table is resized, so that its length is not rounded down
)


@dataclass(frozen=True)
class VideoMAEConfig:
    """Shape of the transformer; the defaults are the public ViT-g fine-tuned on Something-Something v2.

    A token is a block of `tubelet_size` frames and `patch_size`² pixels. The position table is made for clips of
    `all_frames` frames; frames must be `img_size` pixels square. `num_classes` 0 leaves out the classification head.
    """

    img_size: int = 224
    patch_size: int = 14
    tubelet_size: int = 2
    all_frames: int = 16
    embed_dim: int = 1408
    depth: int = 40
    num_heads: int = 16
    mlp_hidden: int = 6144
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    num_classes: int = 174

    def __post_init__(self) -> None:
        for whole, part in (
            ("embed_dim", "num_heads"),
            ("img_size", "patch_size"),
            ("all_frames", "tubelet_size"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} is {getattr(self, whole)}, but must be a multiple of {part} ({getattr(self, part)})."
                )

    @property
    def time_steps(self) -> int:
        return self.all_frames // self.tubelet_size

    @property
    def patches(self) -> int:
        """Tokens of one time step."""
        return (self.img_size // self.patch_size) ** 2


@lru_cache(maxsize=4)
def position_table(config: VideoMAEConfig, frames: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sines (even columns) and cosines (odd columns) of the flat token index, s d.

    The table is computed, not stored with the parameters, and resized along time for other clip lengths. Columns 2i and 2i+1
    have the frequency 10000^(-2i/d) per token.
    """
    tokens = torch.arange(config.time_steps * config.patches, dtype=torch.float64, device="cpu")
    columns = torch.arange(config.embed_dim, dtype=torch.float64, device="cpu")
    angles = tokens[:, None] / 10_000.0 ** (2 * (columns // 2) / config.embed_dim)
    table = torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()
    if frames != config.all_frames:
        table = _resized_along_time(table, config, frames)
    return table.to(device, dtype)


def _resized_along_time(table: Tensor, config: VideoMAEConfig, frames: int) -> Tensor:
    rows = rearrange(table, "(t p) d -> p d t", p=config.patches)
    factor = (frames // config.tubelet_size + TIME_MARGIN) / config.time_steps
    return rearrange(F.interpolate(rows, scale_factor=factor, mode="linear"), "p d t -> (t p) d")


class PatchEmbedding(nn.Module):
    """Blocks of pixels to tokens: a convolution with stride = kernel size, computed as one matrix product."""

    def __init__(self, config: VideoMAEConfig):
        super().__init__()
        self.block = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.embed_dim, kernel_size=self.block, stride=self.block)

    def forward(self, video: Tensor) -> Tensor:
        """`video` b 3 f h w -> b s d."""
        t, p, q = self.block
        blocks = rearrange(video, "b c (f t) (h p) (w q) -> b (f h w) (c t p q)", t=t, p=p, q=q)
        return F.linear(blocks, self.proj.weight.flatten(1), self.proj.bias)


class TokenAttention(nn.Module):
    """Multi-head self-attention; queries and values have a bias, keys (whose bias cancels) have none."""

    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x` b s d -> b s d."""
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = rearrange(qkv, "b s (three heads d) -> three b heads s d", three=3, heads=self.heads)
        return self.proj(rearrange(fused_attention(q, k, v), "b heads s d -> b s (heads d)"))


class Mlp(nn.Module):
    """Two layers for each token with the exact GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention, then MLP; each after a LayerNorm, each residual."""

    def __init__(self, config: VideoMAEConfig):
        super().__init__()
        width = config.embed_dim
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = TokenAttention(width, config.num_heads, config.qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = Mlp(width, config.mlp_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VideoMAE(nn.Module):
    """Clip -> one feature vector (`features`), and class scores on top of it (`forward`)."""

    def __init__(self, config: VideoMAEConfig | None = None):
        super().__init__()
        self.config = config = config or VideoMAEConfig()
        self.gradient_checkpointing = False
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.fc_norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.embed_dim, config.num_classes) if config.num_classes else nn.Identity()

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.gradient_checkpointing = enabled

    def features(self, video: Tensor) -> Tensor:
        """Normalised mean of the tokens, b d.

        Args:
            video: b 3 f h w in [0, 1], at `config.img_size`; f a multiple of `config.tubelet_size`. Other clip lengths
                than `config.all_frames` get a resized table of positions.

        Raises:
            ValueError: the frames have another size, or their number is not a multiple of `config.tubelet_size`.
        """
        self._check(video)
        x = self.patch_embed(video)
        x = x + position_table(self.config, video.shape[2], x.device, x.dtype)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return self.fc_norm(x.mean(dim=1))

    def forward(self, video: Tensor) -> Tensor:
        """`video` as for `features` -> class scores, b `config.num_classes`."""
        return self.head(self.features(video))

    def _check(self, video: Tensor) -> None:
        frames, height, width = video.shape[2:]
        size, step = self.config.img_size, self.config.tubelet_size
        if (height, width) != (size, size):
            raise ValueError(f"The frames are {width}x{height}, but this video model needs {size}x{size}: resize them.")
        if frames % step or not frames:
            raise ValueError(f"The clip has {frames} frames, but this video model needs a multiple of {step}.")


def empty_videomae(config: VideoMAEConfig | None = None) -> VideoMAE:
    """A network in evaluation mode on the meta device: keys and shapes without the 4 GB of storage."""
    with torch.device("meta"):
        return VideoMAE(config).eval()


def load_videomae(path: Path | str, config: VideoMAEConfig | None = None) -> VideoMAE:
    """The frozen network, on the CPU, from a public file: its state dict bare or under `model` or `module`; strict.

    Raises:
        CheckpointError: the file cannot be read, or its keys and shapes are not those of `config`.
    """
    net = empty_videomae(config)
    load_strict(net, read_checkpoint(path).tensors, path)
    return net.requires_grad_(False)
