"""Draw talking heads with known lip motion: `python -m scripts.make_avatars --count 100 --out data/avatars`.

Each clip is NAME.mp4 (H.264, 25 fps, 16 kHz audio) and NAME.json (phonemes, mouth, landmarks, identity). With --occluder something
covers the mouth for a while, and NAME.npz says where. A clip depends only on its seed. Existing clips are kept, so the same command
resumes an interrupted run.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from rich.progress import track

from latentsync.avatar import OCCLUDERS
from scripts.command import run_command


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, required=True, help="number of clips")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--first_seed", type=int, default=0, help="seed of the first clip")
    parser.add_argument("--held_out", action="store_true", help="identities and sentences that training does not use")
    parser.add_argument(
        "--frames", type=int, help="draw only a part of each sentence, of this length (default: all of it)"
    )
    parser.add_argument("--occluder", choices=OCCLUDERS, help="what covers the mouth for a while (default: nothing)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser.parse_args(argv)


def make_avatars(args: argparse.Namespace) -> None:
    from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, make_clip  # imports SciPy's signal package

    args.out.mkdir(parents=True, exist_ok=True)
    first = args.first_seed + (HELD_OUT_FIRST_SEED if args.held_out else 0)
    seeds = range(first, first + args.count)
    make = partial(make_clip, folder=args.out, occluder=args.occluder, frames=args.frames)
    with ProcessPoolExecutor(args.workers) as pool:
        for _ in track(pool.map(make, seeds), "Avatars", total=args.count):
            pass


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("make_avatars", lambda: make_avatars(args), if_stopped="the same command resumes it")


if __name__ == "__main__":
    sys.exit(main())
