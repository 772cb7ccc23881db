"""What eval_quality can compute: how each network is loaded, and the scores of one video and of two sets."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eval.networks import lpips_map
from eval.videos import Pair, find_videos
from latentsync.face.detection.detector import FaceDetector
from latentsync.files import file_hash, network_hash
from latentsync.losses.perceptual import VGG_FILE
from latentsync.media.video.read import read_frames
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.lips.face_series import face_series
from latentsync.metrics.pictures.compare import compare_pictures
from latentsync.metrics.pictures.discrepancy import cmmd
from latentsync.metrics.pictures.frechet import feature_statistics, frechet_distance
from latentsync.metrics.pictures.set_features import clip_features, inception_features, spread_frames
from latentsync.metrics.statistics import NO_TRUTH, UnscorableError
from latentsync.models.hyper_iqa import HyperIQA, load_hyper_iqa, quality_frames, quality_inputs
from latentsync.weights import load_torchscript

Loader = Callable[[argparse.Namespace, torch.device], Any]


def torchscript(option: str, what: str) -> Loader:
    """Loads the program that an option names."""

    def load(args: argparse.Namespace, device: torch.device) -> Any:
        path = getattr(args, option)
        if path is None:
            raise ValueError(f"no --{option} was given ({what})")
        return path, load_torchscript(path)

    return load


METRICS: Mapping[str, Loader] = {
    "hyper_iqa": lambda args, device: load_hyper_iqa(args.hyper_iqa).to(device),
    "psnr_ssim": lambda args, device: True,
    "lpips": lambda args, device: lpips_map(device),
    "fid": torchscript("inception", "a TorchScript Inception"),
    "cmmd": torchscript("clip", "a TorchScript CLIP image encoder"),
}
NEED_TRUTH = {"psnr_ssim", "lpips", "fid", "cmmd"}
SET_METRICS = {"fid": inception_features, "cmmd": clip_features}


class QualityScorer:
    """Scores of one video after the other."""

    def __init__(self, networks: Mapping[str, Any], detector: FaceDetector, cache: FeatureCache) -> None:
        self.networks, self.detector, self.cache = networks, detector, cache
        self.fingerprints = {name: network_hash(n) for name, n in networks.items() if isinstance(n, nn.Module)}
        self.fingerprints |= {name: file_hash(networks[name][0])[:12] for name in SET_METRICS if name in networks}
        if "lpips" in networks:
            self.fingerprints["lpips"] = file_hash(VGG_FILE)[:12]

    def __call__(self, pair: Pair) -> dict[str, float]:
        """Numbers by name; UnscorableError or MediaError where there are none."""
        scores: dict[str, float] = {}
        if "hyper_iqa" in self.networks:
            scores["hyper_iqa"] = self.hyper_iqa(self.networks["hyper_iqa"], pair.video)
        if {"psnr_ssim", "lpips"} & set(self.networks):
            scores |= self.against_truth(pair)
        return scores

    def against_truth(self, pair: Pair) -> dict[str, float]:
        if pair.truth is None:
            raise UnscorableError(NO_TRUTH, f"{pair.video} has no partner of its name among the true videos.")
        series = face_series(pair.truth, self.detector, self.cache)
        found = compare_pictures(pair.video, pair.truth, series.matrices, self.networks.get("lpips"))
        return found if "psnr_ssim" in self.networks else {k: v for k, v in found.items() if k.startswith("lpips")}

    def hyper_iqa(self, network: HyperIQA, video: Path) -> float:
        """Mean quality of the first, the middle and the last frame."""
        key = ("hyper_iqa", file_hash(video), self.fingerprints["hyper_iqa"])
        return float(self.cache.get(key, lambda: {"scores": quality_scores(network, video)})["scores"].mean())


@torch.no_grad()
def quality_scores(network: HyperIQA, video: Path) -> np.ndarray:
    """HyperIQA of three frames, [3], one at a time."""
    wanted = quality_frames(sum(1 for _ in read_frames(video)))
    chosen = {index: shown.frame for index, shown in enumerate(read_frames(video)) if index in wanted}
    parameter = next(network.parameters())
    inputs = quality_inputs(torch.from_numpy(np.stack([chosen[index] for index in wanted]))).to(parameter)
    return torch.cat([network(each[None]) for each in inputs]).cpu().numpy()


def set_distances(
    networks: Mapping[str, Any], pairs: Sequence[Pair], truth: Sequence[Path], cache: FeatureCache
) -> dict[str, Any]:
    """FID and CMMD between all scored videos and all true ones, where their networks are there."""
    found: dict[str, Any] = {}
    for name in [metric for metric in SET_METRICS if metric in networks and pairs]:
        path, network = networks[name]
        videos, real = [pair.video for pair in pairs], find_videos(truth)
        features = [
            np.concatenate([_features(name, path, network, v, cache) for v in group]) for group in (videos, real)
        ]
        found[name] = cmmd(*features) if name == "cmmd" else frechet_distance(*map(feature_statistics, features))
        found[f"{name}_pictures"] = [len(each) for each in features]
        if name == "fid" and min(found["fid_pictures"]) < 2048:
            found["note"] = "FID of fewer than 2048 pictures is mostly a matter of their number."
    return found


def _features(name: str, path: Path, network: Any, video: Path, cache: FeatureCache) -> np.ndarray:
    key = (name, file_hash(path), file_hash(video))
    return cache.get(key, lambda: {"features": SET_METRICS[name](network, spread_frames(video))})["features"]
