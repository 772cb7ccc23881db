"""Drawn people with known degradations, their scores, and whether the scores rank them correctly."""

from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from eval.avatar_set import partner_of, seeds
from eval.networks import stable_judge
from latentsync.avatar.clip import AvatarClip, random_clip
from latentsync.device import pick_device
from latentsync.face.align import Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import DEFAULT_DETECTOR, make_detector
from latentsync.metrics.lips.leakage import paired_correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.metrics.statistics import summarise
from latentsync.metrics.sync.judge import StableJudge, score_pairs
from latentsync.metrics.sync.stable import embed_lips, embed_sound
from latentsync.timebase import samples_of_frames

SHIFTS = (1, 2, 4)
FACE_PX = 128  # side of the aligned faces
SMOOTH_FRAMES = 4.0  # standard deviation of the Gaussian that smooths the mouth movement over time
CLEAN, SMOOTHED, OTHER = "undamaged", "lips low-passed", "lips of another sentence"
SHIFTED = tuple(f"sound {shift} frame{'s' * (shift > 1)} late" for shift in SHIFTS)
KINDS = (CLEAN, *SHIFTED, SMOOTHED, OTHER)
# score -> whether larger is better
METRICS = {"sync_distance": False, "sync_confidence": True, "aperture_correlation": True}


@dataclass(frozen=True)
class Lips:
    """Features of drawn lips."""

    embeddings: Tensor  # [windows, D] of the SyncNet
    openings: NDArray[np.float32]  # [t], measured from the pixels


def damaged_lips(clip: AvatarClip, other: AvatarClip) -> dict[str, AvatarClip]:
    """The clip unchanged, with smoothed lips, and with the lips of another sentence."""
    tracks = {name: gaussian_filter1d(values, SMOOTH_FRAMES) for name, values in vars(clip.mouth).items()}
    length = min(len(clip.mouth), len(other.mouth))
    foreign = {name: values[:length] for name, values in vars(other.mouth).items()}
    return {
        CLEAN: clip,
        SMOOTHED: replace(clip, mouth=replace(clip.mouth, **tracks)),
        OTHER: replace(clip, mouth=replace(other.mouth, **foreign)),
    }


def measure_lips(judge: StableJudge, clip: AvatarClip) -> Lips:
    """Draw a clip and measure its lips."""
    detector, smoother, faces = make_detector(), Smoother(), []
    for frame in islice(clip.frames(), len(clip.mouth)):
        found = detector.points(frame)
        assert found is not None, "a drawn head is a face"
        faces.append(warp_face(frame, align_matrix(found.points, FACE_PX, smoother), FACE_PX))
    embeddings = embed_lips(judge.net, faces, judge.resolution, judge.num_frames)
    return Lips(embeddings, read_lips(np.stack(faces)))


def scores(judge: StableJudge, lips: Lips, clip: AvatarClip, late_frames: int) -> dict[str, float]:
    """Scores of lips under the audio of a clip, delayed by `late_frames`."""
    silence = np.zeros(samples_of_frames(late_frames), np.float32)
    sound = embed_sound(judge.net, np.concatenate([silence, clip.waveform]), judge.num_frames)
    count = min(len(lips.embeddings), len(sound))
    sync = score_pairs([(lips.embeddings[:count], sound[:count])])
    truth = np.concatenate([np.zeros(late_frames), clip.mouth.aperture])
    return {
        "sync_distance": sync.distance_as_heard,
        "sync_confidence": sync.confidence_as_heard,
        "aperture_correlation": paired_correlation(lips.openings, truth),
    }


def damage_scores(judge: StableJudge, clip: AvatarClip, other: AvatarClip) -> dict[str, dict[str, float]]:
    """Scores of one clip for each of `KINDS`."""
    seen = {kind: measure_lips(judge, damaged) for kind, damaged in damaged_lips(clip, other).items()}
    late = {CLEAN: 0, **dict(zip(SHIFTED, SHIFTS, strict=True)), SMOOTHED: 0, OTHER: 0}
    return {kind: scores(judge, seen.get(kind, seen[CLEAN]), clip, frames) for kind, frames in late.items()}


def table_of(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """One row per kind, with the summary of each score."""
    return [
        {"kind": kind, **{name: summarise(row[name] for row in rows).to_dict() for name in METRICS}}
        for kind, rows in found.items()
    ]


def wrong_ranks(rows: list[dict[str, Any]]) -> list[str]:
    """Pairs whose means are in the wrong order, one text each."""
    wrong = []
    for name, larger_is_better in METRICS.items():
        value = {row["kind"]: row[name]["mean"] * (1 if larger_is_better else -1) for row in rows}
        order = [*pairwise((CLEAN, *SHIFTED)), (CLEAN, SMOOTHED), (CLEAN, OTHER), (SHIFTED[0], OTHER)]
        wrong += [f"{name}: {worse} above {better}" for better, worse in order if value[better] <= value[worse]]
    return wrong


def rank_degradations(clips: int, sync_model: Path, device: str | None) -> dict[str, Any]:
    """The network's hash, one row for each of `KINDS` over the first `clips` drawn people, and what is ranked wrongly."""
    judge = stable_judge(sync_model, pick_device(device), DEFAULT_DETECTOR)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for seed in seeds(clips):
        for kind, row in damage_scores(judge, random_clip(seed), random_clip(partner_of(seed))).items():
            found[kind].append(row)
    rows = table_of(found)
    return {"clips": clips, "network": judge.fingerprint, "rows": rows, "wrong": wrong_ranks(rows)}
