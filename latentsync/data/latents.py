"""Pre-computed latents and audio features of aligned clips, so that the U-Net trains without auto-encoder and speech encoder.

Tensor legend: t frames of a clip, s feature rows (50 a second), d hidden states, w their width, c h w latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsync.audio.windows import training_windows
from latentsync.data.aligned import AlignedClip
from latentsync.face.pixels import frames_to_pixels

SUFFIX = ".latents.safetensors"
CHUNK = 32  # frames encoded at once

Encode = Callable[[Tensor], Tensor]  # pixels [f, 3, h, w] -> scaled latents [f, 4, h/8, w/8]
Listen = Callable[[Tensor], Tensor]  # waveform [n] -> feature rows [s, d, w]


@dataclass(frozen=True)
class ClipLatents:
    """One clip, float16 in memory: `latents` and `masked_latents` [t, c, h, w], `audio` [s, d, w]."""

    latents: Tensor
    masked_latents: Tensor
    audio: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class LatentBatch:
    """A training batch, float32: clips [b, c, f, h, w] and their audio windows [b, f, tokens, w]."""

    latents: Tensor
    masked_latents: Tensor
    reference_latents: Tensor
    audio: Tensor


@torch.no_grad()
def precompute(clip: AlignedClip, folder: Path, encode: Encode, listen: Listen, mask: Tensor) -> Path:
    """Encode one clip, plain and masked, and its audio; an existing file is kept. `mask` [r, r], 1 = keep."""
    path = folder / f"{clip.name}{SUFFIX}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    plain, masked = [], []
    for start in range(0, len(clip), CHUNK):
        pixels = frames_to_pixels(np.array(clip.faces[start : start + CHUNK]))
        plain.append(encode(pixels))
        masked.append(encode(pixels * mask))
    tensors = {
        "latents": torch.cat(plain),
        "masked_latents": torch.cat(masked),
        "audio": listen(torch.from_numpy(clip.waveform)),
    }
    partial = path.with_name(path.name + ".partial")
    save_file({name: value.half().contiguous() for name, value in tensors.items()}, partial)
    partial.replace(path)
    return path


def load_latents(folder: Path | str, min_frames: int) -> list[ClipLatents]:
    """All clips of a folder that have at least `min_frames` frames; ValueError if none has."""
    clips = [ClipLatents(**load_file(path)) for path in sorted(Path(folder).glob(f"*{SUFFIX}"))]
    usable = [clip for clip in clips if len(clip) >= min_frames]
    if not usable:
        raise ValueError(
            f"{folder} holds no clip of {min_frames} frames or more; run `python -m scripts.precompute` first."
        )
    return usable


def latent_batch(clips: list[ClipLatents], batch_size: int, num_frames: int, generator: torch.Generator) -> LatentBatch:
    """Draw clips and, for each, a reference from elsewhere in the same clip that does not overlap it.

    Clips need at least 3 * num_frames frames, so that a reference exists for every start.
    """
    parts = [_random_part(clips, num_frames, generator) for _ in range(batch_size)]
    stacked = [torch.stack([part.float() for part in column]) for column in zip(*parts, strict=True)]
    return LatentBatch(*stacked)


def _random_part(clips: list[ClipLatents], num_frames: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    clip = clips[draw(len(clips))]
    starts = len(clip) - num_frames + 1
    start = draw(starts)
    elsewhere = [other for other in range(starts) if abs(other - start) >= num_frames]
    other = elsewhere[draw(len(elsewhere))]
    shown, reference = slice(start, start + num_frames), slice(other, other + num_frames)
    return (
        clip.latents[shown].transpose(0, 1),  # f c h w -> c f h w
        clip.masked_latents[shown].transpose(0, 1),
        clip.latents[reference].transpose(0, 1),
        training_windows(clip.audio, start, num_frames),
    )
