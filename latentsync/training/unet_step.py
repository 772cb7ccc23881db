"""Stage 1 of the U-Net's training, in latent space: predict the noise in a clip from masked frames, a reference and audio."""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentsync.data.latents import ClipLatents, latent_batch
from latentsync.diffusion.conditioning import unet_input
from latentsync.diffusion.noise import add_noise, mixed_noise
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.models.unet import UNet3DConditionModel
from latentsync.training.loop import Losses, batch_generator


@dataclass(frozen=True)
class UNetObjective:
    """Choices of the noise objective; `snr_power` 0 with `visible_weight` 1 is the plain mean squared error.

    The error at a timestep is weighted by snr^-snr_power, at most `snr_limit`: the shape of the mouth is decided while the
    noise is strong, where the plain error of the noise hardly sees it. `visible_weight` is the weight of latent cells that
    the mask leaves visible. `audio_dropout` is the share of clips shown with silent (zero) audio, for guidance.
    """

    mixed_noise_alpha: float = 1.0
    audio_dropout: float = 0.0
    snr_power: float = 0.0
    snr_limit: float = 5.0
    visible_weight: float = 1.0


class UNetStep:
    """A step function: draws clips from (seed, step), returns `recon`, the error of the predicted noise."""

    def __init__(
        self,
        unet: UNet3DConditionModel,
        clips: list[ClipLatents],
        mask: Tensor,
        objective: UNetObjective,
        batch_size: int,
        num_frames: int,
        seed: int,
    ):
        """`mask` [h, w] at the latents' size, 1 = visible."""
        self.unet, self.clips, self.mask, self.objective = unet, clips, mask, objective
        self.batch_size, self.num_frames, self.seed = batch_size, num_frames, seed
        self.schedule = NoiseSchedule()

    def __call__(self, step: int) -> Losses:
        generator = batch_generator(self.seed, step)
        batch = latent_batch(self.clips, self.batch_size, self.num_frames, generator)
        noise = mixed_noise(batch.latents.shape, self.objective.mixed_noise_alpha, generator)
        timesteps = torch.randint(self.schedule.num_train_timesteps, (self.batch_size,), generator=generator)
        noisy = add_noise(batch.latents, noise, timesteps, self.schedule)
        heard = torch.rand(self.batch_size, generator=generator) >= self.objective.audio_dropout
        mask = self.mask.expand(self.batch_size, 1, self.num_frames, -1, -1)
        sample = unet_input(noisy, mask, batch.masked_latents, batch.reference_latents)
        predicted = self.unet(sample, timesteps, batch.audio * heard[:, None, None, None])
        return {"recon": self._error(predicted, noise, timesteps)}

    def _error(self, predicted: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        squared = (predicted.float() - noise) ** 2
        cells = 1 - (1 - self.objective.visible_weight) * self.mask
        return (squared * cells * self._snr_weight(timesteps)[:, None, None, None, None]).mean()

    def _snr_weight(self, timesteps: Tensor) -> Tensor:
        alphas = self.schedule.alphas_cumprod[timesteps]
        return ((1 - alphas) / alphas).pow(self.objective.snr_power).clamp(max=self.objective.snr_limit)
