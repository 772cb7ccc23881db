"""DPM-Solver++ 2M (Lu et al. 2022) and UniPC of second order (Zhao et al. 2023) as factors.

Their results are linear in the initial latents and in the noise predicted in each step, with factors that depend on the schedule
alone. A run of the method on the unit vectors of these quantities gives the factors. The formulas are those of diffusers'
schedulers, operation for operation, so the factors are theirs to the bit (`tests/models/test_multistep.py`); importing the
schedulers takes longer than sampling a second of video.

Legend: x_t latents; m data predictions x_0(x_t, eps); lambda is half the logarithm of the signal-to-noise ratio.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsync.diffusion.schedule import NoiseSchedule

FIRST_ORDER_AT_THE_END = 15  # DPM-Solver++ ends with a step of first order below so many steps
Factors = list[list[float]]


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level: factors of signal and noise, and lambda; float32 numbers."""

    alpha: Tensor
    sigma: Tensor

    @property
    def log_ratio(self) -> Tensor:
        return torch.log(self.alpha) - torch.log(self.sigma)

    def x0(self, latents: Tensor, noise: Tensor) -> Tensor:
        """The data prediction."""
        return (latents - self.sigma * noise) / self.alpha


def noise_levels(timesteps: Sequence[int], schedule: NoiseSchedule) -> list[NoiseLevel]:
    """The levels of the timesteps, and that of step 0, where sampling ends."""
    ratios = (((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod) ** 0.5).numpy()
    levels = []
    for ratio in torch.from_numpy(ratios[[*timesteps, 0]]):
        alpha = 1 / ((ratio**2 + 1) ** 0.5)
        levels.append(NoiseLevel(alpha, ratio * alpha))
    return levels


def unit_vectors(count: int) -> list[Tensor]:
    """The initial latents and the noise of each step, as vectors of factors: float64 [1 + count] each."""
    return list(torch.eye(1 + count, dtype=torch.float64))


@torch.no_grad()
def dpm_factors(timesteps: Sequence[int], schedule: NoiseSchedule) -> Factors:
    """Of DPM-Solver++ 2M: after each step, the factors of the initial latents and of the noise of this step and those before."""
    levels, count = noise_levels(timesteps, schedule), len(timesteps)
    latents, *noises = unit_vectors(count)
    factors, before = [], latents
    for step, noise in enumerate(noises):
        now, after = levels[step], levels[step + 1]
        data = now.x0(latents, noise)
        h = after.log_ratio - now.log_ratio
        gain = after.alpha * (torch.exp(-h) - 1.0)
        moved = (after.sigma / now.sigma) * latents.float() - gain * data
        if step and not (step == count - 1 and count < FIRST_ORDER_AT_THE_END):
            ratio = (now.log_ratio - levels[step - 1].log_ratio) / h
            moved = moved - 0.5 * gain * ((1.0 / ratio) * (data - before))
        latents, before = moved, data
        factors.append(latents[: step + 2].tolist())
    return factors


@torch.no_grad()
def unipc_factors(timesteps: Sequence[int], schedule: NoiseSchedule) -> Factors:
    """Of UniPC with B(h) = e^h - 1: as `dpm_factors`."""
    levels, count = noise_levels(timesteps, schedule), len(timesteps)
    latents, *noises = unit_vectors(count)
    factors, data, start = [], [latents, latents], latents  # the two newest data predictions; where the last step began
    order = 1
    for step, noise in enumerate(noises):
        new = levels[step].x0(latents, noise)
        if step:
            latents = corrected(levels[: step + 1], start, data, new, order)
        data, start = [data[-1], new], latents
        order = min(2, count - step, step + 1)
        latents = predicted(levels[: step + 2], start, data, order)
        factors.append(latents[: step + 2].tolist())
    return factors


def predicted(levels: Sequence[NoiseLevel], latents: Tensor, data: Sequence[Tensor], order: int) -> Tensor:
    """One step of the predictor, from the last level but one to the last."""
    after, exponentials = levels[-1], Exponentials.between(levels[-2], levels[-1])
    moved = exponentials.first_order(levels, latents, data[-1])
    if order == 1:
        return moved
    return moved - after.alpha * exponentials.b * (0.5 * ((data[-2] - data[-1]) / exponentials.ratio(levels)))


def corrected(levels: Sequence[NoiseLevel], latents: Tensor, data: Sequence[Tensor], new: Tensor, order: int) -> Tensor:
    """The last step again, from the `latents` where it began, with the `new` data prediction at its end."""
    after, exponentials = levels[-1], Exponentials.between(levels[-2], levels[-1])
    moved = exponentials.first_order(levels, latents, data[-1])
    change = new - data[-1]
    if order == 1:
        return moved - after.alpha * exponentials.b * (0.5 * change)
    ratio = exponentials.ratio(levels)
    ratios = torch.stack([ratio, torch.ones(())])
    system = torch.stack([torch.pow(ratios, 0), ratios])
    weights = torch.linalg.solve(system, torch.stack(exponentials.targets)).double()
    past = weights[0] * ((data[-2] - data[-1]) / ratio)
    return moved - after.alpha * exponentials.b * (past + weights[1] * change)


@dataclass(frozen=True)
class Exponentials:
    """Exponential integrals of one step of length `h` in lambda: float32 numbers."""

    h: Tensor
    b: Tensor  # e^-h - 1
    targets: tuple[Tensor, Tensor]  # right-hand sides of the conditions of first and second order

    @classmethod
    def between(cls, now: NoiseLevel, after: NoiseLevel) -> "Exponentials":
        h = after.log_ratio - now.log_ratio
        b = torch.expm1(-h)
        first = b / -h - 1
        second = first / -h - 1 / 2
        return cls(h, b, (first * 1 / b, second * 2 / b))

    def first_order(self, levels: Sequence[NoiseLevel], latents: Tensor, data: Tensor) -> Tensor:
        """The step of first order, which equals DDIM."""
        now, after = levels[-2:]
        return after.sigma / now.sigma * latents - after.alpha * self.b * data

    def ratio(self, levels: Sequence[NoiseLevel]) -> Tensor:
        """Length of the step before, backwards, over this one's."""
        before, now, _ = levels[-3:]
        return (before.log_ratio - now.log_ratio) / self.h
