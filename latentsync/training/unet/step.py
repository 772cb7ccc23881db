"""The U-Net's training step: predict the noise in a clip's latents; optionally, losses on the clip decoded from the prediction.

Stage 1 has a loss on latents only. Stage 2 estimates the clean latents in one step, decodes them and adds losses on pixels. The
stages differ only in configuration: which modules are trained, and which losses have a weight.

Legend: b clips, c channels, f frames, h w latent height and width.
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.config import UNetObjective
from latentsync.data.unet_clips import ClipBatch, with_latents
from latentsync.device import full_precision
from latentsync.diffusion.denoisers import unet_input
from latentsync.diffusion.noise import add_noise, mixed_noise, one_step_x0
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.face.masks import weighted_mouth
from latentsync.models.frozen import Frozen
from latentsync.models.unet.adapter import adapter_names
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import SCALING_FACTOR
from latentsync.training.engine.loop import Losses, item_generator
from latentsync.training.unet.pixel_losses import PixelLosses

COARSE_CELLS = 4  # side, in latent cells, of the squares of `UNetObjective.coarse_weight`


@dataclass(frozen=True)
class Drawn:
    """The random numbers of a batch."""

    noise: Tensor  # b c f h w
    timesteps: Tensor  # b, on the CPU
    has_audio: Tensor  # b; 0 where audio dropout replaces the clip's audio features by zeros, else 1


class UNetStep(nn.Module):
    """Losses: `recon`, the error of the predicted noise, and those of `pixel_losses`.

    Without `encoder`, batches contain latents; with it they contain pixels, which are encoded to samples of the posterior.
    """

    mask: Tensor
    cells: Tensor  # weight of each latent cell [h, w]

    def __init__(
        self,
        unet: UNet3DConditionModel,
        mask: Tensor,
        objective: UNetObjective,
        seed: int,
        pixel_losses: PixelLosses | None = None,
        encoder: Frozen[AutoencoderKL] | None = None,
    ):
        """`mask` [h, w] at the latents' size, 1 = visible."""
        super().__init__()
        self.unet, self.objective, self.seed = unet, objective, seed
        self.pixel_losses, self.encoder = pixel_losses, encoder
        self.schedule = NoiseSchedule()
        self.register_buffer("mask", mask, persistent=False)
        cells = (1 - (1 - objective.visible_weight) * mask) * weighted_mouth(len(mask), objective.mouth_weight).to(mask)
        self.register_buffer("cells", cells, persistent=False)

    @property
    def fixed_tensors(self) -> set[str]:
        """The tensors that the run's files hold and that no step changes: all but those of an adapter, if there is one."""
        names = self.state_dict()
        adapted = set(adapter_names(names))
        return set(names) - adapted if adapted else set()

    def forward(self, batch: ClipBatch, positions: Tensor) -> Losses:
        """Unweighted losses of a batch, whose items are at `positions`."""
        generators = [item_generator(self.seed, position) for position in positions.tolist()]
        batch = batch if batch.latents is not None else self._encoded(batch, generators)
        latents, masked, reference, audio = batch.latents, batch.masked_latents, batch.reference_latents, batch.audio
        assert latents is not None and masked is not None and reference is not None and audio is not None
        drawn = self.draw(latents, generators)
        noisy = add_noise(latents, drawn.noise, drawn.timesteps, self.schedule)
        sample = unet_input(noisy, self.mask[None, None, None], masked, reference)
        audio_kv = self.unet.project_kv(audio * drawn.has_audio[:, None, None, None])
        predicted = self.unet(sample, drawn.timesteps, audio_kv)
        losses = {"recon": self.error(predicted, drawn.noise, drawn.timesteps)}
        if self.pixel_losses is not None:
            with full_precision(latents.device):
                clean = one_step_x0(noisy, predicted.float(), drawn.timesteps, self.schedule)
                losses |= self.pixel_losses(clean, batch)
        return losses

    def draw(self, latents: Tensor, generators: list[torch.Generator]) -> Drawn:
        """Noise, timesteps and audio dropout, each item's from its own generator."""
        shape, steps = (1, *latents.shape[1:]), self.schedule.num_train_timesteps
        noise, timesteps, has_audio = [], [], []
        for generator in generators:
            noise.append(mixed_noise(shape, self.objective.mixed_noise_alpha, generator))
            timesteps.append(torch.randint(steps, (1,), generator=generator))
            has_audio.append(torch.rand(1, generator=generator) >= self.objective.audio_dropout)
        return Drawn(
            torch.cat(noise).to(latents), torch.cat(timesteps), torch.cat(has_audio).to(latents.device, latents.dtype)
        )

    def error(self, predicted: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Mean squared error of the predicted noise b c f h w, weighted by timestep and by cell as the objective sets.

        With `coarse_weight` the error of means over squares of cells is added. A mean of n cells is multiplied by sqrt(n), so that
        errors which are independent between cells count as much in both parts.
        """
        error = predicted.float() - noise
        timestep_weight = self._snr_weight(timesteps).to(noise)[:, None, None, None, None]
        loss = (error**2 * self.cells * timestep_weight).mean()
        if not self.objective.coarse_weight:
            return loss
        square = (1, COARSE_CELLS, COARSE_CELLS)
        coarse = COARSE_CELLS * F.avg_pool3d(error * (1 - self.mask), square, ceil_mode=True)
        return loss + self.objective.coarse_weight * (coarse**2 * timestep_weight).mean()

    def _snr_weight(self, timesteps: Tensor) -> Tensor:
        alphas = self.schedule.alphas_cumprod[timesteps]
        return ((1 - alphas) / alphas).pow(self.objective.snr_power).clamp(max=self.objective.snr_limit)

    def _encoded(self, batch: ClipBatch, generators: list[torch.Generator]) -> ClipBatch:
        assert self.encoder is not None, "batches without latents need the auto-encoder"
        vae = self.encoder.net

        def encode(pixels: Tensor) -> Tensor:
            posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
            shape = (len(pixels) // len(generators), *posterior.mean.shape[1:])
            noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
            return (posterior.mean + posterior.std * noise.to(posterior.mean)) * SCALING_FACTOR

        assert batch.pixels is not None, "batches contain latents or pixels"
        with full_precision(batch.pixels.device):
            return with_latents(batch, encode)


def choose_trainable(unet: nn.Module, trainable_modules: list[str]) -> None:
    """Train only parameters whose name contains one of `trainable_modules`; all of them if the list is empty.

    Raises:
        ValueError: no parameter's name contains an entry.
    """
    names = [name for name, _ in unet.named_parameters()]
    for part in trainable_modules:
        if not any(part in name for name in names):
            parts = sorted({each for name in names for each in name.split(".") if not each.isdigit()})
            raise ValueError(
                f"trainable_modules: no parameter's name contains {part!r}; names have {', '.join(parts)}."
            )
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(not trainable_modules or any(part in name for part in trainable_modules))
