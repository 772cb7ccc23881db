"""Speed of drawing talking heads on one core: `python -m benchmarks.avatars [--frames 50] [--out FILE.json]`.

Frames a second of a bald head and of one with long hair, at the usual size, and of both with a hand before the mouth. `prepared s`
is the time until the first frame: texture, hair, hand and room. Both are processor time, which other programs disturb least. The
first call also compiles the rasteriser, which is not counted.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2

from benchmarks.table import Row, report
from latentsync.avatar import OccluderKind
from latentsync.avatar.clip import AvatarClip, random_clip
from scripts.command import run_command

STYLES = ("bald", "long")
OCCLUDED: tuple[OccluderKind | None, ...] = (None, "hand")


def clip_with(style: str, occluder: OccluderKind | None = None) -> AvatarClip:
    """The clip of the first seed whose head has a style of hair."""
    clip = next(clip for clip in map(random_clip, range(1000)) if clip.identity.hair_style == style)
    return replace(clip, occluder=occluder)


def measure(clip: AvatarClip, frames: int) -> Row:
    """Seconds until the first frame, and frames a second after it, both in processor time."""
    start = time.process_time()
    drawn = clip.frames()
    next(drawn)
    first = time.process_time()
    count = sum(1 for _ in islice(drawn, frames))
    speed = count / (time.process_time() - first)
    facts = {"hair": clip.identity.hair_style, "occluder": clip.occluder or "none", "size px": clip.size}
    return facts | {"prepared s": round(first - start, 2), "frames a second": round(speed, 1)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=50, help="frames of each clip (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    args = parser.parse_args(argv)

    def work() -> None:
        cv2.setNumThreads(1)
        next(clip_with(STYLES[1]).frames())  # compiles
        rows = [measure(clip_with(style, occluder), args.frames) for style in STYLES for occluder in OCCLUDED]
        report("avatars", rows, args.out, frames=args.frames)

    return run_command("benchmarks.avatars", work)


if __name__ == "__main__":
    sys.exit(main())
