"""Networks of the evaluation commands by the names of their options. Stand-ins are listed in the summary."""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.face.detection.detector import BACKENDS, DEFAULT_DETECTOR, make_detector
from latentsync.metrics.cache import FeatureCache
from latentsync.weights import CHECKPOINTS, DEFAULT_ALIGNMENT, DEMO, read_checkpoint, release_of

# What imports PyTorch is imported where a network is loaded: the help of the commands does without.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from latentsync.metrics.sync.face_tracks import FaceBoxes
    from latentsync.metrics.sync.judge import StableJudge, SyncJudge

AUXILIARY = CHECKPOINTS / "auxiliary"
EXPERT, S3FD_FILE = AUXILIARY / "syncnet_v2.model", AUXILIARY / "sfd_face.pth"
I3D, HYPER_IQA = AUXILIARY / "i3d_torchscript.pt", AUXILIARY / "koniq_pretrained.pkl"
DEMO_SYNCNET = DEMO / "syncnet.safetensors"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentsync" / "features"
STAND_INS = {
    "demo": "the demo SyncNet is trained on drawn heads; its scores are not LSE-C and LSE-D",
    "cascade": "OpenCV's cascade replaces the published detector; scores of real people differ a little",
    "mesh": "a face mesh replaces the published detector; scores of real people differ a little",
}


def add_videos(parser: argparse.ArgumentParser, truth: str = "") -> None:
    """Add the arguments of all commands; `truth` is the help of `--truth`, which is left out without it."""
    add = parser.add_argument
    add("--videos", type=Path, nargs="+", required=True, help="video files, folders, or lists (.txt, one a line)")
    if truth:
        add("--truth", type=Path, nargs="+", default=[], help=f"{truth}; paired by name, or by line if both are lists")
    add("--out", type=Path, metavar="FILE.jsonl", help="write the lines to this file instead of stdout")
    add("--cache", type=Path, default=CACHE, help="folder of cached features (default: %(default)s)")
    add("--no_cache", action="store_true", help="do not cache features")
    add("--device", help="cpu, or a GPU (default: the best available)")


def add_detector(parser: argparse.ArgumentParser, default: str = DEFAULT_DETECTOR) -> None:
    parser.add_argument("--detector", choices=BACKENDS, default=default, help="face detector (default: %(default)s)")


def cache_of(args: argparse.Namespace) -> FeatureCache:
    return FeatureCache(None if args.no_cache else args.cache)


def add_sync_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--sync_model",
        default="expert",
        help="expert (the published SyncNet v2), demo (stand-in for drawn heads), or the file of a StableSyncNet",
    )
    add("--boxes", choices=("s3fd", "cascade", "mesh"), default="s3fd", help="face detector for SyncNet v2 (expert)")
    add("--published", action="store_true", help="use the rules of the published evaluation, including their flaws")


def sync_judge(args: argparse.Namespace) -> "SyncJudge":
    """The judge of `--sync_model`, with the detector of `--detector` if it needs one; CheckpointError if weights are missing."""
    from latentsync.device import pick_device
    from latentsync.metrics.sync.judge import ExpertJudge
    from latentsync.models.syncnet_v2 import load_syncnet_v2

    device = pick_device(args.device)
    if args.sync_model == "expert":
        net = load_syncnet_v2(EXPERT).to(device)
        return ExpertJudge(net, find_boxes(args.boxes, device), args.published)
    return stable_judge(DEMO_SYNCNET if args.sync_model == "demo" else Path(args.sync_model), device, args.detector)


def stable_judge(
    path: Path, device: "torch.device", detector: str | None, config_path: Path | None = None
) -> "StableJudge":
    """A judge with a StableSyncNet on pixels.

    Args:
        path: the checkpoint.
        device: where the network runs.
        detector: name of the detector that aligns faces as in the network's training; None if videos are aligned faces.
        config_path: training configuration, for a public file without metadata.

    Raises:
        CheckpointError: the file is missing.
        ValueError: model, resolution or number of frames are unknown, or the network uses latents or whole faces.
    """
    from latentsync.config.loading import load
    from latentsync.config.syncnet_run import SyncNetRun
    from latentsync.metrics.sync.judge import StableJudge
    from latentsync.models.syncnet import SyncNetConfig, load_syncnet

    run = load(config_path, SyncNetRun) if config_path else None
    seen = {**({"model": run.model, **asdict(run.data)} if run else {}), **read_checkpoint(path).metadata}
    if not {"model", "resolution", "num_frames"} <= seen.keys():
        raise ValueError(
            f"{path} has no metadata (model, resolution, num_frames): give its training configuration with --config_path."
        )
    if seen.get("latent_space", False) or not seen.get("lower_half", True):
        raise ValueError(f"{path} does not use the pixels of the lower face: give a SyncNet that does.")
    net, _ = load_syncnet(path, SyncNetConfig.from_dict(run.model) if run else None)
    released = release_of(path)
    alignment = seen.get("alignment") or (released.alignment if released else DEFAULT_ALIGNMENT)
    found = make_detector(detector, alignment=alignment) if detector else None
    return StableJudge(net.to(device), seen["resolution"], seen["num_frames"], found)


def find_boxes(name: str, device: "torch.device") -> "FaceBoxes":
    from latentsync.metrics.sync.box_detectors import DetectorBoxes, S3FDBoxes
    from latentsync.models.s3fd import load_s3fd

    if name != "s3fd":
        return DetectorBoxes(make_detector(name))
    return S3FDBoxes(load_s3fd(S3FD_FILE).to(device))


def judge_facts(args: argparse.Namespace, judge: "SyncJudge") -> dict[str, Any]:
    """Facts for the summary: network, fingerprint, stand-ins."""
    used = [args.sync_model, args.boxes if args.sync_model == "expert" else "", getattr(args, "detector", "")]
    stand_ins = [STAND_INS[name] for name in dict.fromkeys(used) if name in STAND_INS]
    return {"network": judge.name, "fingerprint": judge.fingerprint, "stand_ins": stand_ins}


def lpips_map(device: "torch.device") -> Callable[["Tensor", "Tensor"], "Tensor"]:
    """LPIPS (VGG-16) as a map [1, 1, h, w] of two images [1, 3, h, w]; CheckpointError if the weights are missing."""
    import torch

    from latentsync.losses.perceptual import load_perceptual_loss

    network = load_perceptual_loss().network.to(device)
    network.spatial = True

    @torch.no_grad()
    def distance(first: "Tensor", second: "Tensor") -> "Tensor":
        return network(first.to(device), second.to(device))

    return distance
