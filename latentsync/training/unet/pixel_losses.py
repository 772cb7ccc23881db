"""The losses on pixels: a SyncNet, a perceptual and a video network applied to the clip decoded from the U-Net's prediction.

Legend: b clips, c channels, f frames, h w height and width; pixels in [-1, 1], latents scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from latentsync.data.unet_clips import ClipBatch
from latentsync.losses.perceptual import PerceptualLoss
from latentsync.losses.sync import sync_loss, sync_similarity
from latentsync.losses.trepa import trepa_loss
from latentsync.models.syncnet import StableSyncNet, pack_frames
from latentsync.models.vae import decode
from latentsync.models.videomae import VideoMAE
from latentsync.training.engine.frozen import Frozen

FRAMES_AT_ONCE = 4  # per checkpointed call, where activations are recomputed in the backward pass


@dataclass(frozen=True)
class FrozenSyncNet:
    """A SyncNet and its input: faces at `resolution` px or their latents, the whole face or its lower half."""

    net: Frozen[StableSyncNet]
    resolution: int
    sees_latents: bool = False
    lower_half: bool = True

    def embeddings(self, pixels: Tensor | None, latents: Tensor | None, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (lips, audio), [b, D] each, of clips b 3 f h w or their latents b 4 f h w, and mel windows [b, 1, 80, n]."""
        clip = latents if self.sees_latents else pixels
        assert clip is not None, "the SyncNet's input, pixels or latents, is missing"
        if not self.sees_latents:
            clip = resized(clip, self.resolution)
        dtype = self.net.net.audio_encoder.conv_in.weight.dtype
        return self.net.net(pack_frames(clip, self.lower_half).to(dtype), mel.to(dtype))

    def loss(self, pixels: Tensor | None, latents: Tensor | None, mel: Tensor) -> Tensor:
        """Mean binary cross-entropy of the similarity against the label "in sync"."""
        return sync_loss(*self.embeddings(pixels, latents, mel)).mean()

    def similarity(self, pixels: Tensor | None, latents: Tensor | None, mel: Tensor) -> Tensor:
        """Cosine similarities [b] of lips and audio, clamped to [0, 1]."""
        return sync_similarity(*self.embeddings(pixels, latents, mel))


def resized(clip: Tensor, resolution: int) -> Tensor:
    """Clips b c f h w resized to `resolution` x `resolution`: bicubic (a = -0.75), no antialiasing; unchanged at that size."""
    if clip.shape[-2:] == (resolution, resolution):
        return clip
    frames = rearrange(clip, "b c f h w -> (b f) c h w")
    frames = F.interpolate(frames, size=(resolution, resolution), mode="bicubic", align_corners=False)
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(clip))


@dataclass(frozen=True)
class PixelLosses:
    """The losses `sync`, `lpips` and `trepa`, each only if its network is given.

    With `recompute` the auto-encoder and the perceptual network process a few frames at a time and recompute their activations
    in the backward pass, so that the memory for activations does not grow with the length of clips.
    """

    vae: Frozen[AutoencoderKL] | None = None
    sync: FrozenSyncNet | None = None
    lpips: Frozen[PerceptualLoss] | None = None
    trepa: Frozen[VideoMAE] | None = None
    recompute: bool = False

    def __call__(self, clean: Tensor, batch: ClipBatch) -> dict[str, Tensor]:
        """Unweighted losses of estimated clean latents b 4 f h w against the batch's `pixels` and `mel`."""
        pixels = self.decode(clean) if self.vae is not None else None
        losses = {}
        if self.sync is not None:
            assert batch.mel is not None, "the loss sync needs mel windows"
            losses["sync"] = self.sync.loss(pixels, clean, batch.mel)
        if self.lpips is not None:
            assert pixels is not None and batch.pixels is not None, "the loss lpips compares pixels"
            losses["lpips"] = self._in_parts(self.lpips.net, frames_of(pixels), frames_of(batch.pixels)).mean()
        if self.trepa is not None:
            assert pixels is not None and batch.pixels is not None, "the loss trepa compares pixels"
            losses["trepa"] = trepa_loss(self.trepa.net, pixels, batch.pixels)
        return losses

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents b 4 f h w -> pixels b 3 f 8h 8w, float32, not clamped."""
        assert self.vae is not None, "decoding needs the auto-encoder"
        vae = self.vae.net

        def decode_frames(frames: Tensor) -> Tensor:
            return decode(vae, frames.to(vae.dtype)).float()

        return rearrange(self._in_parts(decode_frames, frames_of(latents)), "(b f) c h w -> b c f h w", b=len(latents))

    def _in_parts(self, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`compute` over the inputs' first dimension, frames; with `recompute` in checkpointed parts."""
        if not (self.recompute and torch.is_grad_enabled()):
            return compute(*inputs)
        parts = zip(*(each.split(FRAMES_AT_ONCE) for each in inputs), strict=True)
        return torch.cat([checkpoint(compute, *part, use_reentrant=False) for part in parts])


def frames_of(clip: Tensor) -> Tensor:
    """b c f h w -> (b f) c h w."""
    return rearrange(clip, "b c f h w -> (b f) c h w")
