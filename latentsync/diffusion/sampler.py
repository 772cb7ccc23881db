"""DDIM sampling (Song et al. 2021) around any denoiser; every call has its own state."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from latentsync.diffusion.noise import add_noise, one_step_x0
from latentsync.diffusion.schedule import NoiseSchedule

Denoiser = Callable[[Tensor, int], Tensor]  # (x_t, t) -> predicted noise


@torch.no_grad()
def ddim_steps(
    denoise: Denoiser, latents: Tensor, timesteps: Sequence[int], schedule: NoiseSchedule
) -> Iterator[Tensor]:
    """Yield the latents after each of the `timesteps` (noisiest first), deterministically (eta 0).

    A step leads to the next one's noise level, the last one to that of step 0. No gradients are kept.
    """
    for timestep, next_timestep in zip(timesteps, [*timesteps[1:], 0], strict=True):
        noise = denoise(latents, timestep).to(latents.dtype)
        clean = one_step_x0(latents, noise, timestep, schedule)
        latents = add_noise(clean, noise, next_timestep, schedule)
        yield latents


def ddim_sample(
    denoise: Denoiser,
    latents: Tensor,
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sample from initial `latents` along `timesteps` (see `NoiseSchedule.ddim_timesteps`); float32 latents advised.

    `on_step(done, total)` is told of every finished step, and may raise to stop.
    """
    steps = ddim_steps(denoise, latents, timesteps, schedule)
    for done in range(1, len(timesteps) + 1):
        latents = next(steps)
        if on_step is not None:
            on_step(done, len(timesteps))
    return latents
