"""Latents of windows: the sampler shared by inference and validation, and a cache for frames that are shown again.

Legend: b windows (clips), c channels, f frames, h w latent height and width.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.diffusion.denoisers import AudioCondition, conditioned, guided
from latentsync.diffusion.noise import init_latents, shared_noise
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.diffusion.solvers import OnStep, find_solver
from latentsync.inference.settings import InferenceSettings
from latentsync.models.unet.network import DeepCache
from latentsync.weights import LATENT_CHANNELS, LATENT_STRIDE


class UNet(Protocol):
    """A U-Net in any precision: (13 channels b c f h w, t, audio, cache) -> noise b c f h w, float32."""

    def __call__(self, sample: Tensor, timestep: int, audio: Any, cache: DeepCache | None) -> Tensor: ...


class LatentSampler:
    """Samples latents by the settings: solver, steps, guidance, DeepCache and start.

    All windows start from the same frame of noise, drawn from the settings' seed.
    """

    def __init__(self, settings: InferenceSettings, num_frames: int, resolution: int, device: torch.device):
        """`resolution` is that of the faces in px."""
        self.settings, self.schedule = settings, NoiseSchedule()
        solver = find_solver(settings.solver)
        self.timesteps = solver.timesteps(self.schedule, settings.steps)
        self.solve = solver.seeded(settings.seed + 1)  # independent of the initial noise
        side = resolution // LATENT_STRIDE
        generator = torch.Generator().manual_seed(settings.seed)
        self.noise = shared_noise((1, LATENT_CHANNELS, num_frames, side, side), generator).to(device)

    def __call__(
        self,
        unet: UNet,
        audio: AudioCondition,
        mask: Tensor,
        masked: Tensor,
        reference: Tensor,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Clean latents b c f h w; `mask` b 1 f h w, where b or f may be 1; latents are float32."""
        interval = self.settings.deepcache_interval
        cache = DeepCache(interval) if interval > 1 else None  # features are valid within one call
        conditional = conditioned(partial(unet, cache=cache), mask, masked, reference)
        denoise = guided(conditional, audio, self.settings.guidance_scale, self._is_guided)
        noise = self.noise[:, :, : masked.shape[2]].expand(len(masked), -1, -1, -1, -1)
        start = reference if self.settings.init == "reference" else None
        latents = init_latents(noise, self.schedule, self.timesteps[0], start)
        return self.solve(denoise, latents, self.timesteps, self.schedule, on_step)

    def _is_guided(self, timestep: int) -> bool:
        start, stop = self.settings.guidance_interval
        return start <= self.schedule.progress(timestep) <= stop


CACHE_BYTES = 1 << 28  # 5 minutes of 256 px at 25 frames a second, over a minute of 512 px


class LatentCache:
    """Latents of single frames, on the CPU, for frames of the source that are shown again.

    A video that is played back and forth, in a loop or held shows the same aligned face several times, with the same latents each
    time. When the cache is full (`limit_bytes`), no entry is replaced: a loop shows the oldest frames next, and a video played
    back and forth shows all frames equally often.
    """

    def __init__(self, order: NDArray[np.integer] | Sequence[int] = (), limit_bytes: int = CACHE_BYTES):
        """`order` are the source frames that will be needed, in order; those that occur once are not cached."""
        frames, shows = np.unique(np.asarray(order, np.int64), return_counts=True)
        self.repeated = set(frames[shows > 1].tolist())
        self.bytes_left = limit_bytes
        self.results: dict[tuple[Hashable, int], Tensor] = {}

    def __call__(self, kind: Hashable, sources: Sequence[int], compute: Callable[[], Tensor]) -> Tensor:
        """Results [n, ...] of a kind for the frames `sources`, at most n: from the cache if it has all of them, else computed.

        `compute` returns those of all frames of a window, the last of which is repeated where `sources` are fewer.
        """
        keys = [(kind, source) for source in sources]
        if keys and all(key in self.results for key in keys):
            return torch.stack([self.results[key] for key in keys])
        computed = compute()
        for key, result in zip(keys, computed, strict=False):
            self._keep(key, result)
        return computed

    def _keep(self, key: tuple[Hashable, int], result: Tensor) -> None:
        size = result.numel() * result.element_size()
        if key[1] in self.repeated and key not in self.results and size <= self.bytes_left:
            self.bytes_left -= size
            self.results[key] = result.to("cpu", copy=True)
