"""Throughput of trainings that stream from an object store: `python -m benchmarks.streaming [--readers 1 2 4 8] [--hours 2000]`.

A simulation: the order of the clips, and how many steps ahead shards are fetched, are those of a training; the time of a step, the
network and the store are given. A reader is a machine. Nothing is read, and no time is measured. Of every machine `--items` items
belong to a step, so more machines make larger steps. `waiting` is the share of the time in which the machine waits for a shard,
without the first step; `disk` holds every shard from when it is fetched until its last use; `fetched` counts how often a shard is
fetched in one epoch, by all machines, on average.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import report
from latentsync.data.draws import AHEAD_STEPS, streamed_order
from scripts.command import run_command


@dataclass(frozen=True)
class Setting:
    """What is given: the set, a machine's step, and the network."""

    clips: int
    shard_clips: int
    shard_gb: float
    items: int  # of a step, on one machine
    step_sec: float
    gb_a_sec: float  # of one machine: its link, or its part of what the store gives
    latency_sec: float


@dataclass(frozen=True)
class Epoch:
    """One machine's epoch."""

    items_a_sec: float
    waiting: float
    gb_a_sec: float
    disk_gb: float
    shards: int


def shards_of_steps(setting: Setting, readers: int) -> np.ndarray:
    """The shards [steps, items] that the first machine reads in one epoch."""
    count = setting.clips // setting.shard_clips
    order = streamed_order((setting.shard_clips,) * count, setting.items * readers, 0, 0)
    steps = len(order) // (setting.items * readers)
    whole = np.asarray(order[: steps * setting.items * readers]).reshape(steps, -1)
    return whole[:, : setting.items] // setting.shard_clips


def simulate(setting: Setting, readers: int) -> Epoch:
    """Fetch the shards of an epoch one after the other, `AHEAD_STEPS` steps before they are needed."""
    needed = [set(row.tolist()) for row in shards_of_steps(setting, readers)]
    last_step = {shard: step for step, shards in enumerate(needed) for shard in shards}
    ready: dict[int, float] = {}
    now = link_free = first_sec = waited = 0.0
    most = 0
    for step in range(len(needed)):
        ahead = needed[: AHEAD_STEPS + 1] if step == 0 else needed[step + AHEAD_STEPS : step + AHEAD_STEPS + 1]
        for shard in (shard for shards in ahead for shard in sorted(shards) if shard not in ready):
            link_free = max(now, link_free) + setting.shard_gb / setting.gb_a_sec
            ready[shard] = link_free + setting.latency_sec
        begun = max([now, *(ready[shard] for shard in needed[step])])
        waited += 0.0 if step == 0 else begun - now
        first_sec = begun if step == 0 else first_sec
        now = begun + setting.step_sec
        most = max(most, sum(last_step[shard] >= step for shard in ready))
    lasted = now - first_sec
    gb = len(ready) * setting.shard_gb
    return Epoch(len(needed) * setting.items / lasted, waited / lasted, gb / now, most * setting.shard_gb, len(ready))


def row(args: argparse.Namespace, readers: int) -> dict[str, Any]:
    clips = round(args.hours * 3600 / args.clip_sec)
    clip_gb = args.gb_an_hour * args.clip_sec / 3600
    share = min(args.link_gbit / 8, args.store_gb_a_sec / readers)
    setting = Setting(
        clips, args.shard_clips, args.shard_clips * clip_gb, args.items, args.step_sec, share, args.latency_sec
    )
    epoch = simulate(setting, readers)
    return {
        "readers": readers,
        "items a s": round(epoch.items_a_sec * readers),
        "waiting": f"{epoch.waiting:.0%}",
        "store GB/s": round(epoch.gb_a_sec * readers, 2),
        "disk GB each": round(epoch.disk_gb),
        "hours an epoch": round(clips / epoch.items_a_sec / readers / 3600, 1),
        "fetched": round(epoch.shards * readers / (clips // args.shard_clips), 2),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--readers", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers of machines (default: 1 2 4 8 16)")
    add("--hours", type=float, default=2000, help="of clips (default: 2000)")
    add("--clip_sec", type=float, default=7.5, help="length of a clip (default: 7.5)")
    add(
        "--gb_an_hour",
        type=float,
        default=2.2,
        help="that a training reads (default: 2.2, latents and Whisper features)",
    )
    add("--shard_clips", type=int, default=64, help="clips in a shard (default: 64)")
    add("--items", type=int, default=64, help="of a step, on one machine (default: 64)")
    add("--step_sec", type=float, default=1.0, help="time of a step without waiting (default: 1)")
    add("--link_gbit", type=float, default=25, help="Gbit/s of a machine's link (default: 25)")
    add("--store_gb_a_sec", type=float, default=10, help="GB/s that the store gives in all (default: 10)")
    add("--latency_sec", type=float, default=0.1, help="of a request (default: 0.1)")
    add("--out", type=Path, help="JSON file for the rows")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command(
        "streaming", lambda: report("streaming", [row(args, readers) for readers in args.readers], args.out)
    )


if __name__ == "__main__":
    sys.exit(main())
