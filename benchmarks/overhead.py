"""Cost of a job without its networks, compared with a plain transcode of the same clip: python -m benchmarks.overhead

[--video v.mp4 --audio a.wav] [--seconds 8] [--rounds 3] [--threads N] [--out overhead.json]

The cost includes reading (twice), detection and tracking with the cascade, warping, paste and encoding. The demo's distilled
networks run too, but their stages are not counted; untrained ones would produce noise, which is slower to encode. The transcode
decodes the clip and encodes it with the same settings. Transcodes, jobs with one stage at a time and jobs with overlapping
stages alternate; `without networks` is the sum of the stage times in the job's report. On a busy machine processor time is the
more reliable number. Without --video a 1080p clip of a moving, talking head is drawn.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.table import report
from latentsync.face.detection.detector import DEFAULT_DETECTOR, make_detector
from latentsync.inference.jobs.job import check_job
from latentsync.inference.model_files import DEMO_UNET, distilled_companion
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.media.index.frame_index import frame_index
from latentsync.media.video.read import stored_pictures
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.places import DEMO_AUDIO
from latentsync.testing import FULL_HD, moving_head
from latentsync.timebase import MODEL_FPS
from scripts.command import run_command

NETWORKS = {"encode", "sample", "decode", "match colour", "finish", "listen"}  # stages that are not counted
MOST_RATIO = 2.5  # largest accepted ratio of the cost without networks to that of the transcode


def drawn_pair(folder: Path, seconds: float) -> tuple[Path, Path]:
    """A drawn clip, and the audio of the demo."""
    video = folder / "clip.mp4"
    with VideoWriter(video, VideoFormat.constant(*FULL_HD, MODEL_FPS)) as writer:
        for frame in moving_head(round(seconds * MODEL_FPS)):
            writer.write(frame)
    return video, DEMO_AUDIO


def transcode(path: Path, output: Path, format: VideoFormat) -> int:
    """Decode a video and encode it with the codec and quality of `format`; returns the number of frames.

    This is the least that any program that edits a video has to do. The video must be stored upright, in the pixel format and
    size of the encoder (`yuv420p` for all but ffv1).

    Raises MediaError as `read_frames` and `VideoWriter` do.
    """
    index = frame_index(path)
    with VideoWriter(output, format) as writer:
        for _, picture in stored_pictures(path, index, 0, index.frame_count, "keep"):
            writer.write_stored(picture)
    return index.frame_count


@contextmanager
def timed(way: str, frames: int, rows: dict[str, tuple[float, float]]) -> Iterator[None]:
    """Store wall time and processor time of the `with` block in `rows[way]`, in seconds a frame."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    yield
    rows[way] = (time.perf_counter() - begun) / frames, (time.process_time() - begun_cpu) / frames


def one_round(
    models: LipsyncModels, video: Path, audio: Path, folder: Path, seconds: float
) -> dict[str, tuple[float, float]]:
    """Way -> wall time and processor time in seconds a frame (the latter NaN for single stages)."""
    job = check_job(video, audio, folder / "out.mp4", JobOptions(limit_sec=seconds))
    rows: dict[str, tuple[float, float]] = {}
    with timed("plain transcode", len(job.source), rows):
        transcode(video, folder / "plain.mp4", job.format)
    for way, overlapped in (("taking turns", False), ("overlapped", True)):
        pipeline = LipsyncPipeline(models, make_detector(DEFAULT_DETECTOR), overlapped)
        with timed(f"{way}, with networks", len(job.timeline), rows):
            done = pipeline.run(job)
        stages = {name: sec / done.frames for name, sec in done.timings_sec.items() if name not in NETWORKS}
        rows |= {f"{way}: {name}": (sec, np.nan) for name, sec in stages.items()}
        rows |= {f"{way}: stage {stage.name}": (stage.busy_sec / done.frames, np.nan) for stage in done.timeline}
        rows[f"{way}, without networks"] = sum(stages.values()), np.nan
    return rows


def measure(video: Path, audio: Path, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every stage and every way as a whole: medians over the rounds."""
    models = LipsyncModels.load(distilled_companion(DEMO_UNET))
    rounds = [one_round(models, video, audio, folder, args.seconds) for _ in range(args.rounds)]
    middles = {way: np.median([1e3 * np.array(taken[way]) for taken in rounds], axis=0) for way in rounds[0]}
    plain = middles["plain transcode"]
    columns = ("ms a frame", "processor ms", "of the transcode's", "of its processor's")
    return [
        {"way": way}
        | {name: "" if np.isnan(x) else round(float(x), 2) for name, x in zip(columns, [*ms, *ms / plain], strict=True)}
        for way, ms in middles.items()
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--video", type=Path, help="a clip of somebody (default: a drawn one)")
    parser.add_argument("--audio", type=Path, help="its sound")
    parser.add_argument("--seconds", type=float, default=8.0, help="of the drawn clip, and of the jobs")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way, alternating")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video, audio = (args.video, args.audio or args.video) if args.video else drawn_pair(folder, args.seconds)
        rows = measure(video, audio, folder, args)
    report("overhead", rows, args.out, seconds=args.seconds, rounds=args.rounds, most_ratio=MOST_RATIO)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("overhead", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
