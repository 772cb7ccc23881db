"""Clips into shards, for the commands that write them: their options, the progress, and what is printed."""

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.progress import track

from latentsync.data.storage import Folder

FILES, SHARDS = "files", "shards"
SHARD_MB = 64.0
SHOWN = 10  # clips left out that are printed


def add_shards(add: Callable[..., Any], meaning: str) -> None:
    """Add the options `--output_format` and `--shard_mb` to a parser, whose `add_argument` is given."""
    add("--output_format", choices=(FILES, SHARDS), default=FILES, help=f"{SHARDS}: {meaning}")
    add("--shard_mb", type=float, default=SHARD_MB, metavar="MB", help=f"size of a shard (default: {SHARD_MB:g})")


def clip_names(clips: Folder) -> list[str]:
    """The names of the clips in a folder."""
    return [name for name in clips.files() if name.lower().endswith(".mp4")]


def pack(source: Folder, names: Iterable[str], target: Folder, shard_mb: float, console: Console) -> None:
    """Write clips of a folder into shards, and print what was written and what was left out."""
    from latentsync.data.shards.write import write_shards  # imports PyTorch

    if not shard_mb > 0:
        raise ValueError(f"--shard_mb is {shard_mb:g}, but must be above 0; {SHARD_MB:g} is usual.")
    shards, clips, left_out = write_shards(
        source, names, target, shard_mb, lambda numbers: track(numbers, "Write shards", console=console)
    )
    console.print(
        f"Shards: {target.address}: {shards:,} shards of {clips:,} clips; {len(left_out):,} left out", soft_wrap=True
    )
    for name, reason in left_out[:SHOWN]:
        console.print(f"  {name}: {reason}", soft_wrap=True)
    if left_out[SHOWN:]:
        console.print(f"  and {len(left_out) - SHOWN} more")
