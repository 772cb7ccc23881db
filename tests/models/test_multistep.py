"""The factors of the multistep solvers are those of diffusers' schedulers, to the bit."""

from collections.abc import Sequence

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from latentsync.diffusion.multistep import Factors, dpm_factors, unipc_factors
from latentsync.diffusion.schedule import NoiseSchedule

SCHEDULES = [NoiseSchedule(), NoiseSchedule(num_train_timesteps=400, beta_start=0.001, beta_end=0.02)]
STEPS = [1, 2, 3, 4, 5, 8, 14, 15, 16, 20, 50]


def settings(schedule: NoiseSchedule) -> dict:
    return {
        "num_train_timesteps": schedule.num_train_timesteps,
        "trained_betas": schedule.betas.tolist(),
        "solver_order": 2,
        "prediction_type": "epsilon",
        "final_sigmas_type": "sigma_min",  # the noise level of step 0, as for DDIM
    }


def library_factors(scheduler: SchedulerMixin, timesteps: Sequence[int]) -> Factors:
    """The factors after each step of a scheduler that runs on unit vectors."""
    basis = torch.eye(1 + len(timesteps), dtype=torch.float64)[:, None]
    latents, found = basis[0], []
    for done, timestep in enumerate(timesteps, 1):
        latents = scheduler.step(basis[done], timestep, latents).prev_sample
        found.append(latents[0, : done + 1].tolist())
    return found


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["public", "other"])
@pytest.mark.parametrize("steps", STEPS)
def test_dpm_solver_is_diffusers(schedule: NoiseSchedule, steps: int) -> None:
    for timesteps in (schedule.trailing_timesteps(steps), schedule.ddim_timesteps(steps)):
        scheduler = DPMSolverMultistepScheduler(**settings(schedule), algorithm_type="dpmsolver++")
        scheduler.set_timesteps(timesteps=timesteps, device="cpu")
        assert dpm_factors(timesteps, schedule) == library_factors(scheduler, timesteps)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["public", "other"])
@pytest.mark.parametrize("steps", STEPS)
def test_unipc_is_diffusers(schedule: NoiseSchedule, steps: int) -> None:
    timesteps = schedule.trailing_timesteps(steps)
    scheduler = UniPCMultistepScheduler(**settings(schedule), timestep_spacing="trailing")
    scheduler.set_timesteps(steps, device="cpu")
    assert scheduler.timesteps.tolist() == timesteps
    assert unipc_factors(timesteps, schedule) == library_factors(scheduler, timesteps)
