"""Distilling a U-Net into one that samples in few steps without guidance: latent consistency (Luo et al. 2023, Song et al. 2023).

Any two points of one sampling trajectory must give the same prediction of the clean latents. The teacher, with guidance, computes
the second point from the noisier first one by a DDIM step over `skip` timesteps. The student's prediction from the first point is
trained towards the prediction of the student's moving average from the second. At timestep 0 the prediction is the identity, the
boundary condition that ties all other predictions to the data.

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
from latentsync.models.frozen import Frozen
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.training.engine.loop import Losses, item_generator
from latentsync.training.unet.step import Drawn, UNetStep

HUBER_WIDTH = 0.001  # of the pseudo-Huber loss, as in Luo et al.: quadratic below, linear above


class DistillStep(UNetStep):
    """Losses: `consistency`, the distance between the two points' predictions, and any pixel losses of the student's prediction."""

    def __init__(
        self, unet: UNet3DConditionModel, teacher: Frozen[UNet3DConditionModel], plan: DistillConfig, **others: Any
    ):
        """`unet` is the student; `others` are `UNetStep`'s arguments. The state dict contains the moving average."""
        super().__init__(unet, **others)
        self.teacher, self.plan = teacher, plan
        self.target = copy.deepcopy(unet).requires_grad_(False)

    def forward(self, batch: ClipBatch, positions: Tensor) -> Losses:
        """Unweighted losses of a batch, whose items are at `positions`; in training mode the average is updated first."""
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
        """Noise and timesteps, each a multiple of `skip` before the last one; no audio dropout."""
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
        """Mean distance of latents b c f h w; cells are weighted as the objective sets."""
        error = clean - target
        if self.plan.loss == "l2":
            return (error**2 * self.cells).mean()
        return (((error**2 + HUBER_WIDTH**2).sqrt() - HUBER_WIDTH) * self.cells).mean()

    def _target(self, noisy: Tensor, timesteps: Tensor, batch: ClipBatch) -> Tensor:
        """Clean latents predicted by the student's moving average from the point after the teacher's DDIM step."""
        earlier = (timesteps - self.plan.skip).clamp(min=0)
        noise = self._teacher_noise(noisy, timesteps, batch)
        with full_precision(noisy.device):
            cleaner = ddim_step(noisy, noise, timesteps, earlier, self.schedule)
        predicted = self._denoiser(self.target, batch)(cleaner, earlier)
        with full_precision(noisy.device):
            return consistency(cleaner, predicted, earlier, self.schedule)

    def _teacher_noise(self, noisy: Tensor, timesteps: Tensor, batch: ClipBatch) -> Tensor:
        """The noise that the teacher predicts with guidance, float32."""
        return self._denoiser(self.teacher.net, batch, self.plan.guidance_scale)(noisy, timesteps)

    def _denoiser(
        self, unet: UNet3DConditionModel, batch: ClipBatch, guidance_scale: float = 1.0
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A function (noisy latents b c f h w, timesteps b) -> predicted noise, float32, given the batch's conditions."""
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
