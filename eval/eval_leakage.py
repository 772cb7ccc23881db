"""Leakage of the old lips into results: eval/eval_leakage.sh --videos SOURCES [--model demo|FILE] [--help].

Each source is lip-synced to silence (measured: opening and movement of the mouth) and to other audio (measured: correlation
of the new lips with the old ones). --silent_results and --other_results score finished results instead.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eval.clip_sets import EvalClip, write_sound
from eval.networks import add_detector, add_videos, cache_of
from eval.rows import check_out, make_row, write_rows
from eval.videos import find_videos, pair_up
from latentsync.face.detection.detector import make_detector
from latentsync.media.probe import probe
from latentsync.media.sound.read import read_audio
from latentsync.metrics.lips.face_series import FaceSeries, face_series
from latentsync.metrics.lips.leakage import paired_correlation, silent_mouth
from latentsync.metrics.lips.scores import at_frames, bounced, openings
from latentsync.metrics.statistics import NO_OUTPUT, UnscorableError
from latentsync.timebase import frames_in, samples_of_frames
from scripts.command import run_command

Result = Callable[[Path], Path]  # source -> result; raises UnscorableError without one


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval_leakage.sh", description=__doc__)
    add_videos(parser)
    add_detector(parser)
    add = parser.add_argument
    add("--model", default="demo", help="demo (a stand-in, drawn heads only) or a U-Net's file (default: %(default)s)")
    add("--audio", type=Path, help="the other audio (default: that of the next video in the list)")
    add("--max_sec", type=float, default=4.0, help="longest result in seconds (default: %(default)s)")
    add("--work", type=Path, help="keep the results in this folder (default: a temporary one)")
    add("--silent_results", type=Path, nargs="+", default=[], help="finished results under silence, paired by name")
    add("--other_results", type=Path, nargs="+", default=[], help="finished results under other audio, paired by name")
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> int:
    check_out(args.out)
    sources = find_videos(args.videos)
    with tempfile.TemporaryDirectory() as temporary:
        results, facts = finished(args, sources) if given(args) else made(args, sources, args.work or Path(temporary))
        detector, cache = make_detector(args.detector), cache_of(args)

        def score(source: Path) -> dict[str, Any]:
            before = face_series(source, detector, cache)
            series = {name: face_series(result(source), detector, cache) for name, result in results.items()}
            return leakage(before, series)

        rows = (make_row(str(source), lambda source=source: score(source)) for source in sources)  # type: ignore[misc]
        return write_rows(rows, args.out, {"detector": args.detector, **facts})


def leakage(source: FaceSeries, results: dict[str, FaceSeries]) -> dict[str, Any]:
    """Scores of the results of one source: under silence (`silent`) and under other audio (`other`), if given."""
    found: dict[str, Any] = {}
    for name, result in results.items():
        shown = openings(at_frames(source, bounced(len(source), len(result))))
        if name == "silent":
            mouth = silent_mouth(openings(result), shown).to_dict()
            found |= {f"silent_{key}": value for key, value in mouth.items()}
        else:
            found["old_lips_correlation"] = paired_correlation(openings(result), shown)
    return found


def given(args: argparse.Namespace) -> bool:
    return bool(args.silent_results or args.other_results)


def finished(args: argparse.Namespace, sources: list[Path]) -> tuple[dict[str, Result], dict[str, Any]]:
    """Finished results from folders."""

    def lookup(partners: list[Path]) -> Result:
        found = {pair.video: pair.truth for pair in pair_up(sources, partners)}

        def result(source: Path) -> Path:
            path = found[source]
            if path is None:
                raise UnscorableError(NO_OUTPUT, f"{source} has no result of the same name in {partners[0]}.")
            return path

        return result

    folders = {"silent": args.silent_results, "other": args.other_results}
    return {name: lookup(paths) for name, paths in folders.items() if paths}, {"results": "finished"}


def made(args: argparse.Namespace, sources: list[Path], work: Path) -> tuple[dict[str, Result], dict[str, Any]]:
    """Results that the pipeline computes on demand."""
    from eval.systems import ours  # imports PyTorch

    system = ours(args.model, args.device)
    facts = system.facts()  # loads the models, so that missing files are reported first

    def run(source: Path, task: str) -> Path:
        count = min(frames_in(args.max_sec), frames_in(probe(source).duration_sec))
        other = args.audio or sources[(sources.index(source) + 1) % len(sources)]
        waveform = np.zeros(samples_of_frames(count), np.float32) if task == "silent" else read_audio(other)
        folder = work / f"{sources.index(source):04d}"
        folder.mkdir(parents=True, exist_ok=True)
        sound = folder / f"{task}.wav"
        write_sound(sound, waveform, count)
        return system.make(EvalClip(source.stem, task, source, sound), folder / f"{source.stem}_{task}.mp4")[0]

    def runner(task: str) -> Result:
        return lambda source: run(source, task)

    return {task: runner(task) for task in ("silent", "other")}, {"system": facts}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("eval_leakage", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
