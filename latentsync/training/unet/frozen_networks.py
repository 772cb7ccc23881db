"""The frozen networks of a U-Net's training: their precision, the auto-encoder, and those of the losses on pixels."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from latentsync.config import UNetRun
from latentsync.device import DTYPES
from latentsync.models.frozen import Frozen
from latentsync.models.vae import load_vae
from latentsync.training.unet.pixel_losses import PixelLosses, make_pixel_losses
from latentsync.weights import load_public_vae


def frozen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Dtype of the frozen networks: `precision` on accelerators, float32 on a CPU."""
    return torch.float32 if device.type == "cpu" else DTYPES[precision]


def load_vae_at(path: Path | str) -> AutoencoderKL:
    """The auto-encoder from a file of this project or a folder in the public (diffusers) format."""
    return load_vae(path) if Path(path).is_file() else load_public_vae(path)


def load_frozen_vae(run: UNetRun, device: torch.device) -> Frozen[AutoencoderKL]:
    """The run's auto-encoder, frozen, on the device."""
    vae = load_vae_at(run.frozen_networks.vae)
    nn.Module.to(vae, device, frozen_dtype(run.train.precision, device))  # diffusers' own `to` logs irrelevant warnings
    return Frozen(vae)


def load_pixel_losses(run: UNetRun, device: torch.device) -> PixelLosses | None:
    """The losses on pixels with a weight above 0, with their networks on the device; None if there are none.

    Raises:
        CheckpointError: a network's file is missing, damaged or of another kind.
        ValueError: a network does not fit the run, see `PixelLoss.load`.
    """
    facts, dtype = run.facts, frozen_dtype(run.train.precision, device)
    return make_pixel_losses(run, lambda loss: loss.load(facts, device, dtype), lambda: load_frozen_vae(run, device))
