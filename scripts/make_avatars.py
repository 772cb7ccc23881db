"""Draw talking heads with known lip motion: `python -m scripts.make_avatars --count 100 --out data/avatars`.

Each clip is NAME.mp4 (H.264, 25 fps, 16 kHz audio) and NAME.json (phonemes, mouth, landmarks, identity). With --occluder something
covers the mouth for a while, and NAME.npz says where. A clip depends only on its seed. Existing clips are kept, so the same command
resumes an interrupted run. With --together the heads also stand side by side in talk.mp4, and talk.json makes them speak in turn,
each with the voice of the next one: a file for `--speakers` of the inference command.

With --conversation two or three people speak in turn in one film: side by side, changing places (one passes behind the other), in
single shots, and with a voice off screen; --count of each kind. KIND_SEED.json says who speaks when.
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

VARIANTS = 3  # of each kind of conversation


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--count", type=int, help="number of clips; of each kind with --conversation (default there: 3)"
    )
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
    parser.add_argument(
        "--conversation", action="store_true", help="draw conversations of two or three people instead, see above"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser.parse_args(argv)


def make_avatars(args: argparse.Namespace) -> None:
    from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, make_clip  # imports SciPy's signal package

    check(args)
    args.out.mkdir(parents=True, exist_ok=True)
    first = args.first_seed + (HELD_OUT_FIRST_SEED if args.held_out else 0)
    if args.conversation:
        make_conversations(args, first)
        return
    seeds = range(first, first + args.count)
    make = partial(make_clip, folder=args.out, occluder=args.occluder, frames=args.frames)
    with ProcessPoolExecutor(args.workers) as pool:
        clips = list(track(pool.map(make, seeds), "Avatars", total=args.count))
    if args.together:
        write_together(clips, args.out / "talk.mp4")


def check(args: argparse.Namespace) -> None:
    """ValueError for options that contradict each other, or a count that is missing."""
    if args.conversation:
        for name in ("frames", "occluder", "together"):
            if getattr(args, name):
                raise ValueError(f"--conversation draws whole conversations: leave out --{name}.")
    elif args.count is None:
        raise ValueError("the number of clips is missing: give it with --count.")


def make_conversations(args: argparse.Namespace, first_seed: int) -> None:
    """Draw --count conversations of each kind (default: `VARIANTS`); every third one has three people in the picture if it can."""
    from latentsync.avatar.conversation import KINDS, make_conversation, people_of

    count = VARIANTS if args.count is None else args.count
    jobs = [(kind, first_seed + n, people_of(kind, n), args.out, args.held_out) for kind in KINDS for n in range(count)]
    with ProcessPoolExecutor(args.workers) as pool:
        list(track(pool.map(make_conversation, *zip(*jobs, strict=True)), "Conversations", total=len(jobs)))


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
