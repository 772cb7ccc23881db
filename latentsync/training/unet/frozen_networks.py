"""The frozen networks of a U-Net's training: loading, and the check of the SyncNet's accuracy."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn

from latentsync.audio.sync_mel import NUM_MELS
from latentsync.config import FrozenNetworksConfig, UNetRun, load
from latentsync.config.syncnet_run import SyncNetRun
from latentsync.device import DTYPES
from latentsync.losses.perceptual import load_perceptual_loss
from latentsync.models.syncnet import SyncNetConfig, check_geometry, load_syncnet
from latentsync.models.vae import load_vae
from latentsync.models.videomae import load_videomae
from latentsync.timebase import sync_mel_length
from latentsync.training.engine.frozen import Frozen
from latentsync.training.unet.pixel_losses import FrozenSyncNet, PixelLosses
from latentsync.weights import LATENT_CHANNELS, LATENT_STRIDE, CheckpointError, load_public_vae, release_of

log = logging.getLogger(__name__)


def frozen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Dtype of the frozen networks: `precision` on accelerators, float32 on a CPU."""
    return torch.float32 if device.type == "cpu" else DTYPES[precision]


def load_vae_at(path: Path | str) -> AutoencoderKL:
    """The auto-encoder from a file of this project or a folder in the public (diffusers) format."""
    return load_vae(path) if Path(path).is_file() else load_public_vae(path)


def load_frozen_vae(run: UNetRun, device: torch.device) -> Frozen[AutoencoderKL]:
    """The run's auto-encoder, frozen, on the device."""
    return Frozen(placed(load_vae_at(run.frozen_networks.vae), device, frozen_dtype(run.train.precision, device)))


def load_pixel_losses(run: UNetRun, device: torch.device) -> PixelLosses | None:
    """The losses on pixels with a weight above 0, with their networks on the device; None if there are none.

    Raises:
        CheckpointError: a network's file is missing, damaged or of another kind.
        ValueError: the SyncNet's input does not fit the clips, or `check_accuracy` fails.
    """
    wanted, dtype = run.pixel_losses, frozen_dtype(run.train.precision, device)
    if not wanted:
        return None
    sync = load_frozen_syncnet(run, device, dtype) if "sync" in wanted else None
    decodes = sync is None or not sync.sees_latents or len(wanted) > 1
    lpips = Frozen(load_perceptual_loss(run.frozen_networks.vgg).to(device)) if "lpips" in wanted else None
    trepa = Frozen(load_videomae(run.frozen_networks.videomae).to(device, dtype)) if "trepa" in wanted else None
    if trepa is not None and run.gradient_checkpointing:
        trepa.net.enable_gradient_checkpointing()
    vae = load_frozen_vae(run, device) if decodes else None
    return PixelLosses(vae, sync, lpips, trepa, recompute=run.gradient_checkpointing)


def load_frozen_syncnet(run: UNetRun, device: torch.device, dtype: torch.dtype) -> FrozenSyncNet:
    """The SyncNet on the device, after the checks of its accuracy and alignment."""
    syncnet, metadata = read_frozen_syncnet(run)
    check_accuracy(metadata, run.frozen_networks)
    warn_of_alignment(metadata, run)
    placed(syncnet.net.net, device, dtype)
    return syncnet


@dataclass(frozen=True)
class SyncView:
    """The input that a SyncNet expects."""

    num_frames: int
    resolution: int  # px of the face
    latent_space: bool
    lower_half: bool

    def image_size(self, face_px: int) -> tuple[int, int]:
        """Height and width of the input for square faces of `face_px`; only a pixel SyncNet resizes them, to `resolution`."""
        side = face_px // LATENT_STRIDE if self.latent_space else self.resolution
        return side // 2 if self.lower_half else side, side


def read_frozen_syncnet(run: UNetRun) -> tuple[FrozenSyncNet, dict[str, Any]]:
    """The SyncNet on the CPU, and its file's metadata.

    Raises:
        CheckpointError: the file cannot be loaded.
        ValueError: the network's input does not fit the run's clips.
    """
    files = run.frozen_networks
    settings = load(files.syncnet_config, SyncNetRun) if files.syncnet_config else None
    try:
        net, metadata = load_syncnet(files.syncnet, SyncNetConfig.from_dict(settings.model) if settings else None)
    except CheckpointError as error:
        hint = (
            "" if settings else " If the file is a public one, set frozen_networks.syncnet_config to its configuration."
        )
        raise CheckpointError(f"{error}{hint}") from error
    view = view_of(net.config, run, {**(view_settings(settings) if settings else {}), **metadata})
    check_syncnet(net.config, view, run, files.syncnet)
    return FrozenSyncNet(Frozen(net), view.resolution, view.latent_space, view.lower_half), metadata


def view_settings(settings: SyncNetRun) -> dict[str, Any]:
    """The fields of `SyncView` in a SyncNet's configuration."""
    return {field.name: getattr(settings.data, field.name) for field in fields(SyncView)}


def view_of(config: SyncNetConfig, run: UNetRun, known: Mapping[str, Any]) -> SyncView:
    """A SyncNet's input; fields missing in `known` follow from the network's channels or from the run's clips."""
    num_frames = known.get("num_frames", run.data.num_frames)
    latent_space = known.get("latent_space", config.visual_encoder.in_channels == LATENT_CHANNELS * num_frames)
    lower_half = known.get("lower_half", not latent_space)
    return SyncView(num_frames, known.get("resolution", run.data.resolution), latent_space, lower_half)


def check_syncnet(config: SyncNetConfig, view: SyncView, run: UNetRun, origin: Path | str) -> None:
    """ValueError unless the SyncNet's input has `data.num_frames` frames and a size that its layers reduce to D x 1 x 1."""
    if view.num_frames != run.data.num_frames:
        raise ValueError(
            f"{origin} expects {view.num_frames} frames, but data.num_frames is {run.data.num_frames}: use a SyncNet for that"
            " number of frames."
        )
    check_geometry(config, view.image_size(run.data.resolution), (NUM_MELS, sync_mel_length(view.num_frames)))


def check_accuracy(metadata: Mapping[str, Any], settings: FrozenNetworksConfig) -> None:
    """Refuse a SyncNet without proven accuracy: an untrained one gives any clip a small loss, an inaccurate one distorts faces.

    Raises:
        ValueError: its accuracy on validation pairs is unknown or below `min_sync_accuracy`, and `allow_unproven_sync` is false.
    """
    accuracy = settings.sync_accuracy or metadata.get("scores", {}).get("accuracy") or 0.0
    if settings.allow_unproven_sync or accuracy >= settings.min_sync_accuracy:
        return
    found = f"right on {accuracy:.1%} of validation pairs" if accuracy else "of unknown accuracy"
    raise ValueError(
        f"{settings.syncnet} is {found}, but the loss sync requires at least {settings.min_sync_accuracy:.0%}"
        " (frozen_networks.min_sync_accuracy). Measure it on your clips and set frozen_networks.sync_accuracy to the result,"
        " train it further, set train.loss_weights.sync=0, or skip this check with frozen_networks.allow_unproven_sync=true."
    )


def warn_of_alignment(metadata: Mapping[str, Any], run: UNetRun) -> None:
    """Warn if the SyncNet was trained on faces aligned by other points, on which it is less accurate."""
    path, given = run.frozen_networks.syncnet, run.data.aligned_by
    released = release_of(path)
    known = metadata.get("alignment") or (released.alignment if released else given)
    if known != given:
        log.warning(
            "%s was trained with the alignment %s, but this run's clips have %s (data.alignment).", path, known, given
        )


def placed(net: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a network to a device and dtype with PyTorch's `to`; diffusers' own logs irrelevant warnings. Returns the network."""
    return nn.Module.to(net, device, dtype)
