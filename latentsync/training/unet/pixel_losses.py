"""The losses of a run on pixels, applied to the clip decoded from the U-Net's prediction.

Legend: b clips, c channels, f frames, h w height and width; pixels in [-1, 1], latents scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor

from latentsync.config import UNetRun
from latentsync.data.unet_clips import ClipBatch
from latentsync.losses.contract import Comparison, PixelLoss, frames_of, in_parts
from latentsync.models.frozen import Frozen
from latentsync.models.vae import decode

Loss = TypeVar("Loss", bound=PixelLoss)


@dataclass(frozen=True)
class PixelLosses:
    """Losses in the order of `PIXEL_LOSSES`, and the auto-encoder if one of them needs decoded pixels.

    With `recompute` the auto-encoder decodes a few frames at a time and recomputes its activations in the backward pass.
    """

    losses: tuple[PixelLoss, ...]
    vae: Frozen[AutoencoderKL] | None = None
    recompute: bool = False

    def __call__(self, clean: Tensor, batch: ClipBatch) -> dict[str, Tensor]:
        """Unweighted losses, by name, of estimated clean latents b 4 f h w against the batch's `pixels` and `mel`."""
        decoded = self.decode(clean) if self.vae is not None else None
        clips = Comparison(clean, decoded, batch.pixels, batch.mel)
        return {loss.name: loss(clips) for loss in self.losses}

    def find(self, kind: type[Loss]) -> Loss | None:
        """The loss of this class; None if the run does not use it."""
        return next((loss for loss in self.losses if isinstance(loss, kind)), None)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents b 4 f h w -> pixels b 3 f 8h 8w, float32, not clamped."""
        assert self.vae is not None, "decoding needs the auto-encoder"
        vae = self.vae.net

        def decode_frames(frames: Tensor) -> Tensor:
            return decode(vae, frames.to(vae.dtype)).float()

        pixels = in_parts(decode_frames, frames_of(latents), recompute=self.recompute)
        return rearrange(pixels, "(b f) c h w -> b c f h w", b=len(latents))


def make_pixel_losses(
    run: UNetRun, make: Callable[[type[PixelLoss]], PixelLoss], make_vae: Callable[[], Frozen[AutoencoderKL]]
) -> PixelLosses | None:
    """The losses on pixels with a weight above 0, each built by `make`, and the auto-encoder if needed; None without losses."""
    losses = tuple(make(kind) for kind in run.pixel_losses)
    if not losses:
        return None
    vae = make_vae() if any(loss.decodes for loss in losses) else None
    return PixelLosses(losses, vae, run.gradient_checkpointing)
