"""The U-Net's input channels, and classifier-free guidance around any denoiser.

Legend: b clips, c channels, f frames, h w latent height and width.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor


class AudioCondition(Protocol):
    """The audio of a batch, in the form that the network needs."""

    def with_unconditional(self: "Audio") -> "Audio":
        """The same for a doubled batch, whose first half has zeros for audio."""
        ...


Audio = TypeVar("Audio", bound=AudioCondition)
Timestep = TypeVar("Timestep", int, Tensor)  # one for all clips, or one per clip


def unet_input(noisy: Tensor, mask: Tensor, masked_latents: Tensor, reference_latents: Tensor) -> Tensor:
    """Pack the 13 input channels: noisy latents 4, mask 1 (1 = visible), masked latents 4, reference latents 4.

    All b c f h w. If `noisy` has n times as many clips (guidance), conditioning is repeated n times. A `mask` of one frame or
    one clip is used for all.
    """
    mask = mask.expand(masked_latents.shape[0], -1, noisy.shape[2], -1, -1)
    condition = torch.cat([mask, masked_latents, reference_latents], dim=1).to(noisy.dtype)
    copies, rest = divmod(noisy.shape[0], condition.shape[0])
    assert rest == 0, f"{noisy.shape[0]} noisy clips, but conditioning for {condition.shape[0]}"
    return torch.cat([noisy, condition.repeat(copies, 1, 1, 1, 1) if copies > 1 else condition], dim=1)


def conditioned(
    unet: Callable[[Tensor, Timestep, Audio], Tensor],
    mask: Tensor,
    masked_latents: Tensor,
    reference_latents: Tensor,
) -> Callable[[Tensor, Timestep, Audio], Tensor]:
    """Bind the conditioning channels: from a denoiser of 13 channels (x, t, audio) to one of the 4 noisy channels.

    The latents are b 4 f h w, the mask b 1 f h w.
    """

    def denoise(latents: Tensor, timestep: Timestep, audio: Audio) -> Tensor:
        return unet(unet_input(latents, mask, masked_latents, reference_latents), timestep, audio)

    return denoise


def guided(
    denoise: Callable[[Tensor, Timestep, Audio], Tensor],
    audio: Audio,
    guidance_scale: float,
    is_guided: Callable[[Timestep], bool] = lambda timestep: True,
) -> Callable[[Tensor, Timestep], Tensor]:
    """Bind the audio with classifier-free guidance (Ho & Salimans 2022): a denoiser (x_t, t) -> u + scale (c - u).

    The unconditional prediction u has zeros for audio. It is computed together with the conditional one c, as the first half of
    a doubled batch. With a scale of 1 or less, and in steps for which `is_guided` returns False (Kynkäänniemi et al. 2024,
    "Applying guidance in a limited interval"), only c is computed, at half the cost.
    """
    if guidance_scale <= 1:
        return lambda latents, timestep: denoise(latents, timestep, audio)
    both_audio = audio.with_unconditional()

    def denoise_guided(latents: Tensor, timestep: Timestep) -> Tensor:
        if not is_guided(timestep):
            return denoise(latents, timestep, audio)
        both_steps = timestep.repeat(2) if isinstance(timestep, Tensor) else timestep
        unconditional, conditional = denoise(torch.cat([latents, latents]), both_steps, both_audio).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return denoise_guided
