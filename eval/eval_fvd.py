"""Frechet video distance between results and real videos: eval/eval_fvd.sh --videos FOLDER --truth FOLDER [--help].

It compares two sets, not pairs, by the faces in frames 20 to 35 of each video. A meaningful distance needs at least a few
dozen videos.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eval.networks import I3D, STAND_INS, add_detector, add_videos, cache_of
from eval.rows import ScoreRow, check_out, make_row, write_rows
from eval.videos import find_videos
from latentsync.face.detection.detector import make_detector
from latentsync.files import file_hash
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.pictures.set_distances import feature_statistics, frechet_distance
from latentsync.weights import load_torchscript
from scripts.command import run_command

RESAMPLES = 100
FEW = 100  # videos per set, below which the distance depends mostly on their number


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval_fvd.sh", description=__doc__)
    add_videos(parser, "real videos")
    add_detector(parser)
    parser.add_argument("--network", type=Path, default=I3D, help="the I3D TorchScript program (default: %(default)s)")
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> int:
    check_out(args.out)
    if not args.truth:
        raise ValueError("a Frechet distance compares two sets: give the real videos with --truth.")
    sets = {"result": find_videos(args.videos), "truth": find_videos(args.truth)}
    measure = measurer(args, cache_of(args))
    rows: list[ScoreRow] = []
    features: dict[str, list[np.ndarray]] = {}
    for name, videos in sets.items():
        vectors = {video: make_row(str(video), lambda v=video: {"features": measure(v)}) for video in videos}  # type: ignore[misc]
        features[name] = [row.scores["features"] for row in vectors.values() if not row.reason]
        rows += [row if row.reason else ScoreRow(row.video, {"set": name}) for row in vectors.values()]
    facts: dict[str, object] = {"network": args.network.name, "fingerprint": file_hash(args.network)[:12]}
    facts |= {"stand_ins": [STAND_INS[args.detector]] if args.detector in STAND_INS else []}
    return write_rows(rows, args.out, {**facts, **distance(features["result"], features["truth"])})


def measurer(args: argparse.Namespace, cache: FeatureCache) -> Callable[[Path], np.ndarray]:
    """A function from a video to its features [d]; raises CheckpointError if the network is missing."""
    from latentsync.metrics.pictures.set_features import i3d_features, scored_clip  # imports PyTorch

    network, detector = load_torchscript(args.network), make_detector(args.detector)
    weights = file_hash(args.network)

    def measure(video: Path) -> np.ndarray:
        key = ("i3d", weights, file_hash(video), args.detector)
        return cache.get(key, lambda: {"features": i3d_features(network, scored_clip(video, detector))})["features"]

    return measure


def distance(result: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, object]:
    """The distance with a bootstrap interval, and a note for small sets."""
    if min(len(result), len(truth)) < 2:
        return {"fvd": None, "note": "A distance needs at least two scored videos in each set."}
    # sorted, so that the order of the videos does not change the interval
    a, b = (np.array(sorted(vector.tolist() for vector in vectors)) for vectors in (result, truth))
    rng = np.random.default_rng(0)
    drawn = [
        frechet_distance(*(feature_statistics(x[rng.integers(0, len(x), len(x))]) for x in (a, b)))
        for _ in range(RESAMPLES)
    ]
    found: dict[str, object] = {
        "fvd": frechet_distance(feature_statistics(a), feature_statistics(b)),
        "sets": [len(a), len(b)],
    }
    found |= {"low": float(np.quantile(drawn, 0.025)), "high": float(np.quantile(drawn, 0.975))}
    if min(len(a), len(b)) < FEW:
        found["note"] = f"Sets with fewer than {FEW} videos: compare only with distances of sets of this size."
    return found


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("eval_fvd", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
