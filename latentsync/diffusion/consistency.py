"""Consistency functions (Song et al. 2023) and their few-step sampling in latents (Luo et al. 2023, "LCM").

A distilled network jumps from any step straight to the clean latents; in between, noise is added again.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentsync.diffusion.noise import add_noise, one_step_x0, shared_noise
from latentsync.diffusion.sampler import Denoiser
from latentsync.diffusion.schedule import NoiseSchedule

TIME_SCALE, DATA_DEVIATION = 10.0, 0.5  # of the boundary condition, as in Luo et al.


def boundary(timesteps: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out, one per clip of `like` (b ...) or one for all: at step 0 the function is the identity."""
    time = TIME_SCALE * torch.as_tensor(timesteps, dtype=torch.float32).reshape(-1, *[1] * (like.ndim - 1)).to(
        like.device
    )
    total = time**2 + DATA_DEVIATION**2
    return (DATA_DEVIATION**2 / total).to(like.dtype), (time / total.sqrt()).to(like.dtype)


def consistency(noisy: Tensor, predicted_noise: Tensor, timesteps: Tensor | int, schedule: NoiseSchedule) -> Tensor:
    """The clean latents to which a distilled network's prediction leads: c_skip x_t + c_out x_0(x_t, eps)."""
    skip, out = boundary(timesteps, noisy)
    return skip * noisy + out * one_step_x0(noisy, predicted_noise, timesteps, schedule)


@torch.no_grad()
def lcm_sample(
    denoise: Denoiser,
    latents: Tensor,
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    on_step: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> Tensor:
    """Sample with a distilled denoiser along `timesteps`, ending in clean latents.

    The noise between the steps follows from `seed` alone and is one frame's, repeated: every call adds the same, so windows
    of one video meet without a seam, however many of them are sampled together.
    """
    generator = torch.Generator().manual_seed(seed)
    for done, timestep in enumerate(timesteps, 1):
        latents = consistency(latents, denoise(latents, timestep).to(latents.dtype), timestep, schedule)
        if done < len(timesteps):
            noise = shared_noise((1, *latents.shape[1:]), generator).to(latents)
            latents = add_noise(latents, noise, timesteps[done], schedule)
        if on_step is not None:
            on_step(done, len(timesteps))
    return latents
