"""A small network in place of the auto-encoder's decoder: diffusers' AutoencoderTiny, as in "TAESD" (Bohan 2023).

Tensor legend: f frames, c h w; pixels float [-1, 1]; latents are scaled, as everywhere.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from latentsync.models.vae import LATENT_CHANNELS
from latentsync.weights import load_strict, read_checkpoint

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny  # takes seconds to import: only what builds a network does

KIND = "tiny_vae"


def build_tiny_vae(config: Mapping[str, Any]) -> "AutoencoderTiny":
    """A decoder from diffusers' entries `decoder_block_out_channels` and `num_decoder_blocks`, one each for 1, 2, 4 and 8
    pixels a latent cell from the last to the first; the encoder, which is not used, is as small as can be."""
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
