"""Noise schedule: amplitude of signal and noise at each diffusion step (scaled-linear, Rombach et al. 2022); sampling steps."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor  # slow to import, and not needed to list the solvers


@dataclass(frozen=True)
class NoiseSchedule:
    """Scaled-linear: sqrt(beta) grows linearly from sqrt(`beta_start`) to sqrt(`beta_end`) over `num_train_timesteps` steps.

    `steps_offset` is added to every sampling step. The defaults are the public model's.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps_offset: int = 1

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 1 or not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError("The noise schedule needs at least one step and 0 < beta_start <= beta_end < 1.")

    @cached_property
    def alphas_cumprod(self) -> "Tensor":
        """Fraction of the signal's variance that remains after each step: `num_train_timesteps` float32 values on the CPU."""
        import torch

        return torch.cumprod(1.0 - self.betas, dim=0)

    @property
    def betas(self) -> "Tensor":
        """Variance that each step adds: `num_train_timesteps` float32 values on the CPU."""
        import torch

        roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps, device="cpu")
        return roots**2

    def signal_and_noise(self, timesteps: "Tensor | int", like: "Tensor") -> "tuple[Tensor | float, Tensor | float]":
        """Factors sqrt(a_t) and sqrt(1 - a_t): one per clip of `like` (b ...), shaped to multiply it, or numbers for all.

        Numbers need no copy to the device of `like`.
        """
        if isinstance(timesteps, int):
            one = self.alphas_cumprod[timesteps]
            return float(one.sqrt()), float((1 - one).sqrt())
        import torch

        alpha = self.alphas_cumprod[torch.as_tensor(timesteps, device="cpu")]
        alpha = alpha.reshape(-1, *[1] * (like.ndim - 1)).to(like.device)
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)

    def ddim_timesteps(self, steps: int) -> list[int]:
        """Steps for sampling in `steps` evaluations, evenly spaced, the noisiest first.

        Raises ValueError if they do not fit into the schedule.
        """
        stride = self.num_train_timesteps // steps if steps > 0 else 0
        timesteps = [index * stride + self.steps_offset for index in reversed(range(steps))]
        if not stride or timesteps[0] >= self.num_train_timesteps:
            raise ValueError(
                f"{steps} sampling steps do not fit into {self.num_train_timesteps} training steps"
                f" with offset {self.steps_offset}: use at least 1 and fewer than {self.num_train_timesteps}."
            )
        return timesteps

    def trailing_timesteps(self, steps: int) -> list[int]:
        """Steps for sampling in `steps` evaluations, evenly spaced, from the last training step on (Lin et al. 2024).

        Raises ValueError if they do not fit into the schedule.
        """
        total = self.num_train_timesteps
        if not 0 < steps <= total:
            raise ValueError(f"{steps} sampling steps do not fit into {total} training steps: use 1 to {total}.")
        return [round(total - index * (total / steps)) - 1 for index in range(steps)]

    def progress(self, timestep: int) -> float:
        """Progress of sampling at a step: 0 at pure noise, near 1 at the clean latents."""
        return 1 - (timestep + 1) / self.num_train_timesteps
