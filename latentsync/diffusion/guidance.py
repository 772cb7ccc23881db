"""Classifier-free guidance (Ho & Salimans 2022): exaggerate what the audio changes in the prediction."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentsync.diffusion.conditioning import AudioDenoiser
from latentsync.diffusion.sampler import Denoiser


def guided(
    denoise: AudioDenoiser, audio: Any, guidance_scale: float, is_guided: Callable[[int], bool] = lambda timestep: True
) -> Denoiser:
    """Bind the audio: a denoiser (x_t, t) -> noise, u + scale (c - u).

    `audio` is (b f) s d or b f s d, or what a network made ready of it, which tells itself what `with_silence` means. The
    unconditional prediction u hears zeros. It is computed together with the conditional one, as the first half of a
    doubled batch; a scale of 1 or less asks for the conditional prediction alone, at half the cost. So does every step for
    which `is_guided` says no (Kynkäänniemi et al. 2024, "Applying guidance in a limited interval").
    """
    if guidance_scale <= 1:
        return lambda latents, timestep: denoise(latents, timestep, audio)
    is_tensor = isinstance(audio, Tensor)
    both_audio = torch.cat([torch.zeros_like(audio), audio]) if is_tensor else audio.with_silence()

    def denoise_guided(latents: Tensor, timestep: int) -> Tensor:
        if not is_guided(timestep):
            return denoise(latents, timestep, audio)
        without, with_audio = denoise(torch.cat([latents, latents]), timestep, both_audio).chunk(2)
        return without + guidance_scale * (with_audio - without)

    return denoise_guided
