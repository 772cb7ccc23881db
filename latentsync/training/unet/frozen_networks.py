"""The frozen networks of a U-Net's training: their precision, the auto-encoder, and those of the losses on pixels."""

import torch

from latentsync.config import UNetRun
from latentsync.device import DTYPES
from latentsync.models.auto_encoder import AutoEncoder
from latentsync.models.frozen import Frozen
from latentsync.models.vae import load_any_vae
from latentsync.training.unet.pixel_losses import PixelLosses, make_pixel_losses


def frozen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Dtype of the frozen networks: `precision` on accelerators, float32 on a CPU."""
    return torch.float32 if device.type == "cpu" else DTYPES[precision]


def load_frozen_vae(run: UNetRun, device: torch.device) -> Frozen[AutoEncoder]:
    """The run's auto-encoder, frozen, on the device."""
    vae = load_any_vae(run.frozen_networks.vae)
    return Frozen(vae.to(device, frozen_dtype(run.train.precision, device)))


def load_pixel_losses(run: UNetRun, device: torch.device) -> PixelLosses | None:
    """The losses on pixels with a weight above 0, with their networks on the device; None if there are none.

    Raises:
        CheckpointError: a network's file is missing, damaged or of another kind.
        ValueError: a network does not fit the run, see `PixelLoss.load`.
    """
    facts, dtype = run.facts, frozen_dtype(run.train.precision, device)
    return make_pixel_losses(run, lambda loss: loss.load(facts, device, dtype), lambda: load_frozen_vae(run, device))
