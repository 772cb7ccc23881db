"""Whether the metrics rank known degradations correctly: eval/eval_degradations.sh [--clips 8] [--help].

Drawn people are degraded in five ways: audio delayed by 1, 2 and 4 frames, lips smoothed over time, lips of another
sentence. SyncNet and lip opening must both score the undamaged clip best, and a larger delay worse than a smaller one.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.clip_sets import AVATARS
from eval.networks import DEMO_SYNCNET
from eval.rows import check_out
from scripts.command import run_command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval_degradations.sh", description=__doc__)
    add = parser.add_argument
    add("--clips", type=int, default=8, help=f"number of clips, at most {AVATARS} (default: %(default)s)")
    add("--sync_model", type=Path, default=DEMO_SYNCNET, help="file of a StableSyncNet (default: the demo's)")
    add("--out", type=Path, metavar="FILE.json", help="also write the table there")
    add("--device", help="cpu, or a GPU (default: the best available)")
    return parser.parse_args(argv)


def rank(args: argparse.Namespace) -> int:
    check_out(args.out)
    if not 1 <= args.clips <= AVATARS:
        raise ValueError(f"--clips is {args.clips}: choose 1 to {AVATARS}.")
    from eval.degradations import rank_degradations  # imports PyTorch

    found = rank_degradations(args.clips, args.sync_model, args.device)
    show(found["rows"], args.clips)
    wrong = found["wrong"]
    print("All ranked correctly." if not wrong else f"Ranked wrongly: {'; '.join(wrong)}.")
    if args.out:
        args.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 1 if wrong else 0


def show(rows: list[dict[str, Any]], clips: int) -> None:
    """Print the scores of each kind of degradation."""
    names = [name for name in rows[0] if name != "kind"]
    table = Table("", *names, title=f"Mean over {clips} clips, [95 % interval]")
    for row in rows:
        cells = [f"{row[n]['mean']:.3f} [{row[n]['low']:.3f}, {row[n]['high']:.3f}]" for n in names]
        table.add_row(row["kind"], *cells)
    Console().print(table)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("eval_degradations", lambda: rank(args))


if __name__ == "__main__":
    sys.exit(main())
