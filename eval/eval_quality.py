"""Picture quality of videos: eval/eval_quality.sh --videos FILES [--truth FILES] [--help].

HyperIQA needs no truth. PSNR, SSIM and LPIPS compare with the true video in the full frame, inside the mask, outside of
it, and on a ring of 8 pixels at its border. FID and CMMD compare the two sets. Without --metrics all metrics are
computed whose weights and truth are given, and the summary lists the others with the reason.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from eval.metrics import (
    LoadedNetwork,
    Metric,
    Sample,
    SetMetric,
    Tools,
    load_network,
    quality_metrics,
    set_distances,
)
from eval.networks import add_detector, add_videos, cache_of
from eval.rows import check_out, make_row, write_rows
from eval.videos import Pair, find_videos, pair_up
from latentsync.face.detection.detector import make_detector
from latentsync.metrics.statistics import NO_TRUTH, UnscorableError
from scripts.command import run_command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval_quality.sh", description=__doc__)
    add_videos(parser, "the true videos")
    add_detector(parser)
    add = parser.add_argument
    add("--metrics", nargs="+", choices=quality_metrics(), help="only these; an error if one cannot be computed")
    for weights in (metric.weights for metric in quality_metrics().values()):
        if weights and weights.option:
            default = f" (default: {weights.default})" if weights.default else ""
            add(f"--{weights.option}", type=Path, default=weights.default, help=weights.what + default)
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> int:
    check_out(args.out)
    pairs = pair_up(find_videos(args.videos), args.truth)
    known = quality_metrics()
    asked = args.metrics or [name for name, metric in known.items() if args.truth or metric.needs != "truth"]
    comparing = sorted(name for name in asked if known[name].needs == "truth")
    if comparing and not args.truth:
        raise ValueError(f"{', '.join(comparing)} compare with the true video: give it with --truth.")
    networks, skipped = load_networks(args, asked)
    chosen = [known[name] for name in asked if name not in skipped]
    if not chosen:
        raise ValueError("; ".join(skipped.values()))
    tools = Tools(make_detector(args.detector), cache_of(args), networks=networks)
    of_videos = [metric for metric in chosen if isinstance(metric, Metric)]
    rows = [make_row(str(pair.video), lambda pair=pair: score(pair, of_videos, tools)) for pair in pairs]  # type: ignore[misc]
    fingerprints = {name: loaded.fingerprint[:12] for name, loaded in networks.items()}
    facts = {"metrics": [metric.name for metric in chosen], "skipped": skipped, "fingerprints": fingerprints}
    scored = [pair.video for pair, row in zip(pairs, rows, strict=True) if not row.reason]
    of_sets = [metric for metric in chosen if isinstance(metric, SetMetric) and scored]
    return write_rows(
        rows, args.out, {**facts, **set_distances(of_sets, tools, scored, find_videos(args.truth) if of_sets else [])}
    )


def load_networks(args: argparse.Namespace, asked: list[str]) -> tuple[dict[str, LoadedNetwork], dict[str, str]]:
    """Networks by metric, and the reasons why metrics are left out; ValueError for a metric that `--metrics` requests."""
    from latentsync.device import pick_device

    known = quality_metrics()
    networks: dict[str, LoadedNetwork] = {}
    skipped: dict[str, str] = {}
    for name in asked:
        weights = known[name].weights
        try:
            if weights:
                networks[name] = load_network(weights, args, pick_device(args.device))
        except ValueError as error:
            if args.metrics:
                raise
            skipped[name] = str(error)
    return networks, skipped


def score(pair: Pair, metrics: list[Metric], tools: Tools) -> dict[str, Any]:
    """Scores of one video; UnscorableError or MediaError where there are none."""
    if pair.truth is None and any(metric.needs == "truth" for metric in metrics):
        raise UnscorableError(NO_TRUTH, f"No true video has the file name of {pair.video}.")
    sample = Sample(tools, pair.video, pair.truth)
    return {name: value for metric in metrics for name, value in metric.compute(sample).items()}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("eval_quality", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
