"""The training clips of a U-Net run, and the features of its items: only those that its losses need."""

from collections.abc import Callable
from functools import lru_cache

import torch

from latentsync.config import UNetRun
from latentsync.data.clips import ClipIndex, TrainingClip
from latentsync.data.features import (
    CachedFeature,
    ClipFeature,
    Compute,
    LiveFeature,
    latents_feature,
    mel_feature,
    whisper_compute,
    whisper_feature,
)
from latentsync.data.frames import FrameMemory
from latentsync.data.unet_clips import UNetClips, min_frames
from latentsync.face.masks import load_mask
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.preparation import shared_index


def unet_index(run: UNetRun, processes: Processes) -> ClipIndex:
    """The index of the run's clips: usable ones, and those left out with the reason. All processes call it.

    Raises:
        ValueError: there are no clips, or none is usable.
    """
    index = shared_index(run.data, processes, min_frames(run.data.num_frames))
    if not index.clips:
        reasons = "; ".join(f"{clip.path} {clip.reason}" for clip in index.rejected[:3])
        raise ValueError(f"None of the {len(index.rejected)} clips can be used for training: {reasons}.")
    return index


def unet_items(run: UNetRun, clips: list[TrainingClip], device: torch.device) -> UNetClips:
    """The run's training items; features without a cache are computed on `device`."""
    data, mask = run.data, load_mask(run.data.resolution)
    return UNetClips(
        clips,
        data.num_frames,
        run.train.seed,
        audio=audio_feature(run, device),
        latents=cached_latents(run, device) if data.cached_latents else None,
        mel=mel_feature(data.cache_dir) if run.needs_mel else None,
        frames=FrameMemory(data.resolution, data.memory_bytes) if run.needs_pixels else None,
        mask=mask if run.needs_pixels else None,
        mirrored=data.mirrored,
        lanes=data.batch_size * run.train.gradient_accumulation,
    )


def audio_feature(run: UNetRun, device: torch.device) -> ClipFeature:
    """The clips' audio features, from the cache or computed for every item."""
    if run.data.cached_audio:
        return whisper_feature(run.data.cache_dir, run.frozen_networks.whisper, device)
    if run.data.num_workers:
        raise ValueError(
            "data.cached_audio=false runs the speech encoder in the training process: set data.num_workers=0."
        )
    return LiveFeature(last_result_cached(whisper_compute(run.frozen_networks.whisper, device)))


def cached_features(run: UNetRun, device: torch.device) -> list[CachedFeature]:
    """The cached features that the run needs; missing ones are computed on `device`."""
    features = (
        [whisper_feature(run.data.cache_dir, run.frozen_networks.whisper, device)] if run.data.cached_audio else []
    )
    if run.needs_mel:
        features.append(mel_feature(run.data.cache_dir))
    if run.data.cached_latents:
        features.append(cached_latents(run, device))
    return features


def last_result_cached(compute: Compute) -> Compute:
    """`compute` with its last result cached."""
    cached: Callable[[TrainingClip], dict[str, torch.Tensor]] = lru_cache(maxsize=1)(compute)
    return lambda clip: {name: value.cpu() for name, value in cached(clip).items()}


def cached_latents(run: UNetRun, device: torch.device | None = None) -> CachedFeature:
    """Latents of the clips, unmasked and masked, at the run's resolution; missing ones are computed on `device`."""
    mask = load_mask(run.data.resolution)
    return latents_feature(run.data.cache_dir, run.frozen_networks.vae, mask, run.data.latents_precision, device)
