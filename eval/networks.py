"""The networks that judge, by the names that the commands take; stand-ins are chosen by name and named in the result."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsync.device import pick_device
from latentsync.face.detect import BACKENDS, FaceDetector, make_detector
from latentsync.losses.perceptual import load_perceptual_loss
from latentsync.metrics.box_detectors import DetectorBoxes, S3FDBoxes
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.face_tracks import FaceBoxes
from latentsync.metrics.sync_judge import ExpertJudge, StableJudge, SyncJudge
from latentsync.models.s3fd import load_s3fd
from latentsync.models.syncnet import SyncNetConfig
from latentsync.models.syncnet_checkpoint import load_syncnet
from latentsync.models.syncnet_v2 import load_syncnet_v2
from latentsync.weights import CHECKPOINTS, DEMO

AUXILIARY = CHECKPOINTS / "auxiliary"
EXPERT, S3FD_FILE = AUXILIARY / "syncnet_v2.model", AUXILIARY / "sfd_face.pth"
I3D, HYPER_IQA = AUXILIARY / "i3d_torchscript.pt", AUXILIARY / "koniq_pretrained.pkl"
DEMO_SYNCNET = DEMO / "syncnet.safetensors"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentsync" / "features"
STAND_INS = {
    "demo": "the demo SyncNet knows drawn heads only; its scores are no LSE-C and LSE-D",
    "cascade": "OpenCV's cascade stands in for the published detector; scores of real people differ a little",
}


def add_videos(parser: argparse.ArgumentParser, truth: str = "") -> None:
    """The arguments that every command takes; with `truth`, what `--truth` means for it."""
    add = parser.add_argument
    add("--videos", type=Path, nargs="+", required=True, help="video files, folders, or lists (.txt, one a line)")
    if truth:
        add("--truth", type=Path, nargs="+", default=[], help=f"{truth}; paired by name, or by line if both are lists")
    add("--out", type=Path, metavar="FILE.jsonl", help="write the lines there instead of to the screen")
    add("--cache", type=Path, default=CACHE, help="folder in which features are kept (default: %(default)s)")
    add("--no_cache", action="store_true", help="keep no features")
    add("--device", help="cpu, or a GPU (default: the best that there is)")


def add_detector(parser: argparse.ArgumentParser, default: str = "cascade") -> None:
    parser.add_argument("--detector", choices=BACKENDS, default=default, help="face detector (default: %(default)s)")


def cache_of(args: argparse.Namespace) -> FeatureCache:
    return FeatureCache(None if args.no_cache else args.cache)


def add_sync_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--sync_model",
        default="expert",
        help="expert (SyncNet v2, the published one), demo (stand-in for drawn heads), or a StableSyncNet's file",
    )
    add("--boxes", choices=("s3fd", "cascade"), default="s3fd", help="which detector finds faces for the expert")
    add("--published", action="store_true", help="the published evaluation's rules, flaws and all")


def sync_judge(args: argparse.Namespace, detector: FaceDetector | None) -> SyncJudge:
    """The judge that `--sync_model` names; CheckpointError if its weights are missing."""
    device = pick_device(args.device)
    if args.sync_model == "expert":
        net = load_syncnet_v2(EXPERT).to(device)
        return ExpertJudge(net, find_boxes(args.boxes, device), args.published)
    return stable_judge(DEMO_SYNCNET if args.sync_model == "demo" else Path(args.sync_model), device, detector)


def stable_judge(
    path: Path, device: torch.device, detector: FaceDetector | None, config: SyncNetConfig | None = None
) -> StableJudge:
    """A StableSyncNet; CheckpointError if the file is missing or does not say how it sees."""
    net, metadata = load_syncnet(path, config)
    resolution, num_frames = metadata.get("resolution"), metadata.get("num_frames")
    if resolution is None or num_frames is None:
        raise ValueError(f"{path} does not say how it sees (resolution, num_frames): take one that our trainer wrote.")
    return StableJudge(net.to(device), resolution, num_frames, detector)


def find_boxes(name: str, device: torch.device) -> FaceBoxes:
    if name == "cascade":
        return DetectorBoxes(make_detector("cascade"))
    return S3FDBoxes(load_s3fd(S3FD_FILE).to(device))


def judge_facts(args: argparse.Namespace, judge: SyncJudge) -> dict[str, Any]:
    """What a reader must know about the scores: the network, its fingerprint, and stand-ins."""
    used = [args.sync_model, args.boxes if args.sync_model == "expert" else "", getattr(args, "detector", "")]
    stand_ins = [STAND_INS[name] for name in dict.fromkeys(used) if name in STAND_INS]
    return {"network": judge.name, "fingerprint": judge.fingerprint, "stand_ins": stand_ins}


def lpips_map(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS (VGG-16) as a map [1, 1, h, w] of two pictures [1, 3, h, w]; CheckpointError if the weights are missing."""
    network = load_perceptual_loss().network.to(device)
    network.spatial = True

    @torch.no_grad()
    def distance(first: Tensor, second: Tensor) -> Tensor:
        return network(first.to(device), second.to(device))

    return distance
