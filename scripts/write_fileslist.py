"""Write lists of training clips from the manifests of a data-processing run: one path per line, no person in two lists; or shards.

Example: python -m scripts.write_fileslist --manifests DIR/manifests --out_dir lists --filter 'sync_confidence>=4'
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console

from latentsync.data.storage import Folder
from latentsync.processing.manifests.fileslist import IDENTITY_RULES, kept_clips, split, with_identity
from latentsync.processing.manifests.manifest import Manifests
from latentsync.processing.manifests.settings_record import clips_folder
from latentsync.processing.report.funnel import hours_text
from latentsync.processing.stages.order import STAGE_NAMES
from scripts.command import run_command
from scripts.shards import SHARDS, add_shards, pack


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="write_fileslist", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--manifests", required=True, help="the folder `manifests` of a run, or one written by --reapply")
    add("--out_dir", required=True, help="output folder; each list is a file NAME.txt, or a folder NAME of shards")
    add_shards(
        add, "write the clips of each list into shards, from which training streams; then --out_dir may be s3://"
    )
    add(
        "shares",
        nargs="*",
        default=["train=0.95", "val=0.05"],
        help="names of the lists and their shares of the clips (default: train=0.95 val=0.05)",
    )
    add(
        "--filter",
        action="append",
        default=[],
        metavar="RULE",
        help="keep clips that meet it, such as 'quality>=50'; may be repeated",
    )
    add(
        "--identity",
        default="source",
        metavar="RULE",
        help=f"how clips of the same person are found: {', '.join(IDENTITY_RULES)} (default: source)",
    )
    add(
        "--identity_table", type=Path, metavar="CSV", help="for column:NAME: a table with the columns `source` and NAME"
    )
    add("--seed", type=int, default=0, help="of the random split (default: 0)")
    return parser.parse_args(argv)


def shares_of(texts: list[str]) -> dict[str, float]:
    """Parse texts such as `train=0.9` to shares by name; ValueError for an invalid one."""
    shares = {}
    for text in texts:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError as error:
            raise ValueError(f"{text!r} is not a share: write NAME=NUMBER, such as train=0.9.") from error
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"{name!r} is not a valid name of a list: use letters, digits, - and _.")
    return shares


def write_lists(args: argparse.Namespace) -> None:
    manifests = Folder(args.manifests)
    output = clips_folder(manifests)
    table = pd.read_csv(args.identity_table, dtype=str) if args.identity_table else None
    clips = kept_clips(Manifests(manifests, STAGE_NAMES).table(STAGE_NAMES[-1]), args.filter)
    there = output.under(STAGE_NAMES[-1]).files()
    clips = clips[[file.removeprefix(f"{STAGE_NAMES[-1]}/") in there for file in clips["file"]]]
    if clips.empty:
        raise ValueError(f"{args.manifests} has no kept clip whose file exists and which meets the filters.")
    splits = split(with_identity(clips, args.identity, table), shares_of(args.shares), args.seed)
    if args.output_format == SHARDS:
        for each in splits:
            pack(output, each.files, Folder(args.out_dir).under(each.name), args.shard_mb, Console(highlight=False))
        return
    out_dir = Path(args.out_dir)
    paths = {each.name: out_dir / f"{each.name}.txt" for each in splits}
    for path in paths.values():
        if path.exists():
            raise ValueError(f"{path} exists already: choose another --out_dir.")
    out_dir.mkdir(parents=True, exist_ok=True)
    for each in splits:
        lines = "".join(f"{output.address}/{file}\n" for file in each.files)
        paths[each.name].write_text(lines, encoding="utf-8")
        print(
            f"{paths[each.name]}: clips {len(each.files):,}, identities {each.identities:,}, {hours_text(each.hours)}"
        )


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("write_fileslist", lambda: write_lists(args))


if __name__ == "__main__":
    sys.exit(main())
