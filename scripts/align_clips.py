"""Align the faces of videos for training: `python -m scripts.align_clips --input_dir data/avatars --out data/aligned`.

For videos with one face in every frame; use the data pipeline for others. Subfolders are kept. Videos with a frame without a
face are left out and listed at the end. Existing clips are not aligned again, so the command resumes.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
from rich.progress import track

from latentsync.data.aligned import NoFaceError, align_clip
from latentsync.data.clips import find_clips
from latentsync.face.detection.detector import BACKENDS, DEFAULT_DETECTOR, make_detector
from latentsync.media.container import MediaError
from latentsync.weights import ALIGNMENTS, DEFAULT_ALIGNMENT, Alignment
from scripts.command import run_command


def align(
    video: Path, input_dir: Path, out: Path, detector: str, resolution: int, alignment: Alignment = DEFAULT_ALIGNMENT
) -> str | None:
    """Align one video; returns the reason if it is left out, else None."""
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    clip = (out / video.relative_to(input_dir)).with_suffix(".mp4")
    try:
        align_clip(video, clip, make_detector(detector, alignment=alignment), resolution)
    except (NoFaceError, MediaError) as error:
        return str(error)
    return None


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of .mp4 videos")
    parser.add_argument("--out", type=Path, required=True, help="folder for the aligned clips")
    parser.add_argument("--detector", choices=BACKENDS, default=DEFAULT_DETECTOR)
    parser.add_argument("--resolution", type=int, default=128, help="side of the aligned faces in pixels")
    parser.add_argument(
        "--alignment", choices=ALIGNMENTS, default=DEFAULT_ALIGNMENT, help="whole_nose: for weights of release 1.0"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(argv)


def align_all(args: argparse.Namespace) -> int:
    """Align every video of a folder; returns the exit status, 1 if none could be aligned."""
    videos = find_clips(args.input_dir)
    job = partial(
        align,
        input_dir=args.input_dir,
        out=args.out,
        detector=args.detector,
        resolution=args.resolution,
        alignment=args.alignment,
    )
    with ProcessPoolExecutor(args.workers) as pool:
        reasons = [reason for reason in track(pool.map(job, videos), "Align", total=len(videos)) if reason]
    print(f"{len(videos) - len(reasons)} of {len(videos)} clips aligned", *reasons, sep="\n")
    return 0 if len(reasons) < len(videos) else 1


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("align_clips", lambda: align_all(args), if_stopped="the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
