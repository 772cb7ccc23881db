"""Accuracy of a StableSyncNet on a data set: eval/eval_syncnet_acc.sh --videos FOLDER [--sync_model FILE] [--help].

Each window of each video is classified with its own audio and with a wrong one, which comes alternately from the same video,
at least six frames away, and from another video.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.networks import DEMO_SYNCNET, STAND_INS, add_detector, add_videos, cache_of, stable_judge
from eval.rows import ScoreRow, check_out, make_row, write_rows
from eval.videos import find_videos
from latentsync.files import file_hash
from latentsync.metrics.cache import FeatureCache
from latentsync.weights import read_checkpoint
from scripts.command import run_command

# What imports PyTorch is imported where it runs.
if TYPE_CHECKING:
    from latentsync.metrics.sync.accuracy import ClipEmbeddings
    from latentsync.metrics.sync.judge import StableJudge

MIN_SHIFT = 6  # frames between a window and wrong audio from the same video


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval_syncnet_acc.sh", description=__doc__)
    add_videos(parser)
    add_detector(parser)
    add = parser.add_argument
    add("--sync_model", default="demo", help="demo, or a StableSyncNet's file (default: %(default)s)")
    add("--config_path", type=Path, help="its training configuration, for a public file without metadata")
    add("--aligned", action="store_true", help="the videos are aligned faces, as data processing writes them")
    add(
        "--threshold",
        type=float,
        help="similarity above which a pair counts as right (default: the network's own, else 0.5)",
    )
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> int:
    from latentsync.device import pick_device
    from latentsync.metrics.sync.accuracy import THRESHOLD

    check_out(args.out)
    videos = find_videos(args.videos)
    path = DEMO_SYNCNET if args.sync_model == "demo" else Path(args.sync_model)
    detector = None if args.aligned else args.detector
    judge = stable_judge(path, pick_device(args.device), detector, args.config_path)
    threshold = args.threshold or float(read_checkpoint(path).metadata.get("threshold", THRESHOLD))
    rows = list(accuracy_rows(judge, videos, threshold, cache_of(args)))
    facts = {"network": judge.name, "fingerprint": judge.fingerprint, "threshold": threshold, "min_shift": MIN_SHIFT}
    stand_ins = [STAND_INS["demo"]] if args.sync_model == "demo" else []
    return write_rows(rows, args.out, {**facts, "stand_ins": stand_ins, **pooled(rows)})


def accuracy_rows(
    judge: "StableJudge", videos: list[Path], threshold: float, cache: FeatureCache
) -> Iterator[ScoreRow]:
    """One row per video, in the given order. The choice of wrong audio depends on the content of the videos alone."""
    from latentsync.metrics.sync.accuracy import judge_clip

    embedded = {video: make_row(str(video), lambda v=video: {"clip": embed(judge, v, cache)}) for video in videos}  # type: ignore[misc]
    usable = [video for video, row in embedded.items() if not row.reason]
    if len(usable) < 2:
        yield from (row for row in embedded.values() if row.reason)
        yield from (ScoreRow(str(v), reason="alone", detail="Wrong audio needs a second video.") for v in usable)
        return
    ring = sorted(usable, key=file_hash)
    clips = {video: embedded[video].scores["clip"] for video in usable}
    for video, row in embedded.items():
        if row.reason:
            yield row
        else:
            other = clips[ring[(ring.index(video) + 1) % len(ring)]]
            yield ScoreRow(str(video), judge_clip(clips[video], other, MIN_SHIFT, threshold))


def embed(judge: "StableJudge", video: Path, cache: FeatureCache) -> "ClipEmbeddings":
    import torch

    from latentsync.metrics.sync.accuracy import ClipEmbeddings
    from latentsync.metrics.sync.judge import embeddings, own_sound

    (lips, sound), *_ = embeddings(judge, video, own_sound(video), cache)
    known = ~torch.isnan(lips).any(dim=1)
    return ClipEmbeddings(lips[known], sound[known])


def pooled(rows: list[ScoreRow]) -> dict[str, Any]:
    """Accuracy over all windows of all videos; longer videos count more."""
    scored = [row.scores for row in rows if not row.reason]
    pairs = sum(scores["pairs"] for scores in scored)
    return {"accuracy_of_all_pairs": sum(s["accuracy"] * s["pairs"] for s in scored) / pairs if pairs else None}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("eval_syncnet_acc", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
