"""Noise: drawing it, adding it to latents, and the one-step estimate of x0. All tensors b c f h w, latents scaled."""

from typing import TYPE_CHECKING

from latentsync.diffusion.schedule import NoiseSchedule

if TYPE_CHECKING:
    import torch  # slow to import, and not needed to list the solvers
    from torch import Tensor


def draw(shape: tuple[int, ...], generator: "torch.Generator | None" = None) -> "Tensor":
    """Standard normal float32 numbers, drawn on the generator's device (the CPU without one)."""
    import torch

    return torch.randn(shape, generator=generator, device=generator.device if generator else "cpu")


def mix_noise(shared: "Tensor", individual: "Tensor", alpha: float) -> "Tensor":
    """Noise that is partly shared by the frames of a clip: unit variance from two unit-variance tensors b c f h w.

    Only the first frame of `shared` is used; the shared part holds alpha²/(1+alpha²) of the variance
    (Ge et al. 2023, "Preserve your own correlation").
    """
    total = 1 + alpha**2
    return shared[:, :, :1] * (alpha**2 / total) ** 0.5 + individual * (1 / total) ** 0.5


def mixed_noise(shape: tuple[int, ...], alpha: float, generator: "torch.Generator | None" = None) -> "Tensor":
    """Draw training noise of `shape` b c f h w, partly shared by the frames; the shared tensor is drawn first."""
    shared = draw(shape, generator)
    return mix_noise(shared, draw(shape, generator), alpha)


def shared_noise(shape: tuple[int, ...], generator: "torch.Generator | None" = None) -> "Tensor":
    """Draw one frame of noise and repeat it over the frames of `shape` b c f h w (a view: frames share memory).

    Only one frame is drawn, so with the same seed windows of different lengths start from the same noise.
    """
    clips, channels, frames, height, width = shape
    return draw((clips, channels, 1, height, width), generator).expand(-1, -1, frames, -1, -1)


def add_noise(latents: "Tensor", noise: "Tensor", timesteps: "Tensor | int", schedule: NoiseSchedule) -> "Tensor":
    """Latents at diffusion step t: sqrt(a_t) latents + sqrt(1 - a_t) noise; `timesteps`: one per clip or one for all."""
    signal, sigma = schedule.signal_and_noise(timesteps, latents)
    return signal * latents + sigma * noise


def one_step_x0(
    noisy: "Tensor", predicted_noise: "Tensor", timesteps: "Tensor | int", schedule: NoiseSchedule
) -> "Tensor":
    """Estimate of the clean latents x0 from one prediction: (x_t - sqrt(1 - a_t) eps) / sqrt(a_t), in the type of x_t."""
    signal, sigma = schedule.signal_and_noise(timesteps, noisy)
    return (noisy - sigma * predicted_noise.to(noisy.dtype)) / signal


def init_latents(
    noise: "Tensor", schedule: NoiseSchedule, first_timestep: int, reference_latents: "Tensor | None" = None
) -> "Tensor":
    """The start of sampling: pure noise, or `reference_latents` noised to the first step.

    The network was never trained on pure noise: even the last training step keeps 7 % of the signal's amplitude, mostly the mean
    colour, so the network interprets pure noise as a noisy grey picture. Starting from a reference avoids the resulting colour
    offset (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed").
    """
    return noise if reference_latents is None else add_noise(reference_latents, noise, first_timestep, schedule)
