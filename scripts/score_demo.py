"""Score the demo models on unseen heads and sentences: `python -m scripts.score_demo [--short] [--json FILE]`.

Lips: every held-out video is lip-synced to the audio of another held-out clip. The lip opening measured in the output is correlated
with the truth of the new audio and with that of the old audio; the input video is scored for comparison.
Pictures: what the eye finds in the repainted face beside the true video (docs/evaluation.md, "What the eye sees"), and the same for
the true video that is merely encoded and decoded by the auto-encoder: no output of these models can be expected to be better.
SyncNet: accuracy on matching and mismatched pairs, and the offsets found for audio shifted by -5 ... +5 frames.
--short: fewer people, clips and shifts, for use during development; about three minutes on one core.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from latentsync.metrics.pictures.visible import MEASURES, Measure
from scripts.command import run_command

if TYPE_CHECKING:
    from latentsync.testing import LipScore, PictureScore
    from scripts.demo_scores import DemoScores

CLIPS = 16
SHIFTS = range(-5, 6)
SHORT_CLIPS, SHORT_SEC, SHORT_SHIFTS = 4, 3.0, range(-3, 4, 3)
NAMES = ("new", "old", "copied", "read")  # the correlations of a `LipScore`


def print_scores(lips: "list[LipScore]", syncnet: dict[str, float]) -> None:
    table = Table(
        "video", "audio", "new audio", "old audio", "input", "upper limit", title="Correlation of lip openings"
    )
    for row in lips:
        table.add_row(row.video, row.audio, *(f"{v:.2f}" for v in (row.new, row.old, row.copied, row.read)))
    table.add_section()
    table.add_row("mean", "", *(f"{np.mean(column):.2f}" for column in columns(lips)))
    console = Console()
    console.print(table)
    console.print(f"new audio >= 0.60 in {sum(row.new >= 0.6 for row in lips)} of {len(lips)}")
    console.print(
        f"SyncNet: accuracy {syncnet['accuracy']:.1%}, offset within 1 frame {syncnet['offset_within_1']:.1%}"
    )


def print_pictures(pictures: "list[PictureScore]") -> None:
    headings = ["output", "worst clip", "auto-encoder", "worst clip"]
    table = Table("mean over clips", *headings, "allowed", title="What the eye sees, beside the true video")
    for measure in MEASURES:
        shown = [
            [of_clip[measure.name] for of_clip in each if measure.name in of_clip] for each in kinds(pictures).values()
        ]
        cells = [
            marked(measure, value) for v in shown for value in ([float(np.mean(v)), measure.worst(v)] if v else [])
        ]
        table.add_row(measure.label, *cells, *[""] * (len(headings) - len(cells)), measure.bounds)
    console = Console()
    console.print(table)
    console.print("* outside the allowed bounds; auto-encoder: the true video, merely encoded, decoded and pasted")


def marked(measure: Measure, value: float) -> str:
    return f"{value:.{measure.digits}f}{' ' if measure.allows(value) else '*'}"


def kinds(pictures: "list[PictureScore]") -> dict[str, list[dict[str, float]]]:
    """The scores of each clip, of the outputs and of the auto-encoder alone."""
    return {"output": [row.output for row in pictures], "autoencoder": [row.autoencoder for row in pictures]}


def picture_summary(pictures: "list[PictureScore]") -> dict[str, Any]:
    """Mean, worst clip and bounds of each measure, then the scores of each clip."""
    found: dict[str, Any] = {"allowed": {measure.name: [measure.low, measure.high] for measure in MEASURES}}
    for kind, clips in kinds(pictures).items():
        values = {m: [of_clip[m.name] for of_clip in clips if m.name in of_clip] for m in MEASURES}
        found[kind] = {m.name: {"mean": float(np.mean(v)), "worst": m.worst(v)} for m, v in values.items() if v}
    return found | {"clips": [asdict(row) for row in pictures]}


def columns(lips: "list[LipScore]") -> list[list[float]]:
    return [[getattr(row, name) for row in lips] for name in NAMES]


def summary(found: "DemoScores") -> dict[str, object]:
    means = {name: float(np.mean(column)) for name, column in zip(NAMES, columns(found.lips), strict=True)}
    return {
        "settings": asdict(found.settings),
        "mean": means,
        "syncnet": found.syncnet,
        "lips": [asdict(row) for row in found.lips],
        "pictures": picture_summary(found.pictures),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, help="write the scores to this file")
    add("--data", type=Path, help="folder for clips and outputs (default: a temporary one)")
    add("--clips", type=int, help=f"number of clips (default: {CLIPS}, with --short {SHORT_CLIPS})")
    add("--short", action="store_true", help=f"few people, {SHORT_SEC:g} s of each")
    add("--settings", default="{}", help="inference settings that replace the checkpoint's, as JSON")
    return parser.parse_args(argv)


def score(args: argparse.Namespace) -> None:
    from scripts.demo_scores import score_demo  # imports PyTorch

    count = args.clips or (SHORT_CLIPS if args.short else CLIPS)
    shifts, limit_sec = (SHORT_SHIFTS, SHORT_SEC) if args.short else (SHIFTS, None)
    with tempfile.TemporaryDirectory() as temporary:
        found = score_demo(count, shifts, limit_sec, json.loads(args.settings), args.data or Path(temporary))
    print_scores(found.lips, found.syncnet)
    print_pictures(found.pictures)
    if args.json:
        args.json.write_text(json.dumps(summary(found), indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("score_demo", lambda: score(args))


if __name__ == "__main__":
    sys.exit(main())
