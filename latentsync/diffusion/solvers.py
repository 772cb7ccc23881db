"""Ways to walk from noise to latents in few evaluations of a denoiser; every call has its own state.

All have the form of `ddim_sample`: (denoise, latents b c f h w, timesteps, schedule, on_step) -> latents. DPM-Solver++ 2M
(Lu et al. 2022) and UniPC (Zhao et al. 2023) are diffusers' schedulers, set up from a `NoiseSchedule`; both remember earlier
predictions of the clean latents, so that a step follows the curve of the solution and not its tangent.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from latentsync.diffusion.noise import add_noise, one_step_x0, shared_noise
from latentsync.diffusion.schedule import NoiseSchedule

# DDIM sampling (Song et al. 2021) around any denoiser; every call has its own state.
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


# Consistency functions (Song et al. 2023) and their few-step sampling in latents (Luo et al. 2023, "LCM").
#
# A distilled network jumps from any step straight to the clean latents; in between, noise is added again.
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


SolverName = Literal["ddim", "dpm++", "unipc", "lcm"]
OnStep = Callable[[int, int], None]


class Solver(Protocol):
    """What all solvers are."""

    def __call__(
        self,
        denoise: Denoiser,
        latents: Tensor,
        timesteps: Sequence[int],
        schedule: NoiseSchedule,
        on_step: OnStep | None = None,
    ) -> Tensor: ...


def timesteps_of(solver: SolverName, steps: int, schedule: NoiseSchedule) -> list[int]:
    """The diffusion steps at which `solver` asks the denoiser, the noisiest first.

    DDIM's are the public model's; the others begin at the very last training step, where little but noise is left, so that
    even two of them begin at the right place.
    """
    return schedule.ddim_timesteps(steps) if solver == "ddim" else schedule.trailing_timesteps(steps)


def solver_of(name: SolverName, seed: int) -> Solver:
    """The solver called `name`; `seed` is that of the noise that `lcm` adds between its steps, the others add none."""
    return partial(lcm_sample, seed=seed) if name == "lcm" else SOLVERS[name]


@torch.no_grad()
def dpm_sample(
    denoise: Denoiser,
    latents: Tensor,
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++ 2M along `timesteps` (any that fall), then to the noise level of step 0."""
    from diffusers import DPMSolverMultistepScheduler  # takes half a second to import, which other solvers need not

    scheduler = DPMSolverMultistepScheduler(**_shared_settings(schedule), algorithm_type="dpmsolver++")
    scheduler.set_timesteps(timesteps=list(timesteps), device="cpu")
    return _sample(scheduler, denoise, latents, timesteps, on_step)


@torch.no_grad()
def unipc_sample(
    denoise: Denoiser,
    latents: Tensor,
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    on_step: OnStep | None = None,
) -> Tensor:
    """UniPC of second order along `NoiseSchedule.trailing_timesteps`, then to the noise level of step 0."""
    from diffusers import UniPCMultistepScheduler  # as above

    scheduler = UniPCMultistepScheduler(**_shared_settings(schedule), timestep_spacing="trailing")
    scheduler.set_timesteps(len(timesteps), device="cpu")
    assert scheduler.timesteps.tolist() == list(timesteps), "UniPC walks along trailing_timesteps"
    return _sample(scheduler, denoise, latents, timesteps, on_step)


def _shared_settings(schedule: NoiseSchedule) -> dict[str, Any]:
    return {
        "num_train_timesteps": schedule.num_train_timesteps,
        "trained_betas": schedule.betas.tolist(),
        "solver_order": 2,
        "prediction_type": "epsilon",
        "final_sigmas_type": "sigma_min",  # the noise level of step 0, where DDIM ends too
    }


def _sample(
    scheduler: Any, denoise: Denoiser, latents: Tensor, timesteps: Sequence[int], on_step: OnStep | None
) -> Tensor:
    for done, timestep in enumerate(timesteps, 1):
        noise = denoise(latents, timestep).to(latents.dtype)
        latents = scheduler.step(noise, timestep, latents).prev_sample
        if on_step is not None:
            on_step(done, len(timesteps))
    return latents


SOLVERS: dict[SolverName, Solver] = {"ddim": ddim_sample, "dpm++": dpm_sample, "unipc": unipc_sample, "lcm": lcm_sample}
