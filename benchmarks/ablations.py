"""Ablations of the U-Net's second stage: the same short training with one setting changed at a time, for several seeds.

python -m benchmarks.ablations [--steps 100] [--seeds 1 2 3] [--clips 3] [--arms ...] [--out FILE.json]

Every run starts from the same first stage (`runs/demo/unet_stage1/unet.safetensors` of scripts/train_demo.sh) and trains on the
same clips. Finished runs and their scores are kept in --folder, so an interrupted command can be continued. Scores are those of
people who are not in any training set, lip-synced to the sentences of others. `sync`: similarity of the lips and the new audio by
the demo SyncNet, against which the run with sync loss was trained. `aperture`: correlation of the lip opening with the true one of
the new audio. `jitter`: acceleration of the opening, of unit variance, divided by that of the truth (1 = equally steady).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from benchmarks.table import report
from latentsync.avatar.clip import read_openings
from latentsync.config import UNetRun, load
from latentsync.face.detection.detector import make_detector
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.media.sound.read import read_audio
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.metrics.lips.motion import jitter
from latentsync.metrics.sync.stable import embed_lips, embed_sound
from latentsync.models.syncnet import load_syncnet
from latentsync.testing import AUDIO_FROM, face_matrices, faces_at, held_out_clips
from latentsync.training.unet.train import train_unet
from latentsync.weights import DEMO
from scripts.command import run_command

CONFIG = Path("configs/unet/demo_stage2.yaml")
FULL = "full: mixed noise, motion modules"
ARMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        FULL: (),
        "with sync loss": ("train.loss_weights.sync=0.05",),
        "without motion modules": ("model.use_motion_module=false",),
        "noise shared by all frames": ("objective.mixed_noise_alpha=1000",),
        "noise of every frame its own": ("objective.mixed_noise_alpha=0",),
    }
)
BATCH = 2  # windows per step
SCORES = ("sync", "aperture", "jitter")
Pair = tuple[Path, Path]  # video, and the clip whose audio it is lip-synced to


def train(arm: str, seed: int, steps: int, folder: Path) -> Path:
    """Path of the weights of one run, which is trained unless it is already finished."""
    weights = folder / "unet.safetensors"
    if not weights.is_file():
        length = [f"train.max_steps={steps}", f"train.checkpoint_steps={steps}", f"train.seed={seed}"]
        items = [f"data.batch_size={BATCH}", f"data.train_output_dir={folder}"]
        run = load(CONFIG, UNetRun, [*length, *items, *ARMS[arm]])
        trained = train_unet(run)
        trained.file.save(weights, trained.trainer.averaged_state(), steps)
    return weights


def score(weights: Path, pairs: Sequence[Pair], folder: Path) -> dict[str, float]:
    """Means over the pairs."""
    pipeline = LipsyncPipeline(LipsyncModels.load(weights), make_detector())
    rows = [score_pair(pipeline, video, audio, folder / f"{video.stem}.mp4") for video, audio in pairs]
    return {name: float(np.mean([row[name] for row in rows])) for name in SCORES}


def score_pair(pipeline: LipsyncPipeline, video: Path, audio: Path, output: Path) -> dict[str, float]:
    report = pipeline(video, audio, output, force=True)
    matrices = face_matrices(video, pipeline.models.resolution)
    places = [matrices[frame.source] for frame in report.per_frame]
    return score_faces(faces_at(output, places, pipeline.models.resolution), audio)


def score_faces(faces: np.ndarray, audio: Path) -> dict[str, float]:
    truth = read_openings(audio)[: len(faces)]
    lips = read_lips(faces)[: len(truth)]
    steady = jitter(lips / lips.std()) / jitter(truth / truth.std())
    return {"sync": sync_score(faces, audio), "aperture": correlation(lips, truth), "jitter": steady}


def sync_score(faces: np.ndarray, audio: Path) -> float:
    """Mean similarity of lips and sound, -1 ... 1."""
    net, facts = load_syncnet(DEMO / "syncnet.safetensors")
    lips = embed_lips(net, faces, facts["resolution"], facts["num_frames"])
    sound = embed_sound(net, read_audio(audio), facts["num_frames"])
    count = min(len(lips), len(sound))
    return float(torch.cosine_similarity(lips[:count], sound[:count]).mean())


def scores_of(arm: str, seed: int, args: argparse.Namespace, pairs: Sequence[Pair]) -> dict[str, float]:
    """Scores of one run, read from its folder if they were stored there."""
    folder = args.folder / f"{list(ARMS).index(arm)}-{seed}-{args.steps}"
    known = folder / f"scores-{args.clips}.json"
    if not known.is_file():
        print(f"{arm}, seed {seed}", flush=True)
        known.write_text(json.dumps(score(train(arm, seed, args.steps, folder), pairs, folder)), encoding="utf-8")
    found: dict[str, float] = json.loads(known.read_text(encoding="utf-8"))
    return found


def row_of(arm: str, runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean and spread (standard deviation over the seeds) of every score."""
    values = {name: [run[name] for run in runs] for name in SCORES}
    spread = {name: float(np.std(found, ddof=1)) if len(found) > 1 else 0.0 for name, found in values.items()}
    return {"": arm, **{name: f"{np.mean(values[name]):.3f} ± {spread[name]:.3f}" for name in SCORES}}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    made = held_out_clips(args.clips + AUDIO_FROM, args.folder / "clips")
    pairs = [(made[index], made[index + AUDIO_FROM]) for index in range(args.clips)]
    runs = {arm: [scores_of(arm, seed, args, pairs) for seed in args.seeds] for arm in args.arms}
    rows = [row_of(arm, found) for arm, found in runs.items()]
    report("ablations", rows, args.out, steps=args.steps, seeds=args.seeds, clips=args.clips, runs=runs)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("ablations", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
