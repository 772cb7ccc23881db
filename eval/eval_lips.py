"""Lips of results against the true ones: eval/eval_lips.sh --videos FILES [--truth FILES] [--source FILES] [--help].

Correlation of the lip opening with the truth and with the source, jitter, the jump at window borders and, with
--detector face_alignment, the landmark distance. A truth is a video, or the JSON file of an avatar clip.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from eval.networks import add_detector, add_videos, cache_of
from eval.rows import check_out, make_row, write_rows
from eval.videos import find_videos, pair_up
from latentsync.face.detection.detector import make_detector
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.lips.face_series import FaceSeries, face_series
from latentsync.metrics.lips.motion import WINDOW_FRAMES
from latentsync.metrics.lips.scores import at_frames, bounced, lip_scores
from latentsync.metrics.statistics import NO_TRUTH, UnscorableError
from scripts.command import run_command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval_lips.sh", description=__doc__)
    add_videos(parser, "videos (or .json files of avatars) with the true lips")
    add_detector(parser)
    add = parser.add_argument
    add("--source", type=Path, nargs="+", default=[], help="the inputs that the results were made from")
    add("--window", type=int, default=WINDOW_FRAMES, help="frames that were generated at once (default: %(default)s)")
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> int:
    check_out(args.out)
    truths = pair_up(find_videos(args.videos), args.truth)
    sources = pair_up([pair.video for pair in truths], args.source)
    detector, cache = make_detector(args.detector), cache_of(args)

    def score(video: Path, truth: Path | None, source: Path | None) -> dict[str, Any]:
        for given, partner in ((args.truth, truth), (args.source, source)):
            if given and partner is None:
                raise UnscorableError(NO_TRUTH, f"{video} has no partner of the same name in {given[0]}.")
        result = face_series(video, detector, cache)
        known = true_openings(truth) if truth and truth.suffix == ".json" else None
        shown = face_series(truth, detector, cache) if truth and known is None else None
        return lip_scores(result, shown, source_series(source, result, detector, cache), known, args.window)

    rows = (
        make_row(str(pair.video), lambda pair=pair, other=other: score(pair.video, pair.truth, other.truth))  # type: ignore[misc]
        for pair, other in zip(truths, sources, strict=True)
    )
    return write_rows(rows, args.out, {"detector": args.detector, "window": args.window, **left_out(args.detector)})


def left_out(detector: str) -> dict[str, Any]:
    if detector == "face_alignment":
        return {}
    return {"skipped": {"landmark_distance": "the cascade has no landmarks; use --detector face_alignment"}}


def source_series(source: Path | None, result: FaceSeries, detector: Any, cache: FeatureCache) -> FaceSeries | None:
    """The face of the source at the frames that the result shows: a short source is played back and forth."""
    if source is None:
        return None
    series = face_series(source, detector, cache)
    return at_frames(series, bounced(len(series), len(result)))


def true_openings(path: Path) -> np.ndarray:
    """Lip openings [t] in pixels from an avatar's truth."""
    try:
        return np.array(json.loads(path.read_text(encoding="utf-8"))["aperture_px"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnscorableError(
            NO_TRUTH, f"{path} is not the truth of an avatar clip: aperture_px is missing."
        ) from error


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("eval_lips", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
