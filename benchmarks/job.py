"""Time of each stage of a whole inference job.

python -m benchmarks.job [--unet checkpoints/latentsync_unet.pt] [--video v.mp4 --audio a.wav] [--out job.json]

The defaults are the demo models and the demo clip. The job runs twice and the second run is measured, which excludes work that a
process does once (compiling kernels, reserving memory).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import report
from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO
from scripts.command import run_command


def stage_rows(timings_sec: dict[str, float], whole_sec: float, frames: int) -> list[dict[str, Any]]:
    """A row for every stage, the longest first; the last ones are the time outside all stages, and the whole job."""
    stages = dict(sorted(timings_sec.items(), key=lambda stage: -stage[1]))
    stages |= {"everything else": whole_sec - sum(timings_sec.values()), "the whole job": whole_sec}
    return [
        {
            "stage": stage,
            "s": round(sec, 3),
            "ms a frame": round(1e3 * sec / frames, 2),
            "share": f"{sec / whole_sec:.1%}",
        }
        for stage, sec in stages.items()
    ]


def measure(pipeline: LipsyncPipeline, args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The table's rows and the facts about the job."""
    settings = pipeline.models.defaults.changed({"steps": args.steps, "overlap": args.overlap})
    options = JobOptions(limit_sec=args.limit_sec, memory=args.memory)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            begun = time.perf_counter()
            done = pipeline(args.video, args.audio, Path(folder) / "o.mp4", settings, options)
            whole_sec = time.perf_counter() - begun
    facts = {"frames": done.frames, "synced": done.synced_frames, "frame": [done.width, done.height]}
    facts |= {"face_px": done.resolution, "steps": settings.steps, "guidance": settings.guidance_scale}
    facts |= {"reference": settings.reference, "device": done.device, "dtype": done.dtype, "encoder": done.encoder}
    return stage_rows(done.timings_sec, whole_sec, done.frames), facts


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--unet", type=Path, default=DEMO_UNET, help="the checkpoint (default: the demo's)")
    parser.add_argument("--detector", default=DEFAULT_DETECTOR, help="face detector")
    parser.add_argument("--video", type=Path, default=DEMO_VIDEO)
    parser.add_argument("--audio", type=Path, default=DEMO_AUDIO)
    parser.add_argument("--limit_sec", type=float, default=3.0, help="only the beginning")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the checkpoint's)")
    parser.add_argument("--overlap", type=int, default=0, help="frames that windows share")
    parser.add_argument("--memory", choices=["auto", "low", "high"], default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    rows, facts = measure(LipsyncPipeline.from_pretrained(args.unet, None, args.detector), args)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    report("job", rows, args.out, **facts, threads=args.threads, limit_sec=args.limit_sec)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("job", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
