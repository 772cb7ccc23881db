"""Presets in whole jobs: `python -m benchmarks.preset_jobs [--rounds 3] [--clips 16] [--precision fp32] [--out FILE.json]`.

Seconds are those of a whole job on the demo pair, from reading the inputs to the finished file, without loading the networks; the
presets alternate. `new sound` is the mean correlation of the lip opening with the truth of the new audio over held-out drawn people
who speak each other's sentences (computed as in `scripts.score_demo`); `lowest` is that of the worst clip.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.table import report
from latentsync.device import DTYPES, Precision
from latentsync.face.detection.detector import make_detector
from latentsync.inference.model_files import DEMO_UNET, distilled_companion
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import PRESETS, InferenceSettings, needs_distilled, precision_of
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO
from latentsync.testing import AUDIO_FROM, held_out_clips, lip_sync, score_lips
from scripts.command import run_command

Way = tuple[LipsyncPipeline, InferenceSettings]


def ways(unet: Path, precision: Precision | None = None) -> dict[str, Way]:
    """Every preset with its networks; one that needs distilled networks is left out if they are missing."""
    found: dict[str, Way] = {}
    for name in PRESETS:
        path = distilled_companion(unet) if needs_distilled({"preset": name}) else unet
        models = LipsyncModels.load(path, precision=precision or precision_of(name))
        settings = models.defaults.changed({"preset": name})
        if settings.needs_distilled_weights == models.distilled:
            found[name] = LipsyncPipeline(models, make_detector()), settings
    return found


def seconds(way: Way, folder: Path) -> float:
    """Seconds of one whole job on the demo pair."""
    pipeline, settings = way
    begun = time.perf_counter()
    pipeline(DEMO_VIDEO, DEMO_AUDIO, folder / "timed.mp4", settings, force=True)
    return time.perf_counter() - begun


def correlations(way: Way, videos: Sequence[Path], folder: Path) -> list[float]:
    """Correlation of the lip opening with the truth of the new audio, for each video with the audio of another one."""
    pairs = [(video, videos[(i + AUDIO_FROM) % len(videos)]) for i, video in enumerate(videos)]
    return [score_lips(lip_sync(*way, *pair, folder)).new for pair in track(pairs, way[1].preset)]


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each preset; columns that are not requested are left out."""
    found = ways(args.unet, args.precision)
    rows: dict[str, dict[str, Any]] = {
        name: {"preset": name, "vae": way[1].vae, "precision": precision_name(way)} for name, way in found.items()
    }
    if args.rounds:
        sec = median_seconds(found, args.rounds, folder)
        slowest = next(iter(sec.values()))
        for name, row in rows.items():
            row |= {"s": round(sec[name], 2), "faster": round(slowest / sec[name], 2)}
    if args.clips:
        videos = held_out_clips(args.clips, folder / "clips")
        for name, row in rows.items():
            lips = correlations(found[name], videos, folder / name)
            row |= {"new sound": round(float(np.mean(lips)), 3), "lowest": round(min(lips), 3)}
    return list(rows.values())


def median_seconds(found: dict[str, Way], rounds: int, folder: Path) -> dict[str, float]:
    """Median seconds of a job of each way; the ways alternate, and the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds + 1):
        for name, way in found.items():
            taken[name].append(seconds(way, folder))
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def precision_name(way: Way) -> str:
    return str(way[0].models.dtype).removeprefix("torch.")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--unet", type=Path, default=DEMO_UNET)
    parser.add_argument("--rounds", type=int, default=3, help="timed jobs of each preset; 0: correlations alone")
    parser.add_argument("--clips", type=int, default=16, help="for the correlation; 0: seconds alone")
    parser.add_argument("--precision", choices=DTYPES, help="of all networks (default: the preset's own)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(args, Path(temporary))
    report("preset_jobs", rows, args.out, rounds=args.rounds, clips=args.clips, threads=args.threads)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("preset_jobs", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
