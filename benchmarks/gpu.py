"""The project on a GPU in one call: `python -m benchmarks.gpu --out gpu.json [--golden DIR]`.

Phases in order of worth, at full size with random weights: the recorded cases (`--golden`, a folder of them) in float32 and half
precision; whole jobs, from file to file; every preset for faces of 256 and 512 px, eager and compiled; the longest kernels; peak
memory for every choice of `--memory`; a training step of every stage. gpu.json is rewritten after every row, and the same as
tables, gpu.md, after every phase, so an interrupted run keeps what it has. No row begins after `--minutes`.

To try it on any machine: `python -m benchmarks.gpu --device cpu --tiny`.
"""

import argparse
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.gpu_sampling import TINY_PX, job_rows, kernel_rows, memory_rows, window_rows
from benchmarks.gpu_training import training_rows
from benchmarks.table import Row, format_table, machine_facts, markdown_table
from latentsync.device import DTYPES, pick_device
from latentsync.inference.settings import PRESETS
from latentsync.media.process import run_program
from latentsync.media.video.mux import atomic_output
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO
from scripts.command import run_command

# a line of tests.golden
CHECK = re.compile(r"(?P<case>\S+) +(?P<check>.+?) +(?P<difference>\S+) <= (?P<allowed>\S+) (?P<verdict>ok|FAIL)$")
QUICK = ("--only", "denoise")


def golden_rows(args: argparse.Namespace) -> Iterator[Row]:
    """The differences from the recorded numbers in each case of the networks, and how much is allowed."""
    for precision in dict.fromkeys(("fp32", args.precision)):
        command = [sys.executable, "-m", "tests.golden", str(args.golden)]
        command += ["--device", args.device, "--precision", precision, *(QUICK if args.tiny else ())]
        done = run_program(command)
        checks = [found.groupdict() for line in done.lines if (found := CHECK.match(line))]
        if not checks:
            raise ValueError(f"no case ran: {done.output}")
        yield from ({"precision": precision, **check} for check in checks)


PHASES: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "golden": golden_rows,
    "jobs": job_rows,
    "presets": window_rows,
    "kernels": kernel_rows,
    "memory": memory_rows,
    "training": training_rows,
}


class Results:
    """The rows of every phase so far, and the files that hold them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.out: Path | None = args.out
        self.settings = {"precision": args.precision, "windows": args.windows, "rounds": args.rounds}
        self.phases: dict[str, list[Row]] = {}
        self.notes: dict[str, str] = {}  # why a phase has fewer rows than it should

    def write(self) -> None:
        """Write the JSON file, if there is one."""
        if self.out:
            facts = {"benchmark": "gpu", "settings": self.settings, "machine": machine_facts()}
            with atomic_output(self.out) as partial:
                partial.write_text(
                    json.dumps({**facts, "phases": self.phases, "notes": self.notes}, indent=1) + "\n", encoding="utf-8"
                )

    def write_tables(self) -> None:
        """Write the tables beside it."""
        if self.out:
            machine = machine_facts()
            parts = [
                f"# {machine['accelerator'] or machine['processor']}",
                f"Packages: {machine['packages']}; {self.settings}.",
            ]
            for name, rows in self.phases.items():
                parts += [f"## {name}", *(markdown_table(group) for group in groups_of(rows))]
                parts += [self.notes[name]] if name in self.notes else []
            with atomic_output(self.out.with_suffix(".md")) as partial:
                partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def groups_of(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows in groups with equal columns."""
    for columns in dict.fromkeys(tuple(row) for row in rows):
        yield [row for row in rows if tuple(row) == columns]


def run_phase(name: str, args: argparse.Namespace, results: Results, deadline: float) -> None:
    """Run a phase up to the deadline; what ends it early is noted, and the next phase goes on."""
    rows = results.phases.setdefault(name, [])
    print(f"== {name}", flush=True)
    try:
        for row in PHASES[name](args):
            rows.append(row)
            print(", ".join(f"{column} {value}" for column, value in row.items()), flush=True)
            results.write()
            if time.monotonic() > deadline:
                results.notes[name] = "The time was up."
                break
    except Exception as error:  # out of memory, or a fault that only a GPU shows
        traceback.print_exc()
        results.notes[name] = f"Ended by {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    results.write()
    results.write_tables()


def bench(args: argparse.Namespace) -> None:
    machine = machine_facts()
    print(machine["accelerator"] or machine["processor"], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    results, deadline = Results(args), time.monotonic() + 60 * args.minutes
    for name in args.phases:
        if name == "golden" and not args.golden:
            continue
        if time.monotonic() > deadline:
            results.phases[name], results.notes[name] = [], "Not begun: the time was up."
            continue
        run_phase(name, args, results, deadline)
    results.write()
    results.write_tables()
    for name, rows in results.phases.items():
        print(f"\n{name} {results.notes.get(name, '')}")
        print("\n".join(format_table(group) for group in groups_of(rows)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", help="default: the best available")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and faces, to try the script")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--minutes", type=float, default=8.0, help="no row begins later (default: 8)")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="folder of the recorded cases, for the phase golden")
    parser.add_argument("--resolutions", type=int, nargs="+", help="of the face in px (default: 256 512)")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--precision", choices=DTYPES, help="default: bf16, on a CPU fp32")
    parser.add_argument("--no_compile", dest="compile", action="store_false")
    parser.add_argument("--windows", type=int, default=4, help="sampled together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--video", type=Path, default=DEMO_VIDEO, help="of the whole jobs (default: the demo's)")
    parser.add_argument("--audio", type=Path, default=DEMO_AUDIO)
    parser.add_argument("--out", type=Path, help="JSON file to write; the tables beside it")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    args.device = str(device)
    args.precision = args.precision or ("fp32" if device.type == "cpu" else "bf16")
    args.resolutions = args.resolutions or ([TINY_PX] if args.tiny else [512, 256])
    if args.tiny:
        args.windows = args.rounds = 1
    args.compile = args.compile and not args.tiny
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("gpu", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
