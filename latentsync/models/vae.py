"""The image auto-encoder: diffusers' AutoencoderKL, and the only place that scales latents.

Tensor legend: f frames, c h w; pixels float [-1, 1]; latents are scaled by `SCALING_FACTOR` to about unit variance.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentsync.weights import LATENT_CHANNELS, load_strict, read_checkpoint

if TYPE_CHECKING:
    from diffusers import AutoencoderKL  # its import takes seconds

SCALING_FACTOR = 0.18215


def build_vae(config: Mapping[str, Any]) -> "AutoencoderKL":
    """An auto-encoder from diffusers' configuration entries (`block_out_channels`, `layers_per_block`, ...)."""
    from diffusers import AutoencoderKL

    levels = len(config["block_out_channels"])
    fixed = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": SCALING_FACTOR,
    }
    return AutoencoderKL.from_config({**fixed, **config})


def encode(vae: "AutoencoderKL", pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pixels [f, 3, h, w] -> scaled latents [f, 4, h/8, w/8]: the posterior's mean, or a sample if a generator is given."""
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mean if generator is None else posterior.sample(generator)
    return latents * SCALING_FACTOR


def decode(vae: "AutoencoderKL", latents: Tensor) -> Tensor:
    """Scaled latents [f, 4, h, w] -> pixels [f, 3, 8h, 8w], about [-1, 1] but not clamped."""
    return vae.decode(latents / SCALING_FACTOR).sample


@torch.no_grad()
def fold_latent_statistics(vae: "AutoencoderKL", mean: Tensor, std: Tensor) -> None:
    """Fold a normalisation into the 1x1 convolutions: scaled latents get mean 0 and standard deviation 1 per channel.

    `mean`, `std` [4] are those of the latents before scaling. Reconstructions do not change except for rounding.
    """
    gain = 1 / (std * SCALING_FACTOR)
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= gain[None, :, None, None]
    quant.weight[:LATENT_CHANNELS] *= gain[:, None, None, None]
    quant.bias[:LATENT_CHANNELS] = (quant.bias[:LATENT_CHANNELS] - mean) * gain
    quant.bias[LATENT_CHANNELS:] += 2 * torch.log(gain)


def load_vae(path: Path | str) -> "AutoencoderKL":
    """An auto-encoder that this project trained, from safetensors with its configuration; frozen, in evaluation mode."""
    checkpoint = read_checkpoint(path)
    checkpoint.require_kind("vae")
    vae = build_vae(checkpoint.section("model"))
    load_strict(vae, checkpoint.tensors, path)
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


# A small network in place of the auto-encoder's decoder: diffusers' AutoencoderTiny, as in "TAESD" (Bohan 2023).
#
# Tensor legend: f frames, c h w; pixels float [-1, 1]; latents are scaled, as everywhere.
if TYPE_CHECKING:
    from diffusers import AutoencoderTiny  # its import takes seconds

KIND = "tiny_vae"


def build_tiny_vae(config: Mapping[str, Any]) -> "AutoencoderTiny":
    """A decoder from diffusers' entries `decoder_block_out_channels` and `num_decoder_blocks`, one value per resolution
    from 1/8 to 1/1 of the pixels. The encoder is not used and has the smallest possible size."""
    from diffusers import AutoencoderTiny

    levels = len(config["decoder_block_out_channels"])
    fixed = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "encoder_block_out_channels": [1] * levels,
        "num_encoder_blocks": [1] * levels,
    }
    return AutoencoderTiny.from_config({**fixed, **config})


def decode_tiny(vae: "AutoencoderTiny", latents: Tensor) -> Tensor:
    """Scaled latents [f, 4, h, w] -> pixels [f, 3, 8h, 8w], about [-1, 1] but not clamped."""
    return vae.decode(latents).sample


def load_tiny_vae(path: Path | str) -> "AutoencoderTiny":
    """A small decoder that this project trained; frozen, in evaluation mode. CheckpointError as for every checkpoint."""
    checkpoint = read_checkpoint(path)
    checkpoint.require_kind(KIND)
    vae = build_tiny_vae(checkpoint.section("model"))
    load_strict(vae, checkpoint.tensors, path)
    return vae.eval().requires_grad_(False)
