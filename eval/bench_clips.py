"""Make a set of evaluation clips: python -m eval.bench_clips {avatars,hdtf,voxceleb2,vfhq} --out FOLDER [--help].

avatars draws the fixed list of held-out people and checks it against the hashes in eval/bench_lists/avatars.json. The
others choose clips below --root and write list.json, from which --list makes the same set elsewhere.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from eval.clip_sets import AVATARS, SET_FILE, TASKS, EvalClip, save_set
from eval.real_set import LAYOUTS, check_list, choose, make_real_clips, read_list
from latentsync.timebase import frames_in
from scripts.command import run_command

REAL_CLIPS = 30
MIN_SEC = 3.0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.bench_clips", description=__doc__)
    add = parser.add_argument
    add("set", choices=("avatars", *LAYOUTS))
    add("--out", type=Path, help="the set's folder, new or empty")
    add("--clips", type=int, help=f"number of clips (default: {AVATARS} avatars or {REAL_CLIPS} real clips)")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add("--max_sec", type=float, default=10.0, help="longest audio in seconds (default: %(default)s)")
    add("--root", type=Path, help="folder of the real videos")
    add("--list", type=Path, help="use the clips of this list instead of choosing")
    add("--seed", type=int, default=0, help="seed of the choice (default: %(default)s)")
    add("--pin", action="store_true", help="avatars: write the list of hashes instead of making clips")
    return parser.parse_args(argv)


def make_set(args: argparse.Namespace) -> int:
    if args.set == "avatars" and args.pin:
        return pin()
    if args.out is None:
        raise ValueError("a set needs a folder: give --out.")
    if (args.out / SET_FILE).exists():
        raise ValueError(f"{args.out} already contains a set, which is not overwritten: give another folder.")
    max_frames = frames_in(args.max_sec)
    if max_frames < 1 or (args.clips is not None and args.clips < 1):
        raise ValueError("--max_sec must be at least one frame, and --clips at least 1.")
    facts = {"set": args.set, "max_frames": max_frames}
    if args.set == "avatars":
        clips, notes = avatars(args, max_frames)
        facts["notes"] = notes
    else:
        clips, facts["list"] = real(args, max_frames)
    print(f"{save_set(args.out, facts, clips)}: {len(clips)} clips.")
    return 0


def avatars(args: argparse.Namespace, max_frames: int) -> tuple[list[EvalClip], list[str]]:
    from eval.avatar_set import check_pinned, hashes, make_avatar_clips, seeds  # imports PyTorch
    from latentsync.avatar.clip import random_clip

    count = args.clips or AVATARS
    if count > AVATARS:
        raise ValueError(f"there are {AVATARS} avatar clips: give --clips {AVATARS} or less.")
    notes = check_pinned([hashes(random_clip(seed)) for seed in seeds(count)])
    for note in notes:
        print(note, file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    return list(make_avatar_clips(args.out, count, max_frames, args.tasks)), notes


def real(args: argparse.Namespace, max_frames: int) -> tuple[list[EvalClip], dict[str, Any]]:
    if args.root is None or not args.root.is_dir():
        raise ValueError(f"{args.set} needs the folder of the videos: give --root.")
    if args.list:
        stored = read_list(args.list)
        check_list(args.root, stored)
    else:
        stored = choose(args.root, args.set, args.clips or REAL_CLIPS, args.seed, MIN_SEC)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "list.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return list(make_real_clips(args.out, args.root, stored, max_frames, args.tasks)), stored


def pin() -> int:
    """Write the hashes of the avatars to the list, after an intended change of the drawings."""
    from eval.avatar_set import PINNED, hashes, seeds  # imports PyTorch
    from latentsync.avatar.clip import random_clip

    rows = [hashes(random_clip(seed)) for seed in seeds(AVATARS)]
    PINNED.write_text(json.dumps({"clips": rows}, indent=1) + "\n", encoding="utf-8")
    print(PINNED)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("bench_clips", lambda: make_set(args))


if __name__ == "__main__":
    sys.exit(main())
