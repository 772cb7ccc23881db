"""Picture quality of videos: eval/eval_quality.sh --videos FILES [--truth FILES] [--help].

HyperIQA needs no truth. PSNR, SSIM and LPIPS compare with the true video in the full frame, inside the mask, outside of
it, and on a ring of 8 pixels at its border. FID and CMMD compare the two sets. Without --metrics everything is computed
whose weights and truth are there, and the summary says what was left out and why.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from eval.networks import HYPER_IQA, add_detector, add_videos, cache_of
from eval.quality_metrics import METRICS, NEED_TRUTH, QualityScorer, set_distances
from eval.rows import check_out, make_row, write_rows
from eval.videos import find_videos, pair_up
from latentsync.device import pick_device
from latentsync.face.detection.detector import make_detector
from scripts.command import run_command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval_quality.sh", description=__doc__)
    add_videos(parser, "what the videos should look like")
    add_detector(parser)
    add = parser.add_argument
    add("--metrics", nargs="+", choices=METRICS, help="only these; an error if one cannot be computed")
    add("--hyper_iqa", type=Path, default=HYPER_IQA, help="HyperIQA's weights (default: %(default)s)")
    add("--inception", type=Path, help="TorchScript Inception for FID, such as inception-2015-12-05.pt")
    add("--clip", type=Path, help="TorchScript CLIP image encoder for CMMD, see docs/evaluation.md")
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> int:
    check_out(args.out)
    pairs = pair_up(find_videos(args.videos), args.truth)
    asked = args.metrics or [name for name in METRICS if args.truth or name not in NEED_TRUTH]
    if not args.truth and set(asked) & NEED_TRUTH:
        raise ValueError(
            f"{', '.join(sorted(set(asked) & NEED_TRUTH))} compare with the true video: give it with --truth."
        )
    networks, skipped = {}, {}
    for name in asked:
        try:
            networks[name] = METRICS[name](args, pick_device(args.device))
        except ValueError as error:
            if args.metrics:
                raise
            skipped[name] = str(error)
    if not networks:
        raise ValueError("; ".join(skipped.values()))
    scorer = QualityScorer(networks, make_detector(args.detector), cache_of(args))
    rows = [make_row(str(pair.video), lambda pair=pair: scorer(pair)) for pair in pairs]  # type: ignore[misc]
    facts: dict[str, Any] = {"metrics": list(networks), "skipped": skipped, "fingerprints": scorer.fingerprints}
    scored = [pair for pair, row in zip(pairs, rows, strict=True) if not row.reason]
    return write_rows(rows, args.out, {**facts, **set_distances(networks, scored, args.truth, cache_of(args))})


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("eval_quality", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
