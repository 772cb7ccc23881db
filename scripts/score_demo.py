"""Score the demo models on unseen heads and sentences: `python -m scripts.score_demo [--short] [--json FILE]`.

Lips: every held-out video is lip-synced to the audio of another held-out clip. The lip opening measured in the output is correlated
with the truth of the new audio and with that of the old audio; the input video is scored for comparison.
Pictures: what the eye finds in the repainted face beside the true video (docs/evaluation.md, "What the eye sees"), and the same for
the true video that is merely encoded and decoded by the auto-encoder: no output of these models can be expected to be better.
SyncNet: accuracy on matching and mismatched pairs, and the offsets found for audio shifted by -5 ... +5 frames.
--short: fewer people, clips and shifts, for use during development; under three minutes on two cores.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from latentsync.data.aligned import NoFaceError, align_clip
from latentsync.data.clips import index_clips
from latentsync.data.frames import FrameMemory
from latentsync.data.settings import MIN_SHIFT
from latentsync.data.sync_clips import PixelPictures, load_sync_clip, min_frames
from latentsync.face.detection.detector import make_detector
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.metrics.pictures.visible import MEASURES, Measure
from latentsync.metrics.sync.accuracy import accuracy
from latentsync.models.syncnet import load_syncnet
from latentsync.testing import (
    AUDIO_FROM,
    AutoencoderPipeline,
    LipScore,
    PictureScore,
    held_out_clips,
    lip_sync,
    score_lips,
    score_pictures,
)
from latentsync.training.syncnet.validate import embed_clips, offset_errors, score_embedded
from latentsync.weights import DEMO
from scripts.command import run_command

CLIPS = 16
SHIFTS = range(-5, 6)
SHORT_CLIPS, SHORT_SEC, SHORT_SHIFTS = 4, 3.0, range(-3, 4, 3)
NAMES = ("new", "old", "copied", "read")  # the correlations of a `LipScore`


def score_syncnet(videos: list[Path], shifts: range, resolution: int, folder: Path) -> dict[str, float]:
    """Accuracy and offsets on the videos, aligned at `resolution`, that of the U-Net, like the training clips."""
    net, metadata = load_syncnet(DEMO / "syncnet.safetensors")
    frames = metadata["num_frames"]
    aligned = []
    for video in videos:
        try:
            aligned.append(align_clip(video, folder / "aligned" / video.name, make_detector(), resolution))
        except NoFaceError as error:
            print(f"left out of the SyncNet's scores: {error}")
    clips = index_clips(aligned, min_frames(frames), folder / "cache").clips
    pictures = PixelPictures(FrameMemory(metadata["resolution"], 0, lower_half=True))
    loaded = [load_sync_clip(clip, pictures) for clip in clips]
    errors = [
        offset_errors(net, sync, clip.waveform(), shifts, frames) for sync, clip in zip(loaded, clips, strict=True)
    ]
    within = np.abs(np.concatenate(errors)) <= 1
    min_shift = metadata.get("min_shift", MIN_SHIFT)
    embedded = [clip for clip in embed_clips(net, loaded, frames, min_shift) if clip]
    scores = score_embedded(embedded, min_shift)
    return {
        "accuracy": scores.accuracy,
        "threshold": scores.threshold,
        "accuracy_at_0.5": accuracy(scores.right, scores.wrong),
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


def print_pictures(pictures: list[PictureScore]) -> None:
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


def kinds(pictures: list[PictureScore]) -> dict[str, list[dict[str, float]]]:
    """The scores of each clip, of the outputs and of the auto-encoder alone."""
    return {"output": [row.output for row in pictures], "autoencoder": [row.autoencoder for row in pictures]}


def picture_summary(pictures: list[PictureScore]) -> dict[str, Any]:
    """Mean, worst clip and bounds of each measure, then the scores of each clip."""
    found: dict[str, Any] = {"allowed": {measure.name: [measure.low, measure.high] for measure in MEASURES}}
    for kind, clips in kinds(pictures).items():
        values = {m: [of_clip[m.name] for of_clip in clips if m.name in of_clip] for m in MEASURES}
        found[kind] = {m.name: {"mean": float(np.mean(v)), "worst": m.worst(v)} for m, v in values.items() if v}
    return found | {"clips": [asdict(row) for row in pictures]}


def columns(lips: list[LipScore]) -> list[list[float]]:
    return [[getattr(row, name) for row in lips] for name in NAMES]


def summary(
    settings: InferenceSettings, lips: list[LipScore], pictures: list[PictureScore], syncnet: dict[str, float]
) -> dict[str, object]:
    means = {name: float(np.mean(column)) for name, column in zip(NAMES, columns(lips), strict=True)}
    return {
        "settings": asdict(settings),
        "mean": means,
        "syncnet": syncnet,
        "lips": [asdict(row) for row in lips],
        "pictures": picture_summary(pictures),
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
    count = args.clips or (SHORT_CLIPS if args.short else CLIPS)
    shifts, limit_sec = (SHORT_SHIFTS, SHORT_SEC) if args.short else (SHIFTS, None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or Path(temporary)
        videos = held_out_clips(count, folder / "clips")
        models = LipsyncModels.load(DEMO_UNET)
        syncnet = score_syncnet(videos, shifts, models.resolution, folder)
        pipeline, autoencoder = LipsyncPipeline(models, make_detector()), AutoencoderPipeline(models, make_detector())
        settings, options = models.defaults.changed(json.loads(args.settings)), JobOptions(limit_sec=limit_sec)
        lips, pictures = [], []
        for i, video in enumerate(track(videos, "Lip-sync")):
            audio = videos[(i + AUDIO_FROM) % len(videos)]
            synced = lip_sync(pipeline, settings, video, audio, folder / "outputs", options)
            lips.append(score_lips(synced))
            pictures.append(score_pictures(synced, autoencoder, settings))
    print_scores(lips, syncnet)
    print_pictures(pictures)
    if args.json:
        args.json.write_text(json.dumps(summary(settings, lips, pictures, syncnet), indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("score_demo", lambda: score(args))


if __name__ == "__main__":
    sys.exit(main())
