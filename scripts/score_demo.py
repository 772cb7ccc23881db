"""Score the demo models on heads and sentences that were not used for training: `python -m scripts.score_demo [--json FILE]`.

Lips: every held-out video is lip-synced to the audio of another held-out clip. The lip opening measured in the output is correlated
with the truth of the new audio and with that of the old audio; the input video is scored for comparison.
SyncNet: accuracy on matching and mismatched pairs, and the offsets found for audio shifted by -5 ... +5 frames.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from latentsync.data.aligned import align_clip
from latentsync.data.clips import TrainingClip, index_clips
from latentsync.data.frames import FrameMemory
from latentsync.data.settings import MIN_SHIFT
from latentsync.data.sync_clips import PixelPictures, load_sync_clip, min_frames
from latentsync.face.detection.detector import make_detector
from latentsync.inference.models import DEMO_UNET, LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings
from latentsync.metrics.sync.accuracy import accuracy
from latentsync.models.syncnet import load_syncnet
from latentsync.testing import AUDIO_FROM, LipScore, held_out_clips, score_lips
from latentsync.training.syncnet.validate import offset_errors, validation_pairs
from latentsync.weights import DEMO
from scripts.command import run_command

CLIPS = 16
SHIFTS = range(-5, 6)
NAMES = ("new", "old", "copied", "read")  # the correlations of a `LipScore`


def score_syncnet(clips: list[TrainingClip]) -> dict[str, float]:
    net, metadata = load_syncnet(DEMO / "syncnet.safetensors")
    frames, resolution = metadata["num_frames"], metadata["resolution"]
    pictures = PixelPictures(FrameMemory(resolution, 0, lower_half=True))
    loaded = [load_sync_clip(clip, pictures) for clip in clips]
    errors = [
        offset_errors(net, sync, clip.waveform(), SHIFTS, frames) for sync, clip in zip(loaded, clips, strict=True)
    ]
    within = np.abs(np.concatenate(errors)) <= 1
    right, wrong = validation_pairs(net, loaded, frames, min_shift=metadata.get("min_shift", MIN_SHIFT))
    return {
        "accuracy": accuracy(right, wrong, metadata["threshold"]),
        "threshold": metadata["threshold"],
        "accuracy_at_0.5": accuracy(right, wrong),
        "offset_within_1": float(within.mean()),
    }


def print_scores(lips: list[LipScore], syncnet: dict[str, float]) -> None:
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


def columns(lips: list[LipScore]) -> list[list[float]]:
    return [[getattr(row, name) for row in lips] for name in NAMES]


def summary(settings: InferenceSettings, lips: list[LipScore], syncnet: dict[str, float]) -> dict[str, object]:
    means = {name: float(np.mean(column)) for name, column in zip(NAMES, columns(lips), strict=True)}
    return {"settings": asdict(settings), "mean": means, "syncnet": syncnet, "lips": [asdict(row) for row in lips]}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    parser.add_argument("--data", type=Path, help="folder for clips and outputs (default: a temporary one)")
    parser.add_argument("--clips", type=int, default=CLIPS, help="number of clips (default: %(default)s)")
    parser.add_argument("--settings", default="{}", help="inference settings that replace the checkpoint's, as JSON")
    return parser.parse_args(argv)


def score(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or Path(temporary)
        videos = held_out_clips(args.clips, folder / "clips")
        aligned = [align_clip(v, folder / "aligned" / v.name, make_detector(), 128) for v in videos]
        syncnet = score_syncnet(index_clips(aligned, min_frames(16), folder / "cache").clips)
        pipeline = LipsyncPipeline(LipsyncModels.load(DEMO_UNET), make_detector())
        pairs = [(video, videos[(i + AUDIO_FROM) % len(videos)]) for i, video in enumerate(videos)]
        settings = pipeline.models.defaults.changed(json.loads(args.settings))
        lips = [score_lips(pipeline, settings, *pair, folder / "outputs") for pair in track(pairs, "Lip-sync")]
    print_scores(lips, syncnet)
    if args.json:
        args.json.write_text(json.dumps(summary(settings, lips, syncnet), indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("score_demo", lambda: score(args))


if __name__ == "__main__":
    sys.exit(main())
