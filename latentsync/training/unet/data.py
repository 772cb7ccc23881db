"""The training clips of a U-Net's run, and the features an item holds: only those that the run's losses need."""

from collections.abc import Callable
from functools import lru_cache

import torch

from latentsync.config import UNetRun
from latentsync.data.clips import ClipIndex, TrainingClip, find_clips, index_clips
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

NEEDS_PIXELS = ("lpips", "trepa")


def unet_index(run: UNetRun) -> ClipIndex:
    """The clips that the run can train on, and those left out with the reason.

    Raises:
        ValueError: there is no data, or none of it can be used.
    """
    data = run.data
    paths = find_clips(data.train_data_dir, data.train_fileslist)
    index = index_clips(paths, min_frames(data.num_frames), data.cache_dir, data.reader)
    if not index.clips:
        reasons = "; ".join(f"{clip.path} {clip.reason}" for clip in index.rejected[:3])
        raise ValueError(f"None of the {len(paths)} clips can be trained on: {reasons}.")
    return index


def unet_items(run: UNetRun, clips: list[TrainingClip], device: torch.device) -> UNetClips:
    """The run's items; features that are not kept run on `device`."""
    data, mask = run.data, load_mask(run.data.resolution)
    shows_pixels = not data.cached_latents or any(loss in run.pixel_losses for loss in NEEDS_PIXELS)
    return UNetClips(
        clips,
        data.num_frames,
        run.train.seed,
        audio=audio_of(run, device),
        latents=cached_latents(run, device) if data.cached_latents else None,
        mel=mel_feature(data.cache_dir) if "sync" in run.pixel_losses else None,
        frames=FrameMemory(data.resolution, data.memory_bytes) if shows_pixels else None,
        mask=mask if shows_pixels else None,
    )


def audio_of(run: UNetRun, device: torch.device) -> ClipFeature:
    """The U-Net's audio features of clips, cached or computed for every item."""
    if run.data.cached_audio:
        return whisper_feature(run.data.cache_dir, run.frozen_networks.whisper, device)
    if run.data.num_workers:
        raise ValueError(
            "data.cached_audio=false runs the speech encoder in the training process: set data.num_workers=0."
        )
    return LiveFeature(newest_kept(whisper_compute(run.frozen_networks.whisper, device)))


def cached_features(run: UNetRun, device: torch.device) -> list[CachedFeature]:
    """What the run's training reads from the cache; what is missing is computed on `device`."""
    features = (
        [whisper_feature(run.data.cache_dir, run.frozen_networks.whisper, device)] if run.data.cached_audio else []
    )
    if "sync" in run.pixel_losses:
        features.append(mel_feature(run.data.cache_dir))
    if run.data.cached_latents:
        features.append(cached_latents(run, device))
    return features


def newest_kept(compute: Compute) -> Compute:
    """`compute` with the result of the last clip cached."""
    remembered: Callable[[TrainingClip], dict[str, torch.Tensor]] = lru_cache(maxsize=1)(compute)
    return lambda clip: {name: value.cpu() for name, value in remembered(clip).items()}


def cached_latents(run: UNetRun, device: torch.device | None = None) -> CachedFeature:
    """The auto-encoder's latents of clips at the run's resolution, under the network's mask; computed on `device`."""
    mask = load_mask(run.data.resolution)
    return latents_feature(run.data.cache_dir, run.frozen_networks.vae, mask, run.data.latents_precision, device)
