"""Judges of sampled lips that take no part in the training: the true opening of drawn mouths, and SyncNet v2.

A sync network that teaches is a poor judge: its loss raises its own score, also where lips do not follow the audio better.

Legend: f frames, r face resolution in px.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.audio.mfcc import INT16_SCALE
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.metrics.sync.face_tracks import CROP_PX
from latentsync.metrics.sync.judge import score_pairs
from latentsync.metrics.sync.offset import embed_track
from latentsync.models.syncnet_v2 import SyncNetV2, load_syncnet_v2
from latentsync.weights import CHECKPOINTS

EXPERT_FILE = CHECKPOINTS / "auxiliary/syncnet_v2.model"
TRUTH, NEARNESS = "_truth", "_nearness"  # endings of measures: of the true clip, and how near to it
TAUGHT_BY_SYNCNET = ("sync", "silent_sync")  # measures by the SyncNet of the loss `sync`


@dataclass(frozen=True)
class Sides:
    """The same frames three times, uint8 [f, r, r, 3]: sampled with the clip's audio, with silence, and true."""

    spoken: NDArray[np.uint8]
    silent: NDArray[np.uint8]
    truth: NDArray[np.uint8]


def opening_measures(sides: Sides, aperture: NDArray[np.floating]) -> dict[str, float]:
    """Correlation of the lips' opening, as read from the faces, with the true opening `aperture` [f].

    `aperture`: of the sampled lips; `aperture_truth`: of the true lips, as far as the reader sees them; `silent_aperture`: of those
    sampled with silence, which should be about 0.
    """
    named = {"aperture": sides.spoken, "silent_aperture": sides.silent, f"aperture{TRUTH}": sides.truth}
    return {name: correlation(read_lips(faces), aperture) for name, faces in named.items()}


def expert_measures(net: SyncNetV2, sides: Sides, waveform: NDArray[np.floating]) -> dict[str, float]:
    """SyncNet v2's confidence at the offset 0, `confidence` of the sampled and `confidence_truth` of the true lips.

    `waveform`: the audio of these frames, float [n] at 16 kHz. The network gets whole aligned faces, not the crops of its own
    preparation, and a short window: compare the two values with each other, not with published ones.
    """
    found = {}
    for name, faces in {"confidence": sides.spoken, f"confidence{TRUTH}": sides.truth}.items():
        crops = [np.asarray(cv2.resize(face, (CROP_PX, CROP_PX)), np.uint8) for face in faces]
        with torch.no_grad():
            lips, sound = embed_track(net, crops, len(crops), np.asarray(waveform) * INT16_SCALE)
        if len(lips):
            found[name] = score_pairs([(lips.cpu(), sound.cpu())]).confidence_as_heard
    return found


def load_expert(device: torch.device, path: Path = EXPERT_FILE) -> SyncNetV2 | None:
    """SyncNet v2 where its file is installed."""
    return load_syncnet_v2(path).to(device) if path.is_file() else None


def mean_measures(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the clips that have a measure, and the nearness of every measure whose truth is measured too."""
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    pairs = {name: (means[name], means[f"{name}{TRUTH}"]) for name in means if f"{name}{TRUTH}" in means}
    return means | {f"{name}{NEARNESS}": nearness(*pair) for name, pair in pairs.items()}


def nearness(value: float, truth: float) -> float:
    """How near a measure is to that of the real video: 1 - |value - truth| / |truth|; 1 = equal."""
    return 1 - abs(value - truth) / max(abs(truth), 1e-6)
