"""The U-Net's input channels, and the U-Net as a denoiser of the noisy ones alone.

Legend: b clips, c channels, f frames, h w latent height and width, s audio tokens, d width of an audio token.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

AudioDenoiser = Callable[[Tensor, int, Any], Tensor]  # (x_t b c f h w, t, audio) -> noise b c f h w


def unet_input(noisy: Tensor, mask: Tensor, masked_latents: Tensor, reference_latents: Tensor) -> Tensor:
    """Pack the 13 input channels: noisy latents 4, mask 1 (1 = visible), masked latents 4, reference latents 4.

    All b c f h w. Where `noisy` has n times the clips (guidance), conditioning is repeated n times;
    a `mask` of one frame or one clip serves all.
    """
    mask = mask.expand(masked_latents.shape[0], -1, noisy.shape[2], -1, -1)
    given = torch.cat([mask, masked_latents, reference_latents], dim=1).to(noisy.dtype)
    copies, rest = divmod(noisy.shape[0], given.shape[0])
    assert rest == 0, f"{noisy.shape[0]} noisy clips, but conditioning for {given.shape[0]}"
    return torch.cat([noisy, given.repeat(copies, 1, 1, 1, 1) if copies > 1 else given], dim=1)


def conditioned(
    unet: Callable[[Tensor, int, Any], Tensor],
    mask: Tensor,
    masked_latents: Tensor,
    reference_latents: Tensor,
) -> AudioDenoiser:
    """Bind the conditioning channels of one window: what remains depends on noisy latents, step and audio.

    `unet` maps (13 channels b c f h w, step, audio) to noise; the latents are b 4 f h w, the mask b 1 f h w.
    """

    def denoise(latents: Tensor, timestep: int, audio: Any) -> Tensor:
        return unet(unet_input(latents, mask, masked_latents, reference_latents), timestep, audio)

    return denoise
