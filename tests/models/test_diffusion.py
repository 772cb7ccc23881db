"""The diffusion room: formulas that invert each other, noise with the promised statistics, samplers without memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from latentsync.diffusion import solvers
from latentsync.diffusion.denoisers import conditioned, guided, unet_input
from latentsync.diffusion.noise import add_noise, init_latents, mixed_noise, one_step_x0, shared_noise
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.diffusion.solvers import (
    Denoiser,
    consistency,
    ddim_sample,
    ddim_steps,
    find_solver,
)
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.windows.latents import LatentSampler
from scripts.inference_arguments import parse

SCHEDULE = NoiseSchedule()

SHAPE = (2, 4, 3, 6, 5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_step_estimate_inverts_noising() -> None:
    latents, noise, steps = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([0, 999])
    noisy = add_noise(latents, noise, steps, SCHEDULE)
    torch.testing.assert_close(one_step_x0(noisy, noise, steps, SCHEDULE), latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 20, 999])
def test_sampling_steps_lie_in_the_schedule(steps: int) -> None:
    timesteps = SCHEDULE.ddim_timesteps(steps)
    assert len(timesteps) == steps
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert timesteps[-1] == SCHEDULE.steps_offset and timesteps[0] < SCHEDULE.num_train_timesteps


@pytest.mark.parametrize("steps", [0, -3, 1000, 5000])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} sampling steps"):
        SCHEDULE.ddim_timesteps(steps)


def test_a_perfect_denoiser_leads_to_the_clean_latents() -> None:
    clean = torch.randn(SHAPE)

    def perfect(latents: Tensor, timestep: int) -> Tensor:
        signal, sigma = SCHEDULE.signal_and_noise(timestep, latents)
        return (latents - signal * clean) / sigma

    steps_done: list[tuple[int, int]] = []
    timesteps = SCHEDULE.ddim_timesteps(5)
    start = init_latents(torch.randn(SHAPE), SCHEDULE, timesteps[0])
    runs = [ddim_sample(perfect, start, timesteps, SCHEDULE, lambda *done: steps_done.append(done)) for _ in range(2)]
    signal, sigma = SCHEDULE.signal_and_noise(0, clean)
    assert (runs[0] - signal * clean).abs().max() < 6 * sigma
    assert torch.equal(runs[0], runs[1])
    assert steps_done == [(done, 5) for done in range(1, 6)] * 2


def test_sampling_keeps_no_gradients() -> None:
    weight = torch.ones((), requires_grad=True)
    steps = ddim_steps(lambda latents, timestep: weight * latents, torch.randn(SHAPE), [501, 1], SCHEDULE)
    assert not any(latents.requires_grad for latents in steps)


def test_mixed_noise_has_unit_variance_and_the_shared_part() -> None:
    noise = mixed_noise((1, 4, 2, 128, 128), alpha=2.0, generator=generator())
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert (noise[:, :, 0] * noise[:, :, 1]).mean().item() == pytest.approx(0.8, abs=0.03)
    assert torch.equal(noise, mixed_noise((1, 4, 2, 128, 128), 2.0, generator()))


def test_windows_of_any_length_start_from_the_same_frame_of_noise() -> None:
    long, short = shared_noise(SHAPE, generator()), shared_noise((2, 4, 1, 6, 5), generator())
    assert torch.equal(long, short.expand_as(long))


def test_a_start_from_reference_latents_keeps_their_colour() -> None:
    reference = torch.full(SHAPE, 3.0)
    start = init_latents(torch.zeros(SHAPE), SCHEDULE, 951, reference)
    torch.testing.assert_close(start, SCHEDULE.alphas_cumprod[951].sqrt() * reference)


@dataclass(frozen=True)
class Loudness:
    """Audio of clips, one number each."""

    clips: Tensor

    def with_unconditional(self) -> "Loudness":
        return Loudness(torch.cat([torch.zeros_like(self.clips), self.clips]))


def test_guidance_scales_the_effect_of_the_audio() -> None:
    calls = []

    def denoise(latents: Tensor, timestep: int | Tensor, audio: Loudness) -> Tensor:
        assert isinstance(timestep, int) or len(timestep) == len(latents)
        calls.append(len(latents))
        return latents + audio.clips.reshape(-1, 1, 1, 1, 1)

    latents, audio = torch.randn(SHAPE), Loudness(torch.ones(2))
    torch.testing.assert_close(guided(denoise, audio, 1.0)(latents, 10), latents + 1)
    torch.testing.assert_close(guided(denoise, audio, 1.5)(latents, 10), latents + 1.5)
    torch.testing.assert_close(guided(denoise, audio, 2.0)(latents, torch.tensor([1, 2])), latents + 2)
    assert calls == [2, 4, 4]


def test_input_channels_are_packed_in_order_for_every_copy_of_the_clips() -> None:
    parts = [torch.full((2, channels, 3, 6, 5), value) for value, channels in ((1.0, 4), (2.0, 4), (3.0, 4))]
    mask = torch.full((1, 1, 1, 6, 5), 0.5)
    packed = unet_input(torch.cat([parts[0], parts[0]]), mask, parts[1], parts[2])
    assert packed.shape == (4, 13, 3, 6, 5)
    assert packed[3, :, 2, 0, 0].tolist() == [1.0] * 4 + [0.5] + [2.0] * 4 + [3.0] * 4
    denoise = conditioned(lambda sample, timestep, audio: sample * timestep, mask, parts[1], parts[2])
    assert torch.equal(denoise(parts[0], 2, None), 2 * unet_input(parts[0], mask, parts[1], parts[2]))


def gaussian(mean: Tensor, deviation: Tensor) -> tuple[Denoiser, Callable[[Tensor, int], Tensor]]:
    """The exact denoiser of Gaussian data, and the end of the sampling trajectory from (x_t, t) in closed form."""

    def denoise(latents: Tensor, timestep: int) -> Tensor:
        signal, sigma = SCHEDULE.signal_and_noise(timestep, latents)
        return sigma * (latents - signal * mean) / ((signal * deviation) ** 2 + sigma**2)

    def end(latents: Tensor, timestep: int) -> Tensor:
        (signal, sigma), (last, rest) = (SCHEDULE.signal_and_noise(t, latents) for t in (timestep, 0))
        spread = ((last * deviation) ** 2 + rest**2) / ((signal * deviation) ** 2 + sigma**2)
        return last * mean + (latents - signal * mean) * spread.sqrt()

    return denoise, end


def solver_errors(name: str, counts: Sequence[int]) -> list[float]:
    """Root mean square distance to the closed form, by the number of steps."""
    mean, start = 2 * torch.randn(SHAPE, generator=generator(1)), torch.randn(SHAPE, generator=generator(2))
    denoise, end = gaussian(mean, 0.05 + 0.8 * torch.rand(SHAPE, generator=generator(3)))
    errors = []
    for steps in counts:
        timesteps = find_solver(name).timesteps(SCHEDULE, steps)
        reached = find_solver(name).seeded(0)(denoise, start, timesteps, SCHEDULE)
        assert torch.equal(reached, find_solver(name).seeded(0)(denoise, start, timesteps, SCHEDULE)), (
            "no state is left behind"
        )
        assert torch.equal(
            reached[:1], find_solver(name).seeded(0)(partial_denoiser(denoise), start[:1], timesteps, SCHEDULE)
        )
        errors.append(float((reached - end(start, timesteps[0])).square().mean().sqrt()))
    return errors


def partial_denoiser(denoise: Denoiser) -> Denoiser:
    """The denoiser of the first clip alone."""
    return lambda latents, timestep: denoise(latents.expand(SHAPE), timestep)[:1]


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_solvers_reach_the_exact_solution_with_rising_steps_and_the_fast_ones_sooner(name: str) -> None:
    counts = (3, 5, 8, 20, 100)
    errors, slow = solver_errors(name, counts), solver_errors("ddim", counts)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.015
    assert name == "ddim" or all(mine < theirs for mine, theirs in zip(errors[:3], slow[:3], strict=True))


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_solvers_of_diffusers_give_what_its_schedulers_give(name: str, steps: int) -> None:
    solver = find_solver(name)
    timesteps = solver.timesteps(SCHEDULE, steps)
    shared = {
        "num_train_timesteps": 1000,
        "trained_betas": SCHEDULE.betas.tolist(),
        "solver_order": 2,
        "prediction_type": "epsilon",
        "final_sigmas_type": "sigma_min",
    }
    if name == "unipc":
        scheduler = UniPCMultistepScheduler(**shared, timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
    else:
        scheduler = DPMSolverMultistepScheduler(**shared, algorithm_type="dpmsolver++")
        scheduler.set_timesteps(timesteps=timesteps)

    def denoise(latents: Tensor, timestep: int) -> Tensor:
        return torch.tanh(latents.flip(1)) + 0.3 * latents * timestep / 1000

    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    wanted = start
    for timestep in timesteps:
        wanted = scheduler.step(denoise(wanted, timestep), timestep, wanted).prev_sample
    torch.testing.assert_close(solver.sample(denoise, start, timesteps, SCHEDULE), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dpm++", "unipc", "lcm"])
def test_solvers_begin_at_the_last_training_step(name: str) -> None:
    steps_done: list[tuple[int, int]] = []
    timesteps = find_solver(name).timesteps(SCHEDULE, 4)
    assert timesteps == [999, 749, 499, 249]
    find_solver(name).seeded(0)(
        lambda x, t: x, torch.randn(SHAPE), timesteps, SCHEDULE, lambda *done: steps_done.append(done)
    )
    assert steps_done == [(done, 4) for done in (1, 2, 3, 4)]
    with pytest.raises(ValueError, match="0 sampling steps"):
        find_solver(name).timesteps(SCHEDULE, 0)


def test_a_consistency_function_is_the_identity_at_step_0_and_one_step_x0_elsewhere() -> None:
    noisy, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    torch.testing.assert_close(consistency(noisy, noise, 0, SCHEDULE), noisy)
    jumped = one_step_x0(noisy, noise, 499, SCHEDULE)
    torch.testing.assert_close(consistency(noisy, noise, 499, SCHEDULE), jumped, rtol=1e-3, atol=1e-3)


def test_lcm_noise_depends_on_the_seed_alone() -> None:
    clean = torch.randn(SHAPE)

    def coarse(latents: Tensor, timestep: int) -> Tensor:  # leaves some of the noise, so that it can be seen
        signal, sigma = SCHEDULE.signal_and_noise(timestep, latents)
        return 0.9 * (latents - signal * clean) / sigma

    start, timesteps = torch.randn(SHAPE), find_solver("lcm").timesteps(SCHEDULE, 2)
    runs = [find_solver("lcm").seeded(seed)(coarse, start, timesteps, SCHEDULE) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_outside_the_guidance_interval_only_the_conditional_branch_is_computed() -> None:
    evaluated: list[tuple[int, int]] = []

    def denoise(latents: Tensor, timestep: int, audio: Loudness) -> Tensor:
        evaluated.append((timestep, len(latents)))
        return latents

    latents, audio = torch.randn(SHAPE), Loudness(torch.ones(2))
    denoiser = guided(denoise, audio, 1.5, lambda timestep: SCHEDULE.progress(timestep) < 0.5)
    for timestep in (999, 501, 499, 0):
        denoiser(latents, timestep)
    assert evaluated == [(999, 4), (501, 4), (499, 2), (0, 2)]


def test_a_solver_is_added_by_one_entry_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, their check, the command line and sampling take the new name from `SOLVERS`."""
    with pytest.raises(ValueError, match=r"solver is 'still': choose ddim or dpm\+\+ or unipc or lcm\."):
        InferenceSettings(solver="still")

    def still_sample(denoise: Denoiser, latents: Tensor, *others: object) -> Tensor:
        return latents

    monkeypatch.setattr(solvers, "SOLVERS", [*solvers.SOLVERS, solvers.Solver("still", still_sample)])
    monkeypatch.setattr("scripts.inference_arguments.SOLVERS", solvers.SOLVERS)
    arguments = parse(["--video_path", "v.mp4", "--audio_path", "a.wav", "--solver", "still"], None)
    settings = InferenceSettings().changed({"solver": arguments.solver, "steps": 2})
    sampler = LatentSampler(settings, 2, 64, torch.device("cpu"))
    assert sampler.timesteps == SCHEDULE.trailing_timesteps(2)
    assert torch.equal(sampler.solve(lambda x, t: x, sampler.noise, sampler.timesteps, SCHEDULE), sampler.noise)
