"""Draw talking heads with known lip motion: `python -m scripts.make_avatars --count 100 --out data/avatars`.

Each clip is NAME.mp4 (H.264, 25 fps, 16 kHz audio) and NAME.json (phonemes, mouth, landmarks, identity). With --occluder something
covers the mouth for a while, and NAME.npz says where. A clip depends only on its seed. Existing clips are kept, so the same command
resumes an interrupted run. With --together the heads also stand side by side in talk.mp4, and talk.json makes them speak in turn,
each with the voice of the next one: a file for `--speakers` of the inference command.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
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
    parser.add_argument(
        "--together", action="store_true", help="also write talk.mp4 and talk.json with all heads, see above"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser.parse_args(argv)


def make_avatars(args: argparse.Namespace) -> None:
    from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, make_clip  # imports SciPy's signal package

    args.out.mkdir(parents=True, exist_ok=True)
    first = args.first_seed + (HELD_OUT_FIRST_SEED if args.held_out else 0)
    seeds = range(first, first + args.count)
    make = partial(make_clip, folder=args.out, occluder=args.occluder, frames=args.frames)
    with ProcessPoolExecutor(args.workers) as pool:
        clips = list(track(pool.map(make, seeds), "Avatars", total=args.count))
    if args.together:
        write_together(clips, args.out / "talk.mp4")


def write_together(clips: Sequence[Path], path: Path) -> None:
    """Write the heads of all clips side by side to `path`, as long as the shortest clip, and the file of speakers beside it.

    Both are kept if they exist. Raises ValueError if only one does, or the video is another program's.
    """
    from latentsync.avatar.clip import FRAME_SIZE
    from latentsync.media.probe import made_here
    from latentsync.media.video.write import VideoFormat, VideoWriter
    from latentsync.timebase import MODEL_FPS

    if path.with_suffix(".json").exists() and made_here(path):
        return
    if path.exists() or path.with_suffix(".json").exists():
        raise ValueError(f"{path} or its .json exists, and files are not overwritten: give another folder.")
    with VideoWriter(path, VideoFormat.constant(len(clips) * FRAME_SIZE, FRAME_SIZE, MODEL_FPS)) as writer:
        count = 0
        for frame in side_by_side(clips):
            writer.write(frame)
            count += 1
    share_sec = count / MODEL_FPS / len(clips)
    segments = [
        {
            "speaker": clip.stem,
            "start": round(n * share_sec, 2),
            "end": round((n + 1) * share_sec, 2),
            "audio": clips[(n + 1) % len(clips)].name,
            "offset": round(n * share_sec, 2),
        }
        for n, clip in enumerate(clips)
    ]
    people = {clip.stem: {"face": n} for n, clip in enumerate(clips, 1)}
    text = json.dumps({"people": people, "segments": segments}, indent=2)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def side_by_side(clips: Sequence[Path]) -> Iterator[np.ndarray]:
    """Frames uint8 h w 3 of several clips of one height, until the shortest ends."""
    from latentsync.media.video.read import read_frames

    for shown in zip(*map(read_frames, clips), strict=False):
        yield np.concatenate([each.frame for each in shown], axis=1)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("make_avatars", lambda: make_avatars(args), if_stopped="the same command resumes it")


if __name__ == "__main__":
    sys.exit(main())
