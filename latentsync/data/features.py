"""Features of clips, computed once and cached: VAE latents of the faces, Whisper hidden states and mel spectrogram of the audio.

Files are stored under `cache_dir/KIND-SETTINGS/` and named by a hash of the clip's content. SETTINGS is a hash of everything else
that the values depend on: the network's weights, resolution, mask, precision; `settings.json` in the folder lists them.

Tensor legend: t frames of a clip, s Whisper rows (50 per second), d hidden states, w their width, n mel columns (80 per second),
c h w latents.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from latentsync.audio.sync_mel import sync_mel
from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.audio.whisper_model import load_audio_encoder
from latentsync.data.clips import Read, TrainingClip
from latentsync.data.store import TensorStore, digest_of, network_key, tensor_length, tensor_rows, write_whole
from latentsync.device import DTYPES
from latentsync.face.pixels import frames_to_pixels, resize_frames
from latentsync.models.vae import encode, load_any_vae
from latentsync.weights import mask_checksum

CHUNK = 8  # frames encoded at once; more are slower on a CPU

Tensors = dict[str, Tensor]
Compute = Callable[[TrainingClip], Tensors]
Encode = Callable[[Tensor], Tensor]  # pixels [f, 3, h, w] -> scaled latents [f, 4, h / 8, w / 8]


class ClipFeature(Protocol):
    """A feature of clips: named tensors whose first dimension is time."""

    def rows(self, clip: TrainingClip, name: str, start: int, stop: int) -> Tensor:
        """Rows start ... stop - 1 of a tensor; fewer at its end."""

    def length(self, clip: TrainingClip, name: str) -> int:
        """Number of rows of a tensor."""


@dataclass(frozen=True)
class LiveFeature:
    """A feature that is computed at every access and not cached."""

    compute: Compute

    def rows(self, clip: TrainingClip, name: str, start: int, stop: int) -> Tensor:
        return self.compute(clip)[name][start:stop]

    def length(self, clip: TrainingClip, name: str) -> int:
        return len(self.compute(clip)[name])


class CachedFeature:
    """A feature cached on disk. `make_compute` returns the function that computes it; it is called at the first cache miss.

    Features are sent to DataLoader workers, so `make_compute` must be picklable: a module-level function or a partial of one.
    """

    def __init__(
        self, cache_dir: Path | str, kind: str, settings: Mapping[str, Any], make_compute: Callable[[], Compute]
    ):
        self.kind, self.settings, self.make_compute = kind, dict(settings), make_compute
        text = json.dumps(self.settings, sort_keys=True)
        self.folder = Path(cache_dir) / f"{kind}-{digest_of(kind, text)[:12]}"
        self.store = TensorStore(self.folder)

    @cached_property
    def compute(self) -> Compute:
        return self.make_compute()

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling, without `compute`: each worker makes its own."""
        return {name: value for name, value in self.__dict__.items() if name != "compute"}

    def has(self, clip: TrainingClip) -> bool:
        return clip.has_feature(self.folder.name) or self.store.has(clip.key)

    def missing(self, clips: Sequence[TrainingClip]) -> list[TrainingClip]:
        """Clips that are not cached, without duplicates of the same content."""
        return list({clip.key: clip for clip in clips if not self.has(clip)}.values())

    def fill(self, clips: Sequence[TrainingClip]) -> Iterator[TrainingClip]:
        """Compute and cache what is missing; yields every clip once it is cached.

        Raises:
            MediaError: a clip cannot be read.
            ValueError: the cache cannot be written.
        """
        if not (self.folder / "settings.json").exists():
            text = json.dumps({"kind": self.kind, **self.settings}, indent=1)
            write_whole(self.folder / "settings.json", lambda partial: partial.write_text(text, encoding="utf-8"))
        for clip in clips:
            if not self.has(clip):
                self._make(clip)
            yield clip

    def rows(self, clip: TrainingClip, name: str, start: int, stop: int) -> Tensor:
        """See `ClipFeature`; a missing or damaged file is computed again."""
        found = self._stored(clip, lambda path: tensor_rows(path, name, start, stop))
        return self._make(clip)[name][start:stop] if found is None else found

    def length(self, clip: TrainingClip, name: str) -> int:
        found = self._stored(clip, lambda path: tensor_length(path, name))
        return len(self._make(clip)[name]) if found is None else found

    def tensors(self, clip: TrainingClip) -> Tensors:
        """All tensors of the feature, computed now; MediaError if the clip cannot be read."""
        return {name: value.detach().cpu() for name, value in self.compute(clip).items()}

    def _stored(self, clip: TrainingClip, read: Callable[[Path], Read | None]) -> Read | None:
        """What `read` returns for the feature's file: the one that came with the clip, or that in the cache."""
        found = clip.read_feature(self.folder.name, read)
        return read(self.store.path(clip.key)) if found is None else found

    def _make(self, clip: TrainingClip) -> Tensors:
        made = self.tensors(clip)
        self.store.put(clip.key, made)
        return made


def mel_compute(clip: TrainingClip) -> Tensors:
    """`mel`, float32 [n, 80]: the SyncNet's mel spectrogram, time first."""
    return {"mel": sync_mel(clip.waveform()).T}


def mel_feature(cache_dir: Path | str) -> CachedFeature:
    """Feature `mel`, float32 [n, 80]: the SyncNet's mel spectrogram."""
    return CachedFeature(cache_dir, "mel", {}, _mel_maker)


def _mel_maker() -> Compute:
    return mel_compute


def whisper_compute(path: Path | str, device: torch.device) -> Compute:
    """Load the speech encoder; the returned function computes `audio`, float16 [s, d, w], of a clip."""
    whisper = WhisperFeatures(load_audio_encoder(path).to(device))
    return lambda clip: {"audio": whisper.features(clip.waveform()).half()}


def whisper_feature(cache_dir: Path | str, path: Path | str, device: torch.device | None = None) -> CachedFeature:
    """Feature `audio`, float16 [s, d, w]: hidden states of the speech encoder at `path`.

    Raises:
        ValueError: there is no encoder at `path`.
    """
    settings = {"network": network_key(path), "segments": "overlap", "type": "float16"}
    return CachedFeature(cache_dir, "whisper", settings, partial(whisper_compute, path, device or torch.device("cpu")))


def latents_compute(encode_pixels: Encode, mask: Tensor) -> Compute:
    """A function that computes `latents` and `masked_latents`, float16 [t, c, h, w], of a clip; `mask` [r, r], 1 = keep."""

    @torch.no_grad()
    def compute(clip: TrainingClip) -> Tensors:
        parts: dict[str, list[Tensor]] = {"latents": [], "masked_latents": []}
        for start in range(0, clip.frames, CHUNK):
            faces = clip.faces(start, min(start + CHUNK, clip.frames))
            pixels = frames_to_pixels(resize_frames(faces, mask.shape[-1]))
            parts["latents"].append(encode_pixels(pixels).half().cpu())
            parts["masked_latents"].append(encode_pixels(pixels * mask).half().cpu())
        return {name: torch.cat(part) for name, part in parts.items()}

    return compute


def vae_encode(path: Path | str, device: torch.device, precision: str = "fp32") -> Encode:
    """Load the encoder of an auto-encoder: `path` is a checkpoint of this project or a folder in diffusers' format.

    The latents are posterior means; with `precision` bf16 or fp16 they are computed under autocast.
    """
    dtype = DTYPES[precision]
    vae = load_any_vae(path)
    torch.nn.Module.to(vae, device)

    def encode_pixels(pixels: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return encode(vae, pixels.to(device))

    return encode_pixels


def latents_feature(
    cache_dir: Path | str,
    path: Path | str,
    mask: Tensor,
    precision: str = "fp32",
    device: torch.device | None = None,
) -> CachedFeature:
    """Features `latents` and `masked_latents`, float16 [t, 4, r / 8, r / 8]: faces resized to r, without and with `mask` [r, r].

    Raises:
        ValueError: there is no auto-encoder at `path`, or `precision` is unknown.
    """
    if precision not in DTYPES:
        raise ValueError(f"data.latents_precision is {precision!r}: choose {', '.join(DTYPES)}.")
    settings = {
        "network": network_key(path),
        "resolution": mask.shape[-1],
        "mask": mask_checksum(mask),
        "computed_in": precision,
        "type": "float16",
    }
    make = partial(_latents_maker, path, device or torch.device("cpu"), precision, mask)
    return CachedFeature(cache_dir, "latents", settings, make)


def _latents_maker(path: Path | str, device: torch.device, precision: str, mask: Tensor) -> Compute:
    return latents_compute(vae_encode(path, device, precision), mask)
