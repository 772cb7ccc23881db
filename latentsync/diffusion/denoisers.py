"""The U-Net's input channels, and the U-Net as a denoiser of the noisy ones alone.

Legend: b clips, c channels, f frames, h w latent height and width, s audio tokens, d width of an audio token.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentsync.diffusion.solvers import Denoiser

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


# Classifier-free guidance (Ho & Salimans 2022): exaggerate what the audio changes in the prediction.
def guided(
    denoise: AudioDenoiser, audio: Any, guidance_scale: float, is_guided: Callable[[int], bool] = lambda timestep: True
) -> Denoiser:
    """Bind the audio: a denoiser (x_t, t) -> noise, u + scale (c - u).

    `audio` is (b f) s d or b f s d, or what a network made ready of it, which tells itself what `with_unconditional` means. The
    unconditional prediction u hears zeros. It is computed together with the conditional one, as the first half of a
    doubled batch; a scale of 1 or less asks for the conditional prediction alone, at half the cost. So does every step for
    which `is_guided` says no (Kynkäänniemi et al. 2024, "Applying guidance in a limited interval").
    """
    if guidance_scale <= 1:
        return lambda latents, timestep: denoise(latents, timestep, audio)
    is_tensor = isinstance(audio, Tensor)
    both_audio = torch.cat([torch.zeros_like(audio), audio]) if is_tensor else audio.with_unconditional()

    def denoise_guided(latents: Tensor, timestep: int) -> Tensor:
        if not is_guided(timestep):
            return denoise(latents, timestep, audio)
        without, with_audio = denoise(torch.cat([latents, latents]), timestep, both_audio).chunk(2)
        return without + guidance_scale * (with_audio - without)

    return denoise_guided
