"""What networks and formulas say about a clip, computed once: latents of its faces, Whisper rows and the mel of its sound.

Files lie under `cache_dir/KIND-SETTINGS/`, named by the clip's content; SETTINGS is a hash of everything else that decides the
numbers: the network's weights, resolution, mask, precision. `settings.json` beside them says it in words.

Tensor legend: t frames of a clip, s Whisper rows (50 a second), d hidden states, w their width, n mel columns (80 a second),
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
from latentsync.data.clips import TrainingClip
from latentsync.data.store import TensorStore, digest_of, network_key, write_whole
from latentsync.device import DTYPES
from latentsync.face.pixels import frames_to_pixels, resize_frames
from latentsync.models.vae import encode, load_vae
from latentsync.weights import load_public_vae, mask_checksum

CHUNK = 32  # frames encoded at once

Tensors = dict[str, Tensor]
Compute = Callable[[TrainingClip], Tensors]
Encode = Callable[[Tensor], Tensor]  # pixels [f, 3, h, w] -> scaled latents [f, 4, h / 8, w / 8]


class ClipFeature(Protocol):
    """Something known of every clip, as named tensors whose first dimension is time."""

    def rows(self, clip: TrainingClip, name: str, start: int, stop: int) -> Tensor:
        """Entries start ... stop - 1 of a tensor, fewer where it ends before."""

    def length(self, clip: TrainingClip, name: str) -> int:
        """Number of entries of a tensor."""


@dataclass(frozen=True)
class LiveFeature:
    """A feature that is computed whenever it is asked for and never kept."""

    compute: Compute

    def rows(self, clip: TrainingClip, name: str, start: int, stop: int) -> Tensor:
        return self.compute(clip)[name][start:stop]

    def length(self, clip: TrainingClip, name: str) -> int:
        return len(self.compute(clip)[name])


class CachedFeature:
    """A feature kept on disk. `make_compute` builds what computes it, a network perhaps, when the first clip lacks it.

    A feature goes to the readers in other processes, so `make_compute` is a function that can be named, or a partial of one.
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
        """Readers in other processes load what they need themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "compute"}

    def has(self, clip: TrainingClip) -> bool:
        return self.store.has(clip.key)

    def missing(self, clips: Sequence[TrainingClip]) -> list[TrainingClip]:
        """Clips for which nothing is kept, each content once."""
        return list({clip.key: clip for clip in clips if not self.has(clip)}.values())

    def fill(self, clips: Sequence[TrainingClip]) -> Iterator[TrainingClip]:
        """Compute and keep what is missing; yields every clip when it is done.

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
        """See `ClipFeature`; a missing or damaged file is made anew."""
        found = self.store.rows(clip.key, name, start, stop)
        return self._make(clip)[name][start:stop] if found is None else found

    def length(self, clip: TrainingClip, name: str) -> int:
        found = self.store.length(clip.key, name)
        return len(self._make(clip)[name]) if found is None else found

    def _make(self, clip: TrainingClip) -> Tensors:
        made = {name: value.detach().cpu() for name, value in self.compute(clip).items()}
        self.store.put(clip.key, made)
        return made


def mel_compute(clip: TrainingClip) -> Tensors:
    """`mel`, float32 [n, 80]: the SyncNet's spectrogram, time first."""
    return {"mel": sync_mel(clip.waveform()).T}


def mel_feature(cache_dir: Path | str) -> CachedFeature:
    """The SyncNet's mel spectrogram of every clip, as `mel`, float32 [n, 80]."""
    return CachedFeature(cache_dir, "mel", {}, _mel_maker)


def _mel_maker() -> Compute:
    return mel_compute


def whisper_compute(path: Path | str, device: torch.device) -> Compute:
    """Loads the speech encoder; gives `audio`, float16 [s, d, w], of clips."""
    listen = WhisperFeatures(load_audio_encoder(path).to(device))
    return lambda clip: {"audio": listen.features(clip.waveform()).half()}


def whisper_feature(cache_dir: Path | str, path: Path | str, device: torch.device | None = None) -> CachedFeature:
    """Hidden states of the speech encoder at `path` for every clip, as `audio`, float16 [s, d, w].

    Raises:
        ValueError: there is no encoder at `path`.
    """
    settings = {"network": network_key(path), "segments": "overlap", "type": "float16"}
    return CachedFeature(cache_dir, "whisper", settings, partial(whisper_compute, path, device or torch.device("cpu")))


def latents_compute(encode_pixels: Encode, mask: Tensor) -> Compute:
    """Gives `latents` and `masked_latents`, float16 [t, c, h, w], of clips; `mask` [r, r], 1 = keep."""

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
    """The encoder of the auto-encoder at `path`, one of this project's files or a folder of a public one.

    Latents are the posterior's means; bf16 and fp16 compute under autocast.
    """
    dtype = DTYPES[precision]
    vae = load_vae(path) if Path(path).is_file() else load_public_vae(path).eval().requires_grad_(False)
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
    """Latents of every clip's faces, plain and under `mask` [r, r], at the mask's resolution, float16 [t, 4, r / 8, r / 8].

    Raises:
        ValueError: there is no auto-encoder at `path`, or no such precision.
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
