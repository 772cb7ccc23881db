"""Face detection in every frame compared with tracking: `python -m benchmarks.detection [--video v.mp4]`.

Three ways on the same frames: the cascade searches the whole frame at full size; it searches the reduced copy that inference
uses; or, as in inference, faces are detected at intervals and tracked in between. `found` counts frames with a face. `jitter` is
the median second difference of the point between the eyes, in thousandths of the face width; lower is better for a head that moves
smoothly. Without --video a 1080p clip is drawn.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.table import report
from latentsync.face.align import FrameArray
from latentsync.face.detection.cascade import FACE_NEIGHBOURS, VIEWS, CascadeDetector, View, face_from_eyes
from latentsync.face.detection.tracking import Effort
from latentsync.media.video.read import read_frames
from latentsync.testing import moving_head
from scripts.command import run_command

Find = Callable[[FrameArray], tuple[np.ndarray, float] | None]  # a point of the largest face and its width


def searching(side: int) -> Find:
    """Search every frame in a copy of at most `side` pixels."""
    detector = CascadeDetector()
    view = View(side, VIEWS[Effort.FULL][0].step)

    def find(frame: FrameArray) -> tuple[np.ndarray, float] | None:
        for eyes in detector.candidates(frame, view, FACE_NEIGHBOURS):
            state = detector.settle(frame, eyes, eyes_needed=1)
            if state is not None:
                return state.eyes.mean(axis=0), face_from_eyes(state.eyes).face_px
        return None

    return find


def following() -> Find:
    """Detect at intervals and track in between, as inference does."""
    detector = CascadeDetector()

    def find(frame: FrameArray) -> tuple[np.ndarray, float] | None:
        face = detector.points(frame)
        return None if face is None else (face.points[:2].mean(axis=0), face.face_px)

    return find


def measure(name: str, find: Find, frames: Sequence[FrameArray]) -> dict[str, Any]:
    """A row of the table."""
    begun = time.perf_counter()
    found = [find(frame) for frame in frames]
    ms = 1e3 * (time.perf_counter() - begun) / len(frames)
    places = np.array([seen[0] if seen else (np.nan, np.nan) for seen in found])
    width = float(np.median([seen[1] for seen in found if seen] or [1.0]))
    steps = np.hypot(*np.diff(places, n=2, axis=0).T) / width
    return {
        "way": name,
        "ms a frame": round(ms, 2),
        "found": f"{sum(seen is not None for seen in found)} of {len(frames)}",
        "jitter": round(1e3 * float(np.nanmedian(steps)), 2) if np.isfinite(steps).any() else None,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--video", type=Path, help="a clip of somebody (default: a drawn one)")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    cv2.setNumThreads(args.threads)
    shown = (each.frame for each in read_frames(args.video)) if args.video else moving_head(args.frames)
    frames = list(islice(shown, args.frames))
    small = VIEWS[Effort.FULL][0].side
    ways = {
        "search every frame, whole size": searching(max(frames[0].shape[:2])),
        f"search every frame, {small} px": searching(small),
        "follow, search now and then": following(),
    }
    rows = [measure(name, find, frames) for name, find in ways.items()]
    report("detection", rows, args.out, frames=len(frames), threads=args.threads)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("detection", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
