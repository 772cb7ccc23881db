"""A U-Net with compiled blocks, called in batches of one size, so that each block is compiled once.

Compiled code fits the shapes that it was compiled for. Guidance doubles the batch, its end halves it, and the last group of windows
is smaller: each would compile every block anew. So batches are cut into parts of one size; a part with fewer clips is filled up.

Legend: b clips, c channels, f frames, h w latent height and width, s audio tokens, d width of an audio token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentsync.models.attention import AudioKV, TransformerBlock
from latentsync.models.unet.blocks import ResidualBlock
from latentsync.models.unet.motion import FrameTransformerBlock
from latentsync.models.unet.network import DeepCache, UNet3DConditionModel

REPEATED = (ResidualBlock, TransformerBlock, FrameTransformerBlock)
MAX_SHAPES = 64  # of one type of block: widths and sizes of the levels, and a few sizes of parts


def compile_blocks(unet: UNet3DConditionModel, backend: str = "inductor") -> None:
    """Compile the repeated blocks in place, at their first use; parameter names do not change.

    Blocks of one type and shape share compiled code, so this is much faster than compiling the whole network.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_SHAPES)
    for module in unet.modules():
        if isinstance(module, REPEATED):
            module.compile(dynamic=False, backend=backend)
    unet.has_compiled_blocks = True


@contextmanager
def eager(unet: UNet3DConditionModel) -> Iterator[None]:
    """Meanwhile compiled blocks run uncompiled: for shapes and precisions that are not worth compiling them for."""
    if not unet.has_compiled_blocks:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@dataclass(frozen=True)
class AudioParts:
    """The audio of a batch in parts of one size, see `SameSize`."""

    parts: tuple[AudioKV, ...]
    silence: AudioKV  # a part with zeros for audio
    clips: int  # of the batch, without those added for guidance and to fill up

    def with_unconditional(self) -> "AudioParts":
        """The same for a doubled batch, whose first half has zeros for audio."""
        return replace(self, parts=(self.silence,) * len(self.parts) + self.parts)


class SameSize:
    """Calls a U-Net in parts of `size` clips each; for one sampling call, as it keeps the parts' deep features."""

    def __init__(self, unet: UNet3DConditionModel, size: int):
        self.unet, self.size = unet, size
        self.caches: dict[tuple[int, int], DeepCache] = {}

    def project_kv(self, audio: Tensor) -> AudioParts:
        """Keys and values of audio windows b f s d."""
        parts = tuple(self.unet.project_kv(self._filled(part)) for part in audio.split(self.size))
        silence = torch.zeros_like(audio[:1]).expand(self.size, -1, -1, -1)
        return AudioParts(parts, self.unet.project_kv(silence), len(audio))

    def __call__(self, sample: Tensor, timestep: int, audio: AudioParts, cache: DeepCache | None) -> Tensor:
        """Predicted noise b c f h w."""
        halves = sample.split(audio.clips)  # two with guidance
        parts = [part for half in halves for part in half.split(self.size)]
        predicted = [
            self.unet(self._filled(part), timestep, kv, self._cache(cache, len(parts), index))[: len(part)]
            for index, (part, kv) in enumerate(zip(parts, audio.parts, strict=True))
        ]
        return torch.cat(predicted)

    def _filled(self, part: Tensor) -> Tensor:
        """The clips of a part with copies of the last one up to the size."""
        missing = self.size - len(part)
        return torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part

    def _cache(self, cache: DeepCache | None, parts: int, index: int) -> DeepCache | None:
        """The deep features of one part; new ones where guidance begins or ends."""
        return None if cache is None else self.caches.setdefault((parts, index), DeepCache(cache.interval))
