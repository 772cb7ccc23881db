"""Distilling a U-Net into one that samples in few steps without guidance: latent consistency (Luo et al. 2023, Song et al. 2023).

Two neighbouring points of one sampling trajectory must lead to the same clean latents. The teacher, with guidance, goes from the
noisier point to the other by one DDIM step of `skip` diffusion steps. The student's prediction from the first point is trained
towards that of its moving average from the second. At step 0 the prediction is the identity, which ties all others to the data.

Legend: b clips, c channels, f frames, h w latent height and width.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentsync.config import DistillConfig
from latentsync.data.unet_clips import ClipBatch
from latentsync.device import full_precision
from latentsync.diffusion.denoisers import conditioned, guided
from latentsync.diffusion.noise import add_noise, mixed_noise
from latentsync.diffusion.solvers import consistency, ddim_step
from latentsync.models.attention import AudioKV
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.training.engine.frozen import Frozen
from latentsync.training.engine.loop import Losses, item_generator
from latentsync.training.unet.step import Drawn, UNetStep

HUBER_WIDTH = 0.001  # errors below it count by their square, as in Luo et al.


class DistillStep(UNetStep):
    """`consistency`, the distance of neighbouring points' predictions, and any pixel losses of the student's prediction."""

    def __init__(
        self, unet: UNet3DConditionModel, teacher: Frozen[UNet3DConditionModel], plan: DistillConfig, **others: Any
    ):
        """`unet` is the student; `others` are `UNetStep`'s arguments. The moving average is part of the state."""
        super().__init__(unet, **others)
        self.teacher, self.plan = teacher, plan
        self.target = copy.deepcopy(unet).requires_grad_(False)

    def forward(self, batch: ClipBatch, positions: Tensor) -> Losses:
        """Unweighted losses of a batch, whose items have the numbers `positions`; in training the average is updated first."""
        if self.training:
            self._update_average()
        generators = [item_generator(self.seed, position) for position in positions.tolist()]
        batch = batch if batch.latents is not None else self._encoded(batch, generators)
        latents = batch.latents
        assert latents is not None
        drawn = self.draw(latents, generators)
        noisy = add_noise(latents, drawn.noise, drawn.timesteps, self.schedule)
        with torch.no_grad():
            target = self._target(noisy, drawn.timesteps, batch)
        predicted = self._denoiser(self.unet, batch)(noisy, drawn.timesteps)
        with full_precision(latents.device):
            clean = consistency(noisy, predicted, drawn.timesteps, self.schedule)
            losses = {"consistency": self.distance(clean, target)}
            if self.pixel_losses is not None:
                losses |= self.pixel_losses(clean, batch)
        return losses

    def draw(self, latents: Tensor, generators: list[torch.Generator]) -> Drawn:
        """Noise and timesteps, a multiple of `skip` before the last training step; every clip has its audio."""
        shape, skip = (1, *latents.shape[1:]), self.plan.skip
        points = self.schedule.num_train_timesteps // skip
        noise, timesteps = [], []
        for generator in generators:
            noise.append(mixed_noise(shape, self.objective.mixed_noise_alpha, generator))
            timesteps.append(
                self.schedule.num_train_timesteps - 1 - skip * torch.randint(points, (1,), generator=generator)
            )
        has_audio = torch.ones(len(generators)).to(latents.device, latents.dtype)
        return Drawn(torch.cat(noise).to(latents), torch.cat(timesteps), has_audio)

    def distance(self, clean: Tensor, target: Tensor) -> Tensor:
        """Distance of latents b c f h w; cells that the mask leaves visible have the objective's `visible_weight`."""
        error = clean - target
        cells = 1 - (1 - self.objective.visible_weight) * self.mask
        if self.plan.loss == "l2":
            return (error**2 * cells).mean()
        return (((error**2 + HUBER_WIDTH**2).sqrt() - HUBER_WIDTH) * cells).mean()

    def _target(self, noisy: Tensor, timesteps: Tensor, batch: ClipBatch) -> Tensor:
        """Clean latents that the averaged student predicts from the teacher's next point."""
        earlier = (timesteps - self.plan.skip).clamp(min=0)
        noise = self._taught(noisy, timesteps, batch)
        with full_precision(noisy.device):
            nearer = ddim_step(noisy, noise, timesteps, earlier, self.schedule)
        predicted = self._denoiser(self.target, batch)(nearer, earlier)
        with full_precision(noisy.device):
            return consistency(nearer, predicted, earlier, self.schedule)

    def _taught(self, noisy: Tensor, timesteps: Tensor, batch: ClipBatch) -> Tensor:
        """The teacher's prediction with guidance, float32."""
        return self._denoiser(self.teacher.net, batch, self.plan.guidance_scale)(noisy, timesteps)

    def _denoiser(
        self, unet: UNet3DConditionModel, batch: ClipBatch, guidance_scale: float = 1.0
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(noisy latents b c f h w, timesteps b) -> predicted noise, float32, with the batch's conditioning and audio."""
        masked, reference, audio = batch.masked_latents, batch.reference_latents, batch.audio
        assert masked is not None and reference is not None and audio is not None

        def predict(sample: Tensor, timesteps: Tensor, audio: AudioKV) -> Tensor:
            return unet(sample, timesteps, audio).float()

        denoise = conditioned(predict, self.mask[None, None, None], masked, reference)
        return guided(denoise, unet.project_kv(audio), guidance_scale)

    @torch.no_grad()
    def _update_average(self) -> None:
        for slow, fast in zip(self.target.parameters(), self.unet.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.plan.target_decay)
