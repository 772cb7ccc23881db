"""Scores of the demo models on unseen heads and sentences, see `scripts.score_demo`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from latentsync.data.aligned import NoFaceError, align_clip
from latentsync.data.clips import index_clips
from latentsync.data.frames import FrameMemory
from latentsync.data.settings import MIN_SHIFT
from latentsync.data.sync_clips import PixelPictures, load_sync_clip, min_frames
from latentsync.face.detection.detector import make_detector
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.metrics.sync.accuracy import accuracy
from latentsync.models.syncnet import load_syncnet
from latentsync.testing import (
    AUDIO_FROM,
    AutoencoderPipeline,
    LipScore,
    PictureScore,
    held_out_clips,
    lip_sync,
    score_lips,
    score_pictures,
)
from latentsync.training.syncnet.validate import embed_clips, offset_errors, score_embedded
from latentsync.weights import DEMO


@dataclass(frozen=True)
class DemoScores:
    """Scores of each clip, of the SyncNet, and the settings of inference that they were made with."""

    settings: InferenceSettings
    lips: list[LipScore]
    pictures: list[PictureScore]
    syncnet: dict[str, float]


def score_demo(
    count: int, shifts: range, limit_sec: float | None, changes: Mapping[str, Any], folder: Path
) -> DemoScores:
    """Draw `count` held-out clips in `folder`, lip-sync them to each other's audio and score the results.

    `shifts` are those of the SyncNet's audio, in frames; `changes` replace the checkpoint's settings of inference.
    """
    videos = held_out_clips(count, folder / "clips")
    models = LipsyncModels.load(DEMO_UNET)
    syncnet = score_syncnet(videos, shifts, models.resolution, folder)
    pipeline, autoencoder = LipsyncPipeline(models, make_detector()), AutoencoderPipeline(models, make_detector())
    settings, options = models.defaults.changed(changes), JobOptions(limit_sec=limit_sec)
    lips, pictures = [], []
    for i, video in enumerate(track(videos, "Lip-sync")):
        audio = videos[(i + AUDIO_FROM) % len(videos)]
        synced = lip_sync(pipeline, settings, video, audio, folder / "outputs", options)
        lips.append(score_lips(synced))
        pictures.append(score_pictures(synced, autoencoder, settings))
    return DemoScores(settings, lips, pictures, syncnet)


def score_syncnet(videos: list[Path], shifts: range, resolution: int, folder: Path) -> dict[str, float]:
    """Accuracy and offsets on the videos, aligned at `resolution`, that of the U-Net, like the training clips."""
    net, metadata = load_syncnet(DEMO / "syncnet.safetensors")
    frames = metadata["num_frames"]
    aligned = []
    for video in videos:
        try:
            aligned.append(align_clip(video, folder / "aligned" / video.name, make_detector(), resolution))
        except NoFaceError as error:
            print(f"left out of the SyncNet's scores: {error}")
    clips = index_clips(aligned, min_frames(frames), folder / "cache").clips
    pictures = PixelPictures(FrameMemory(metadata["resolution"], 0, lower_half=True))
    loaded = [load_sync_clip(clip, pictures) for clip in clips]
    errors = [
        offset_errors(net, sync, clip.waveform(), shifts, frames) for sync, clip in zip(loaded, clips, strict=True)
    ]
    within = np.abs(np.concatenate(errors)) <= 1
    min_shift = metadata.get("min_shift", MIN_SHIFT)
    embedded = [clip for clip in embed_clips(net, loaded, frames, min_shift) if clip]
    scores = score_embedded(embedded, min_shift)
    return {
        "accuracy": scores.accuracy,
        "threshold": scores.threshold,
        "accuracy_at_0.5": accuracy(scores.right, scores.wrong),
        "offset_within_1": float(within.mean()),
    }
