"""Ways to walk from noise to latents in few evaluations of a denoiser; every call has its own state.

All have the form of `ddim_sample`: (denoise, latents b c f h w, timesteps, schedule, on_step) -> latents. DPM-Solver++ 2M
(Lu et al. 2022) and UniPC (Zhao et al. 2023) are diffusers' schedulers, set up from a `NoiseSchedule`; both remember earlier
predictions of the clean latents, so that a step follows the curve of the solution and not its tangent.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from latentsync.diffusion.consistency import lcm_sample
from latentsync.diffusion.sampler import Denoiser, ddim_sample
from latentsync.diffusion.schedule import NoiseSchedule

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
