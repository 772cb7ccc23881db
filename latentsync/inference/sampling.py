"""One window of aligned faces with new lips: encode, sample with guidance, decode, keep the surroundings.

Legend: b clips (always 1), c channels, f frames, h w latent height and width, r face resolution in pixels,
s audio tokens, d width of an audio token.
"""

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from latentsync.diffusion.conditioning import conditioned
from latentsync.diffusion.guidance import guided
from latentsync.diffusion.noise import init_latents, shared_noise
from latentsync.diffusion.sampler import ddim_sample
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.face.masks import load_mask
from latentsync.face.pixels import FaceInputs, keep_surroundings, match_colour, prepare_faces
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.stopwatch import Stopwatch
from latentsync.models.vae import DOWNSAMPLING, LATENT_CHANNELS, decode, encode

PIXELS_AT_ONCE = 4 * 512 * 512  # that the auto-encoder works on: 4 frames of 512 px, 16 of 256 px
Faces = NDArray[np.uint8]  # [f, r, r, 3]
OnStep = Callable[[int, int], None]  # (done, total) sampling steps


class WindowSampler:
    """Repaints windows of one job: all of them start from the same frame of noise, drawn from the settings' seed."""

    def __init__(self, models: LipsyncModels, settings: InferenceSettings, stopwatch: Stopwatch):
        self.models, self.settings, self.stopwatch = models, settings, stopwatch
        self.schedule = NoiseSchedule()
        self.timesteps = self.schedule.ddim_timesteps(settings.steps)
        self.mask = load_mask(models.resolution)
        side = models.resolution // DOWNSAMPLING
        shape = (1, LATENT_CHANNELS, models.num_frames, side, side)
        self.noise = shared_noise(shape, torch.Generator().manual_seed(settings.seed)).to(models.device)

    @torch.inference_mode()
    def sample(self, faces: Faces, audio: Tensor, reference: Tensor | None, on_step: OnStep) -> Tensor:
        """New faces [f, 3, r, r] in [-1, 1], float32 on the CPU, for `faces`, at most a window of them.

        `audio` [f, s, d] is what is heard at them; `reference` latents as of `encode_window`, None for `faces`
        themselves. Fewer frames than a window are filled up by repeating the last one.
        """
        count = len(faces)
        inputs = self._inputs(faces)
        with self.stopwatch("encode"):
            masked = self._encode(inputs.masked_pixels)
            reference = self._encode(inputs.pixels) if reference is None else reference
        with self.stopwatch("sample"):
            latents = self._denoise(masked, inputs.latent_masks, self._padded(audio), reference, on_step)
        with self.stopwatch("decode"):
            decoded = self._decode(latents[:, :, :count])
        original = inputs.pixels[:count].cpu()
        if self.settings.colour == "matched":
            with self.stopwatch("match colour"):
                reconstructed = self._decode(self._encode(inputs.pixels[:count]))
                decoded = match_colour(decoded, reconstructed, original, DOWNSAMPLING)
        return keep_surroundings(decoded.clamp(-1, 1), original, self.mask)

    @torch.inference_mode()
    def encode_window(self, faces: Faces) -> Tensor:
        """Reference latents b c f h w, float32 on the device, of one window; the last frame is repeated to fill it."""
        with self.stopwatch("encode"):
            return self._encode(self._inputs(faces).pixels)

    def _inputs(self, faces: Faces) -> FaceInputs:
        padded = self._padded(torch.from_numpy(faces)).to(self.models.device)
        return prepare_faces(padded, self.mask.to(self.models.device))

    def _padded(self, frames: Tensor) -> Tensor:
        """`frames` [f, ...] with the last one repeated up to the length of a window."""
        missing = self.models.num_frames - len(frames)
        return torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])]) if missing else frames

    def _denoise(self, masked: Tensor, masks: Tensor, audio: Tensor, reference: Tensor, on_step: OnStep) -> Tensor:
        dtype = self.models.dtype

        def unet(sample: Tensor, timestep: int, heard: Tensor | None) -> Tensor:
            return self.models.unet(sample.to(dtype), timestep, heard).float()

        mask = rearrange(masks, "f c h w -> 1 c f h w")
        denoise = guided(conditioned(unet, mask, masked, reference), audio.to(dtype), self.settings.guidance_scale)
        start = reference if self.settings.init == "reference" else None
        latents = init_latents(self.noise, self.schedule, self.timesteps[0], start)
        return ddim_sample(denoise, latents, self.timesteps, self.schedule, on_step)

    def _encode(self, pixels: Tensor) -> Tensor:
        """Pixels [f, 3, r, r] -> latents b c f h w, float32: the posterior's mean, which adds no flicker."""
        parts = [encode(self.models.vae, part.to(self.models.dtype)) for part in pixels.split(self._frames_at_once)]
        return rearrange(torch.cat(parts).float(), "f c h w -> 1 c f h w")

    def _decode(self, latents: Tensor) -> Tensor:
        """Latents b c f h w -> pixels [f, 3, r, r], float32 on the CPU."""
        frames = rearrange(latents, "1 c f h w -> f c h w").to(self.models.dtype)
        return torch.cat([decode(self.models.vae, part).float().cpu() for part in frames.split(self._frames_at_once)])

    @property
    def _frames_at_once(self) -> int:
        return max(1, PIXELS_AT_ONCE // self.models.resolution**2)
