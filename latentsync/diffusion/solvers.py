"""Solvers: from noise to latents in few evaluations of a denoiser. Each is an entry of `SOLVERS`; a new one is added there.

DPM-Solver++ 2M (Lu et al. 2022) and UniPC (Zhao et al. 2023) are multistep methods: they use earlier predictions (see
`multistep.py`). No state is kept between calls. No step copies anything to or from the device. PyTorch is imported in the
functions, so that settings and the command line know the names at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

from latentsync.diffusion.noise import add_noise, one_step_x0, shared_noise
from latentsync.diffusion.schedule import NoiseSchedule

if TYPE_CHECKING:
    from torch import Tensor  # slow to import, and not needed to list the solvers

Denoiser = Callable[["Tensor", int], "Tensor"]  # (x_t b c f h w, t) -> predicted noise
OnStep = Callable[[int, int], None]  # (finished steps, all steps); may raise to stop sampling


class Sample(Protocol):
    """A sampling loop: from initial `latents` b c f h w along `timesteps`, the noisiest first, to clean latents.

    Float32 latents are advised. No gradients are kept.
    """

    def __call__(
        self,
        denoise: Denoiser,
        latents: "Tensor",
        timesteps: Sequence[int],
        schedule: NoiseSchedule,
        on_step: OnStep | None = None,
    ) -> "Tensor": ...


# DDIM (Song et al. 2021), deterministic (eta 0).
def ddim_step(
    latents: "Tensor", noise: "Tensor", timestep: "Tensor | int", next_timestep: "Tensor | int", schedule: NoiseSchedule
) -> "Tensor":
    """One step from x_t with predicted `noise` to the noise level of `next_timestep`; timesteps one per clip or one for all."""
    return add_noise(one_step_x0(latents, noise, timestep, schedule), noise, next_timestep, schedule)


def ddim_steps(
    denoise: Denoiser, latents: "Tensor", timesteps: Sequence[int], schedule: NoiseSchedule
) -> Iterator["Tensor"]:
    """Yield the latents after each of the `timesteps`; the last step leads to the noise level of step 0."""
    from torch import no_grad

    for timestep, next_timestep in zip(timesteps, [*timesteps[1:], 0], strict=True):
        with no_grad():
            noise = denoise(latents, timestep).to(latents.dtype)
            latents = ddim_step(latents, noise, timestep, next_timestep, schedule)
        yield latents


def ddim_sample(
    denoise: Denoiser,
    latents: "Tensor",
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    on_step: OnStep | None = None,
) -> "Tensor":
    """DDIM along `timesteps`, then to the noise level of step 0."""
    steps = ddim_steps(denoise, latents, timesteps, schedule)
    for done in range(1, len(timesteps) + 1):
        latents = next(steps)
        if on_step is not None:
            on_step(done, len(timesteps))
    return latents


# Consistency functions (Song et al. 2023) and their few-step sampling in latents (Luo et al. 2023, "LCM").
#
# A distilled network predicts the clean latents from any step directly; noise is added again before the next step.
TIME_SCALE, DATA_DEVIATION = 10.0, 0.5  # of the boundary condition, as in Luo et al.


def boundary(timesteps: "Tensor | int", like: "Tensor") -> "tuple[Tensor | float, Tensor | float]":
    """c_skip and c_out, one per clip of `like` (b ...) or numbers for all: at step 0 the function is the identity."""
    import torch

    time = TIME_SCALE * torch.as_tensor(timesteps, dtype=torch.float32)
    total = time**2 + DATA_DEVIATION**2
    skip, out = DATA_DEVIATION**2 / total, time / total.sqrt()
    if isinstance(timesteps, int):
        return float(skip), float(out)
    skip, out = (each.reshape(-1, *[1] * (like.ndim - 1)).to(like) for each in (skip, out))
    return skip, out


def consistency(
    noisy: "Tensor", predicted_noise: "Tensor", timesteps: "Tensor | int", schedule: NoiseSchedule
) -> "Tensor":
    """The clean latents that a distilled network predicts: c_skip x_t + c_out x_0(x_t, eps)."""
    skip, out = boundary(timesteps, noisy)
    return skip * noisy + out * one_step_x0(noisy, predicted_noise, timesteps, schedule)


def lcm_sample(
    denoise: Denoiser,
    latents: "Tensor",
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    on_step: OnStep | None = None,
    seed: int = 0,
) -> "Tensor":
    """Sample with a distilled denoiser along `timesteps`.

    The noise added between the steps is drawn from `seed` for one frame of one clip and repeated. So it is the same in
    every call, and consecutive windows of a video have no seam, however many are sampled together.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    one_frame = (1, latents.shape[1], 1, *latents.shape[3:])
    noises = [shared_noise(one_frame, generator).to(latents) for _ in timesteps[1:]]
    for done, timestep in enumerate(timesteps, 1):
        with torch.no_grad():
            latents = consistency(latents, denoise(latents, timestep).to(latents.dtype), timestep, schedule)
        if done < len(timesteps):
            latents = add_noise(latents, noises[done - 1], timesteps[done], schedule)
        if on_step is not None:
            on_step(done, len(timesteps))
    return latents


# Solvers whose results are linear in the initial latents and in the predicted noise of the steps, with factors that depend on the
# schedule alone, so they are computed beforehand. Sampling itself needs nothing from the CPU, and a GPU is never waited for.
def linear_sample(
    factors: Callable[[tuple[int, ...], NoiseSchedule], list[list[float]]],
    denoise: Denoiser,
    latents: "Tensor",
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    on_step: OnStep | None = None,
) -> "Tensor":
    """Sample along `timesteps`, then to the noise level of step 0, with the factors of a solver."""
    import torch

    parts = [latents]
    for done, row in enumerate(factors(tuple(timesteps), schedule), 1):
        with torch.no_grad():
            parts.append(denoise(latents, timesteps[done - 1]).to(latents.dtype))
        latents = parts[0] * row[0]
        for part, factor in zip(parts[1:], row[1:], strict=True):
            latents = torch.add(latents, part, alpha=factor)
        if on_step is not None:
            on_step(done, len(timesteps))
    return latents


@lru_cache(maxsize=8)
def _dpm_factors(timesteps: tuple[int, ...], schedule: NoiseSchedule) -> list[list[float]]:
    """Of DPM-Solver++ 2M."""
    from latentsync.diffusion.multistep import dpm_factors  # imports PyTorch

    return dpm_factors(timesteps, schedule)


@lru_cache(maxsize=8)
def _unipc_factors(timesteps: tuple[int, ...], schedule: NoiseSchedule) -> list[list[float]]:
    """Of UniPC of second order."""
    from latentsync.diffusion.multistep import unipc_factors  # as above

    return unipc_factors(timesteps, schedule)


@dataclass(frozen=True)
class Solver:
    """A solver and its name in settings and on the command line, whose choices come from `SOLVERS`.

    `timesteps(schedule, steps)` are the diffusion steps at which the denoiser is evaluated. `is_stochastic`: noise is added
    between the steps. `needs_distilled`: for consistency-distilled weights only.
    """

    name: str
    sample: Callable[..., "Tensor"]  # a `Sample`, with the argument `seed` where it is stochastic
    timesteps: Callable[[NoiseSchedule, int], list[int]] = NoiseSchedule.trailing_timesteps
    is_stochastic: bool = False
    needs_distilled: bool = False

    def seeded(self, seed: int) -> Sample:
        """The sampling loop with its noise drawn from `seed`, if it adds any."""
        return partial(self.sample, seed=seed) if self.is_stochastic else self.sample


SOLVERS = [
    Solver("ddim", ddim_sample, NoiseSchedule.ddim_timesteps),  # the public model's solver and steps
    Solver("dpm++", partial(linear_sample, _dpm_factors)),
    Solver("unipc", partial(linear_sample, _unipc_factors)),
    Solver("lcm", lcm_sample, is_stochastic=True, needs_distilled=True),
]


def find_solver(name: str) -> Solver:
    """The entry of `SOLVERS` with this name; ValueError without one."""
    for solver in SOLVERS:
        if solver.name == name:
            return solver
    raise ValueError(f"solver is {name!r}: choose {' or '.join(solver.name for solver in SOLVERS)}.")
