"""Align the faces of clips for training: `python -m scripts.align_clips --input_dir data/avatars --out data/aligned`.

Clips without a face in some frame are left out and named at the end. Finished clips are kept, so the command resumes.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import torch
from rich.progress import track

from latentsync.data.aligned import NoFaceError, align_clip
from latentsync.face.detect import BACKENDS, make_detector


def align(video: Path, folder: Path, detector: str, resolution: int) -> str | None:
    """Align one clip; returns the reason if it had to be left out."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        align_clip(video, folder, make_detector(detector), resolution)
    except NoFaceError as error:
        return str(error)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of .mp4 clips")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detector", choices=BACKENDS, default="cascade")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    videos = sorted(args.input_dir.glob("*.mp4"))
    if not videos:
        parser.error(f"{args.input_dir} holds no .mp4 files")
    job = partial(align, folder=args.out, detector=args.detector, resolution=args.resolution)
    with ProcessPoolExecutor(args.workers) as pool:
        reasons = [reason for reason in track(pool.map(job, videos), "Align", total=len(videos)) if reason]
    print(f"{len(videos) - len(reasons)} of {len(videos)} clips aligned", *reasons, sep="\n")


if __name__ == "__main__":
    main()
