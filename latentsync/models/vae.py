"""The image auto-encoder: building it to be trained, loading it to be run, and the only place that scales latents.

Tensor legend: f frames, c h w; pixels float [-1, 1]; latents are scaled by `SCALING_FACTOR` to about unit variance.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentsync.models.auto_encoder import AutoEncoder, TinyDecoder
from latentsync.weights import (
    LATENT_CHANNELS,
    Checkpoint,
    CheckpointError,
    load_strict,
    read_checkpoint,
    read_public_vae,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny  # its import takes seconds

SCALING_FACTOR = 0.18215
SIZES = ("block_out_channels", "layers_per_block", "norm_num_groups")  # entries of a configuration that may differ
TINY_SIZES = ("decoder_block_out_channels", "num_decoder_blocks")
# endings of parameter names of the attention in files from before diffusers 0.12, such as the public one
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def build_vae(config: Mapping[str, Any]) -> "AutoencoderKL":
    """An auto-encoder to train, from diffusers' configuration entries (`block_out_channels`, `layers_per_block`, ...)."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_config(public_config(config))


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers' configuration of an auto-encoder of these sizes."""
    levels = len(config["block_out_channels"])
    fixed = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": SCALING_FACTOR,
    }
    return {**fixed, **config}


def encode(vae: "AutoEncoder | AutoencoderKL", pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pixels [f, 3, h, w] -> scaled latents [f, 4, h/8, w/8]: the posterior's mean, or a sample if a generator is given."""
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mean if generator is None else posterior.sample(generator)
    return latents * SCALING_FACTOR


def decode(vae: "AutoEncoder | AutoencoderKL", latents: Tensor) -> Tensor:
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


def load_any_vae(path: Path | str) -> AutoEncoder:
    """The auto-encoder of a file of this project, or of a folder in the public (diffusers) format (see `read_public_vae`)."""
    return load_vae(path) if Path(path).is_file() else load_public_vae(path)


def load_vae(path: Path | str) -> AutoEncoder:
    """An auto-encoder that this project trained, from safetensors with its configuration; frozen, in evaluation mode."""
    checkpoint = read_checkpoint(path)
    checkpoint.require_kind("vae")
    return _frozen(checkpoint, checkpoint.tensors).to(memory_format=torch.channels_last)


def load_public_vae(folder: Path | str) -> AutoEncoder:
    """The public models' auto-encoder; frozen, in evaluation mode. CheckpointError as `read_public_vae`, and if it differs."""
    checkpoint = read_public_vae(folder)
    return _frozen(checkpoint, {_new_name(key): value for key, value in checkpoint.tensors.items()})


def _frozen(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> AutoEncoder:
    config = checkpoint.section("model")
    try:
        vae = AutoEncoder(**{name: config[name] for name in SIZES if name in config})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path} has a configuration that cannot be built ({error}).") from error
    load_strict(vae, tensors, checkpoint.path)
    return vae.eval().requires_grad_(False)


def _new_name(key: str) -> str:
    """The present name of a parameter."""
    for old, new in OLD_NAMES.items():
        key = key.replace(old, new)
    return key


# A small network in place of the auto-encoder's decoder: diffusers' AutoencoderTiny, as in "TAESD" (Bohan 2023).
#
# Tensor legend: f frames, c h w; pixels float [-1, 1]; latents are scaled, as everywhere.
KIND = "tiny_vae"


def build_tiny_vae(config: Mapping[str, Any]) -> "AutoencoderTiny":
    """A decoder to train, from diffusers' entries `decoder_block_out_channels` and `num_decoder_blocks`, one value per resolution
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


def decode_tiny(vae: "TinyDecoder | AutoencoderTiny", latents: Tensor) -> Tensor:
    """Scaled latents [f, 4, h, w] -> pixels [f, 3, 8h, 8w], about [-1, 1] but not clamped."""
    return vae.decode(latents).sample


def load_tiny_vae(path: Path | str) -> TinyDecoder:
    """A small decoder that this project trained; frozen, in evaluation mode. CheckpointError as for every checkpoint."""
    checkpoint = read_checkpoint(path)
    checkpoint.require_kind(KIND)
    config = checkpoint.section("model")
    vae = TinyDecoder(*(config[name] for name in TINY_SIZES))
    load_strict(vae, {key: value for key, value in checkpoint.tensors.items() if key.startswith("decoder.")}, path)
    return vae.eval().requires_grad_(False)
