"""Score who is found to speak in drawn conversations: `python -m scripts.score_speakers --data data/conversations [--lips N]`.

The conversations are drawn if they are missing, as by `python -m scripts.make_avatars --conversation --held_out`. Of the frames in
which somebody speaks, the score is the share in which their face was found, or nobody's where the voice is off screen. Counted by
person, each one who was found stands for one person only.
With --lips N, of N conversations everybody who is seen gets new audio where they speak, with the preset turbo. How far their lips
open where they speak, and new lips are shown alone, is correlated with their own new audio, in this job (own) and in one in which
only they speak (alone); and over the whole film with what the others say (others).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from scripts.command import run_command

if TYPE_CHECKING:
    from scripts.speaker_scores import LipsOfOne, SpeakerScore

WANTED_SHARE, WANTED_LOSS, MOST_OTHERS = 0.95, 0.02, 0.2


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the conversations, and of the outputs")
    parser.add_argument("--count", type=int, default=3, help="conversations of each kind (default: %(default)s)")
    parser.add_argument("--lips", type=int, default=0, metavar="N", help="dub N of them, and score the lips")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    return parser.parse_args(argv)


def print_shares(scores: "Sequence[SpeakerScore]") -> None:
    columns = "conversation", "people seen", "found", "frames", "right", "by person"
    table = Table(*columns, title="Frames in which the right face speaks")
    for row in scores:
        shares = (f"{count / row.frames:.1%}" for count in (row.right, row.named))
        table.add_row(row.video, str(row.people), str(row.found), str(row.frames), *shares)
    frames, right, named = (sum(getattr(row, name) for row in scores) for name in ("frames", "right", "named"))
    table.add_section()
    table.add_row("all", "", "", str(frames), f"{right / frames:.1%}", f"{named / frames:.1%}")
    console = Console()
    console.print(table)
    console.print(f"wanted: {WANTED_SHARE:.0%} of all frames")


def print_lips(lips: "Sequence[LipsOfOne]") -> None:
    table = Table("conversation", "person", "frames", "own", "alone", "others", title="Correlation of the lips")
    for row in lips:
        values = (f"{value:.3f}" for value in (row.own, row.alone, row.others))
        table.add_row(row.video, row.person, str(row.frames), *values)
    means = (f"{np.mean([getattr(row, name) for row in lips]):.3f}" for name in ("own", "alone", "others"))
    table.add_section()
    table.add_row("mean", "", "", *means)
    console = Console()
    console.print(table)
    console.print(f"wanted: own at most {WANTED_LOSS} below alone, others at most {MOST_OTHERS}")


def score(args: argparse.Namespace) -> None:
    from scripts.speaker_scores import drawn_conversations, score_lips_of, score_speakers  # imports PyTorch

    videos = drawn_conversations(args.data, args.count)
    found = score_speakers(videos, args.data / "found")
    print_shares(found)
    lips = score_lips_of(videos, args.lips, args.data / "found")
    if lips:
        print_lips(lips)
    if args.json:
        scores = {"speakers": [asdict(row) for row in found], "lips": [asdict(row) for row in lips]}
        args.json.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("score_speakers", lambda: score(args))


if __name__ == "__main__":
    sys.exit(main())
