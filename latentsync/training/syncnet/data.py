"""The training and validation clips of a SyncNet run, and their cached features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from latentsync.config.syncnet_run import SyncNetRun
from latentsync.data.clips import ClipIndex, Progress, TrainingClip
from latentsync.data.features import CachedFeature, latents_feature, mel_feature
from latentsync.data.frames import FrameMemory
from latentsync.data.settings import WINDOWS_AN_ITEM
from latentsync.data.sync_clips import (
    Augmentation,
    LatentPictures,
    Pictures,
    PixelPictures,
    SyncClip,
    SyncClips,
    load_sync_clip,
    min_frames,
)
from latentsync.face.masks import load_mask
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.preparation import shared_index


@dataclass(frozen=True)
class SyncNetData:
    """The clips of a run and how their windows are read."""

    run: SyncNetRun
    training: ClipIndex
    validation: list[TrainingClip]
    pictures: Pictures
    mel: CachedFeature

    def items(self) -> SyncClips:
        """The training items; ValueError if there are too few clips."""
        data = self.run.data
        augmentation = Augmentation(data.jitter_px, data.brightness, data.mel_noise, data.mirrored)
        return SyncClips(
            self.training.clips,
            data.num_frames,
            self.run.train.seed,
            self.pictures,
            self.mel,
            data.min_shift,
            augmentation,
            lanes=data.batch_size // WINDOWS_AN_ITEM * self.run.train.gradient_accumulation,
        )

    def validation_clips(self) -> list[TrainingClip]:
        """The clips to score."""
        return self.validation[: self.run.validation.clips]

    def offset_clips(self) -> list[TrainingClip]:
        """Training clips, evenly spaced in the index: the offsets of their audio are measured."""
        clips = self.training.clips
        return clips[:: max(1, len(clips) // self.run.validation.offset_clips)]

    def whole(self, clips: Sequence[TrainingClip]) -> Iterator[SyncClip]:
        """Whole clips, one in memory at a time."""
        return (load_sync_clip(clip, self.pictures) for clip in clips)


def load_syncnet_data(run: SyncNetRun, processes: Processes, progress: Progress = iter) -> SyncNetData:
    """Index the clips of a run; without validation data some training clips are held out. All processes call it.

    Raises:
        ValueError: there are no clips, or too few usable ones.
    """
    data = run.data
    needed = min_frames(data.num_frames, data.min_shift)
    training = shared_index(data, processes, needed, progress=progress)
    if data.val_data_dir or data.val_fileslist:
        validation = shared_index(data, processes, needed, validation=True, progress=progress).clips
    else:
        training, validation = _held_out(training, run.validation.held_out_clips)
    if len(training.clips) < 2 or len(validation) < 2:
        reasons = "".join(f"\n  {clip.path}: {clip.reason}" for clip in training.rejected[:5])
        raise ValueError(
            f"A SyncNet needs at least two usable training clips and two validation clips; there are"
            f" {len(training.clips)} and {len(validation)}.{reasons}"
        )
    if data.latent_space:
        pictures: Pictures = LatentPictures(cached_latents(run), data.lower_half)
    else:
        pictures = PixelPictures(FrameMemory(data.resolution, data.memory_bytes, data.lower_half))
    return SyncNetData(run, training, validation, pictures, mel_feature(data.cache_dir))


def cached_features(run: SyncNetRun, device: torch.device) -> list[CachedFeature]:
    """The cached features that the run needs; missing ones are computed on `device`."""
    latents = [cached_latents(run, device)] if run.data.latent_space else []
    return [mel_feature(run.data.cache_dir), *latents]


def cached_latents(run: SyncNetRun, device: torch.device | None = None) -> CachedFeature:
    """Latents of faces for `data.latent_space`, shared with U-Net runs of this resolution; missing ones run on `device`."""
    data, mask = run.data, load_mask(run.data.resolution)
    return latents_feature(data.cache_dir, run.vae, mask, data.latents_precision, device)


def _held_out(index: ClipIndex, count: int) -> tuple[ClipIndex, list[TrainingClip]]:
    """Split off `count` evenly spaced clips, at most a tenth but at least two; returns the remaining index and these clips."""
    count = max(2, min(count, len(index.clips) // 10))
    chosen = {index.clips[i * len(index.clips) // count].path for i in range(count)} if index.clips else set()
    kept = [clip for clip in index.clips if clip.path not in chosen]
    return ClipIndex(kept, index.rejected), [clip for clip in index.clips if clip.path in chosen]
