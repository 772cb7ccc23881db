"""Windows of aligned faces with new lips: encode, sample with guidance, decode, keep the surroundings.

Legend: b windows (clips), c channels, f frames, h w latent height and width, r face resolution in pixels,
s audio tokens, d width of an audio token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from latentsync.diffusion.denoisers import AudioCondition
from latentsync.diffusion.solvers import OnStep
from latentsync.face.colour import measured_frames
from latentsync.face.masks import load_mask
from latentsync.face.pixels import FaceInputs, prepare_faces
from latentsync.inference.memory import MemoryPlan, is_out_of_memory, memory_plan
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.finish import DecodedFaces, Finisher, NewFaces
from latentsync.inference.windows.latents import LatentCache, LatentSampler
from latentsync.models.unet.compiled import SameSize, eager
from latentsync.models.unet.network import DeepCache
from latentsync.models.vae import decode, decode_tiny, encode

Faces = NDArray[np.uint8]  # [f, r, r, 3]
Computed = TypeVar("Computed")


@dataclass(frozen=True)
class Window:
    """At most `num_frames` consecutive frames: aligned `faces`, their audio, latents of a reference.

    `audio` f s d; `reference` 1 c f h w as of `encode_window`, None for the faces themselves; `sources` are the frame numbers in
    the source video, the keys of the latent cache.
    """

    faces: Faces
    audio: Tensor
    reference: Tensor | None = None
    sources: Sequence[int] = ()


class WindowSampler:
    """Encodes, samples and decodes the windows of one job."""

    def __init__(
        self,
        models: LipsyncModels,
        settings: InferenceSettings,
        stopwatch: Stopwatch,
        memory: MemoryPlan | None = None,
    ):
        self.latent_cache = LatentCache()
        self.models, self.settings, self.stopwatch = models, settings, stopwatch
        self.memory = memory or memory_plan("auto", models.device, models.resolution)
        self.dtype = models.dtype
        models.check(settings)
        self.mask = load_mask(models.resolution).to(models.device)
        self.finisher = Finisher(models.resolution, models.device, settings.texture == "match")
        self.latents = LatentSampler(settings, models.num_frames, models.resolution, models.device)

    def sample(self, windows: Sequence[Window], on_step: OnStep = lambda done, total: None) -> list[NewFaces]:
        """New faces for any number of windows; windows that fail the output check are sampled once more in float32."""
        results = self._sample_all(windows, on_step)
        broken = [index for index, result in enumerate(results) if result.rejection]
        if broken and self.dtype != torch.float32:
            with self._in_float32():
                again = self._sample_all([windows[index] for index in broken], on_step)
            for index, result in zip(broken, again, strict=True):
                results[index] = replace(result, retried=True)
        return results

    def encode_window(self, faces: Faces) -> Tensor:
        """Reference latents 1 c f h w, float32 on the device, of one window; the last frame is repeated to fill it."""
        with torch.inference_mode(), self.stopwatch("encode"):
            latents = self._within_memory(lambda _: self._encode(self._inputs(faces).pixels))
        missing = self.models.num_frames - latents.shape[2]
        return torch.cat([latents, latents[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)

    def _sample_all(self, windows: Sequence[Window], on_step: OnStep) -> list[NewFaces]:
        """Sample batches of as many windows as the memory plan allows; the plan shrinks when memory runs out."""
        results: list[NewFaces] = []
        while len(results) < len(windows):
            results += self._within_memory(partial(self._sample_some, windows[len(results) :], on_step))
        return results

    def _within_memory(self, compute: Callable[[MemoryPlan], Computed]) -> Computed:
        while True:
            try:
                return compute(self.memory)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                smaller = self.memory.halved()
                if smaller is None:
                    raise ValueError(
                        f"the memory of {self.models.device} is too small for a single window of this model: close other"
                        " programs that use it, or choose another device or a smaller model."
                    ) from error
            self._free()
            self.memory = smaller

    def _sample_some(self, windows: Sequence[Window], on_step: OnStep, plan: MemoryPlan) -> list[NewFaces]:
        """Sample the first windows: those of equal length, as many as the plan allows."""
        length = len(windows[0].faces)
        alike = takewhile(lambda window: len(window.faces) == length, windows[: plan.windows])
        return self._sample(list(alike), on_step)

    @torch.inference_mode()
    def _sample(self, windows: Sequence[Window], on_step: OnStep) -> list[NewFaces]:
        """New faces for windows of equal length."""
        frames = len(windows[0].faces)
        inputs = [self._inputs(window.faces) for window in windows]
        with self.stopwatch("encode"):
            masked = torch.cat([self._latents("masked", *each) for each in zip(windows, inputs, strict=True)])
            references = [
                self._latents("whole", window, part) if window.reference is None else window.reference[:, :, :frames]
                for window, part in zip(windows, inputs, strict=True)
            ]
        audio = torch.stack([window.audio for window in windows])  # b f s d
        with self.stopwatch("sample"), self._without_vae():
            latents = self.denoise(masked, inputs[0].latent_masks, audio, torch.cat(references), on_step)
        return [self._finish(*each) for each in zip(windows, inputs, latents, strict=True)]

    def _latents(self, kind: Literal["masked", "whole"], window: Window, inputs: FaceInputs) -> Tensor:
        """Latents 1 c f h w of a window's masked or whole faces, from the cache if it has them."""

        def compute() -> Tensor:
            pixels = inputs.masked_pixels if kind == "masked" else inputs.pixels
            return rearrange(self._encode(pixels), "1 c f h w -> f c h w")

        latents = self.latent_cache((kind, self.dtype), window.sources, compute).to(self.models.device)
        return rearrange(latents, "f c h w -> 1 c f h w")

    def _finish(self, window: Window, inputs: FaceInputs, latents: Tensor) -> NewFaces:
        """Decode one window's latents c f h w and finish the faces."""
        originals, part = torch.from_numpy(window.faces), self.finisher.part
        with self.stopwatch("decode"):
            decoded = self._decode(latents[None])
            rejection = self.finisher.rejection(decoded)
        if rejection is not None:
            return NewFaces(originals, part, decoded[(..., *part)].cpu(), rejection)
        with self.stopwatch("match colour"):
            reconstructed = None if self.settings.colour == "decoded" else self._reconstructed(inputs.pixels)
        with self.stopwatch("finish"):
            faces, detail = self.finisher.finish(DecodedFaces(decoded, inputs.pixels, reconstructed))
        return NewFaces(originals, part, faces, detail=detail)

    def _reconstructed(self, pixels: Tensor) -> Tensor:
        """Some of the original faces [f, 3, r, r], encoded and decoded."""
        return self._decode(self._encode(pixels[measured_frames(len(pixels))]))

    def _inputs(self, faces: Faces) -> FaceInputs:
        return prepare_faces(torch.from_numpy(faces).to(self.models.device), self.mask)

    def denoise(self, masked: Tensor, masks: Tensor, audio: Tensor, reference: Tensor, on_step: OnStep) -> Tensor:
        """Clean latents b c f h w; compiled blocks compute those of whole windows in the models' precision."""
        mask = rearrange(masks, "f c h w -> 1 c f h w")
        is_usual = masked.shape[2] == self.models.num_frames and self.dtype == self.models.dtype
        if self.models.unet.has_compiled_blocks and is_usual:
            network: Any = SameSize(self.models.unet, self.memory.windows)
            return self._denoise(network, audio, mask, masked, reference, on_step)
        with eager(self.models.unet):
            return self._denoise(self.models.unet, audio, mask, masked, reference, on_step)

    def _denoise(
        self, network: Any, audio: Tensor, mask: Tensor, masked: Tensor, reference: Tensor, on_step: OnStep
    ) -> Tensor:
        def unet(sample: Tensor, timestep: int, audio: AudioCondition, cache: DeepCache | None) -> Tensor:
            predicted: Tensor = network(sample.to(self.dtype), timestep, audio, cache)
            return predicted.float()

        return self.latents(unet, network.project_kv(audio.to(self.dtype)), mask, masked, reference, on_step)

    def _encode(self, pixels: Tensor) -> Tensor:
        """Pixels [f, 3, r, r] -> latents 1 c f h w, float32: the posterior's mean, which adds no flicker."""
        parts = [encode(self.models.vae, part.to(self.dtype)) for part in pixels.split(self.memory.vae_frames)]
        return rearrange(torch.cat(parts).float(), "f c h w -> 1 c f h w")

    def _decode(self, latents: Tensor) -> Tensor:
        """Latents 1 c f h w -> pixels [f, 3, r, r], float32."""
        frames = rearrange(latents, "1 c f h w -> f c h w").to(self.dtype)
        parts = frames.split(self.memory.vae_frames)
        return torch.cat([self._decode_frames(part).float() for part in parts])

    def _decode_frames(self, latents: Tensor) -> Tensor:
        """Latents [f, 4, h, w] -> pixels [f, 3, r, r], by the full or the small decoder."""
        small = None if self.settings.vae == "full" else self.models.tiny_vae
        return decode(self.models.vae, latents) if small is None else decode_tiny(small, latents)

    @contextmanager
    def _without_vae(self) -> Iterator[None]:
        """Move the auto-encoder to the CPU meanwhile, if the memory plan has `offload`."""
        if not self.memory.offload:
            yield
            return
        nn.Module.to(self.models.vae, "cpu")
        self._free()
        try:
            yield
        finally:
            nn.Module.to(self.models.vae, self.models.device)

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        models = self.models
        networks = [each for each in (models.unet, models.vae, models.tiny_vae) if each is not None]
        for network in networks:
            nn.Module.to(network, torch.float32)
        self.dtype = torch.float32
        try:
            yield
        finally:
            self.dtype = self.models.dtype
            for network in networks:
                nn.Module.to(network, self.dtype)  # exact: the values were converted from that type

    def _free(self) -> None:
        module = getattr(torch, self.models.device.type)
        if hasattr(module, "empty_cache"):
            module.empty_cache()
