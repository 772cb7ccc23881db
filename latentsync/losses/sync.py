"""The sync loss: cross-entropy of the cosine similarity of lips and audio, used as the probability that they are in sync.

`SyncLoss` applies it with a frozen SyncNet, which must be proven to be accurate.

Legend: b clips, c channels, f frames, h w height and width, D width of an embedding, n mel columns.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latentsync.audio.sync_mel import NUM_MELS
from latentsync.device import full_precision
from latentsync.losses.contract import Comparison, LossSettings, PixelLoss, RunFacts, frames_of
from latentsync.models.frozen import Frozen
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig, check_geometry, load_syncnet, pack_frames
from latentsync.timebase import sync_mel_length
from latentsync.weights import LATENT_CHANNELS, LATENT_STRIDE, CheckpointError, release_of

log = logging.getLogger(__name__)


def sync_similarity(vision: Tensor, audio: Tensor) -> Tensor:
    """Cosine similarity [b] of two batches of embeddings [b, D], in float32 and clamped to [0, 1].

    A SyncNet's embeddings have no negative values, so only rounding errors are clamped.
    """
    return F.cosine_similarity(vision.float(), audio.float(), dim=1, eps=1e-8).clamp(0.0, 1.0)


def sync_loss(vision: Tensor, audio: Tensor, labels: Tensor | None = None) -> Tensor:
    """Binary cross-entropy [b] of the similarity, used as a probability without scale or shift (Prajwal et al. 2020).

    Args:
        vision, audio: embeddings [b, D].
        labels: 1 where lips and audio are in sync, else 0; [b] or [b, 1]. None: all are in sync.

    Returns:
        One loss per sample, in [0, 100]: PyTorch clamps the logarithms at -100.
    """
    similarity = sync_similarity(vision, audio)
    target = torch.ones_like(similarity) if labels is None else labels.reshape(-1).to(similarity)
    with full_precision(similarity.device):  # PyTorch refuses this loss under autocast
        return F.binary_cross_entropy(similarity, target, reduction="none")


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


@dataclass
class SyncNetSettings(LossSettings, ABC):
    """The SyncNet of the loss `sync`, whose accuracy on validation pairs must be at least `min_sync_accuracy`.

    Checkpoints of this project store their accuracy; for others set `sync_accuracy` to a measured value, or
    `allow_unproven_sync`.
    """

    syncnet: str = "checkpoints/stable_syncnet.pt"
    syncnet_config: str = ""  # for a SyncNet file that does not contain its configuration
    min_sync_accuracy: float = 0.85
    sync_accuracy: float = 0.0  # measured accuracy, for a file that does not store it; 0: unknown
    allow_unproven_sync: bool = False

    def check(self) -> None:
        for name in ("min_sync_accuracy", "sync_accuracy"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"frozen_networks.{name} is {getattr(self, name)}, but must be between 0 and 1.")

    @abstractmethod
    def described_syncnet(self) -> tuple[SyncNetConfig, SyncView] | None:
        """The network and input that the file `syncnet_config` describes; None without one. `latentsync.config` reads it."""


@dataclass(frozen=True)
class SyncLoss(PixelLoss):
    """A SyncNet and its input: faces at `resolution` px or their latents, the whole face or its lower half."""

    name = "sync"
    settings_type = SyncNetSettings
    needs_pixels = False
    needs_mel = True

    net: Frozen[StableSyncNet]
    resolution: int
    sees_latents: bool = False
    lower_half: bool = True

    @classmethod
    def load(cls, run: RunFacts, device: torch.device, dtype: torch.dtype) -> "SyncLoss":
        """The SyncNet on the device, after the checks of its accuracy and alignment."""
        loss, metadata = read_sync_loss(run)
        check_accuracy(metadata, run.settings)
        warn_of_alignment(metadata, run)
        loss.net.net.to(device, dtype)
        return loss

    @classmethod
    def empty(cls, run: RunFacts) -> "SyncLoss":
        """The SyncNet that `syncnet_config` describes; ValueError without one, or if its input does not fit the run."""
        described = run.settings.described_syncnet()
        if described is None:
            raise ValueError(
                "A dry run with the loss sync on the meta device needs frozen_networks.syncnet_config, a file of"
                " configs/syncnet."
            )
        config, view = described
        check_syncnet(config, view, run, run.settings.syncnet_config)
        with torch.device("meta"):
            net = StableSyncNet(config)
        return cls(Frozen(net), view.resolution, view.latent_space, view.lower_half)

    @property
    def decodes(self) -> bool:
        return not self.sees_latents

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"syncnet": self.net.net}

    def __call__(self, clips: Comparison) -> Tensor:
        """Mean binary cross-entropy of the similarity against the label "in sync"."""
        assert clips.mel is not None, "the loss sync needs mel windows"
        return sync_loss(*self.embeddings(clips.decoded, clips.latents, clips.mel)).mean()

    def embeddings(self, pixels: Tensor | None, latents: Tensor | None, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (lips, audio), [b, D] each, of clips b 3 f h w or their latents b 4 f h w, and mel windows [b, 1, 80, n]."""
        clip = latents if self.sees_latents else pixels
        assert clip is not None, "the SyncNet's input, pixels or latents, is missing"
        if not self.sees_latents:
            clip = resized(clip, self.resolution)
        dtype = self.net.net.audio_encoder.conv_in.weight.dtype
        return self.net.net(pack_frames(clip, self.lower_half).to(dtype), mel.to(dtype))

    def similarity(self, pixels: Tensor | None, latents: Tensor | None, mel: Tensor) -> Tensor:
        """Cosine similarities [b] of lips and audio, clamped to [0, 1]."""
        return sync_similarity(*self.embeddings(pixels, latents, mel))


def resized(clip: Tensor, resolution: int) -> Tensor:
    """Clips b c f h w resized to `resolution` x `resolution`: bicubic (a = -0.75), no antialiasing; unchanged at that size."""
    if clip.shape[-2:] == (resolution, resolution):
        return clip
    frames = F.interpolate(frames_of(clip), size=(resolution, resolution), mode="bicubic", align_corners=False)
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(clip))


def read_sync_loss(run: RunFacts) -> tuple[SyncLoss, dict[str, Any]]:
    """The SyncNet on the CPU, of any accuracy, and its file's metadata.

    Raises:
        CheckpointError: the file cannot be loaded.
        ValueError: the network's input does not fit the run's clips.
    """
    files: SyncNetSettings = run.settings
    described = files.described_syncnet()
    try:
        net, metadata = load_syncnet(files.syncnet, described[0] if described else None)
    except CheckpointError as error:
        hint = (
            ""
            if described
            else " If the file is a public one, set frozen_networks.syncnet_config to its configuration."
        )
        raise CheckpointError(f"{error}{hint}") from error
    view = view_of(net.config, run, {**(asdict(described[1]) if described else {}), **metadata})
    check_syncnet(net.config, view, run, files.syncnet)
    return SyncLoss(Frozen(net), view.resolution, view.latent_space, view.lower_half), metadata


def view_of(config: SyncNetConfig, run: RunFacts, known: Mapping[str, Any]) -> SyncView:
    """A SyncNet's input; fields missing in `known` follow from the network's channels or from the run's clips."""
    num_frames = known.get("num_frames", run.num_frames)
    latent_space = known.get("latent_space", config.visual_encoder.in_channels == LATENT_CHANNELS * num_frames)
    lower_half = known.get("lower_half", not latent_space)
    return SyncView(num_frames, known.get("resolution", run.resolution), latent_space, lower_half)


def check_syncnet(config: SyncNetConfig, view: SyncView, run: RunFacts, origin: Path | str) -> None:
    """ValueError unless the SyncNet's input has `data.num_frames` frames and a size that its layers reduce to D x 1 x 1."""
    if view.num_frames != run.num_frames:
        raise ValueError(
            f"{origin} expects {view.num_frames} frames, but data.num_frames is {run.num_frames}: use a SyncNet for that"
            " number of frames."
        )
    check_geometry(config, view.image_size(run.resolution), (NUM_MELS, sync_mel_length(view.num_frames)))


def check_accuracy(metadata: Mapping[str, Any], settings: SyncNetSettings) -> None:
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


def warn_of_alignment(metadata: Mapping[str, Any], run: RunFacts) -> None:
    """Warn if the SyncNet was trained on faces aligned by other points, on which it is less accurate."""
    path = run.settings.syncnet
    released = release_of(path)
    known = metadata.get("alignment") or (released.alignment if released else run.alignment)
    if known != run.alignment:
        log.warning(
            "%s was trained with the alignment %s, but this run's clips have %s (data.alignment).",
            path,
            known,
            run.alignment,
        )
