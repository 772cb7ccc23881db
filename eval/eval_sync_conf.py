"""Sync confidence and offset of videos (LSE-C, LSE-D): eval/eval_sync_conf.sh --videos FILES [--help]."""

import argparse
import sys
from pathlib import Path

from eval.networks import add_detector, add_sync_model, add_videos, cache_of, judge_facts, sync_judge
from eval.rows import check_out, make_row, write_rows
from eval.videos import find_videos
from scripts.command import run_command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval_sync_conf.sh", description=__doc__)
    add_videos(parser)
    add_sync_model(parser)
    add_detector(parser)
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> int:
    from latentsync.metrics.sync.judge import sync_score  # imports PyTorch

    check_out(args.out)
    videos = find_videos(args.videos)
    judge = sync_judge(args)
    cache = cache_of(args)

    def score(video: Path) -> dict[str, float]:
        return sync_score(judge, video, cache, args.published).to_dict()

    rows = (make_row(str(video), lambda video=video: score(video)) for video in videos)  # type: ignore[misc]
    return write_rows(rows, args.out, judge_facts(args, judge))


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("eval_sync_conf", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
