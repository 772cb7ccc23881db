"""Processor time and memory of starting: help, errors and small tools of every command, and whole jobs of the demo.

python -m benchmarks.start [--what help errors tools memory first_frame page] [--rounds 5] [--out start.json]
python -m benchmarks.start --what jobs --rounds 3

Every run is a new process on one core with one thread. Processor time, user and system, depends less on other work than the time
on the clock.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import report
from latentsync.data.storage import Folder
from latentsync.media.process import Finished, run_program
from latentsync.places import SHIPPED
from latentsync.processing.config import StageSettings
from latentsync.processing.manifests.manifest import Manifests, frame_of
from latentsync.processing.manifests.row import ManifestRow
from latentsync.processing.manifests.settings_record import write_rejudged
from latentsync.processing.stages.order import STAGE_NAMES
from scripts.command import run_command

PYTHON = (sys.executable, "-m")
ROOMS = ("scripts", "eval")
DEMO = (*PYTHON, "scripts.inference", "--demo")
# Ends the command when the first frame of the output is to be encoded
UNTIL_FIRST_FRAME = """
import os, runpy, sys
from latentsync.media.video.write import VideoWriter
VideoWriter.write_picture = lambda *_: os._exit(0)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
# Ends the app when its page can be asked for
UNTIL_PAGE = """
import os, sys
import gradio_app
gradio_app.announce = lambda server: os._exit(0)
sys.exit(gradio_app.main(sys.argv[1:]))
"""
IMPORTS = "import latentsync.inference.pipeline, os; os._exit(0)"  # PyTorch takes more memory while Python ends
MANIFESTS = "manifests"


def commands() -> list[str]:
    """The modules that are commands."""
    files = [path for room in ROOMS for path in sorted((SHIPPED / room).glob("*.py"))]
    found = [f"{path.parent.name}.{path.stem}" for path in files if "def main(" in path.read_text(encoding="utf-8")]
    return ["latentsync", "gradio_app", *found]


def programs(folder: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Names and arguments of what is measured, by kind; `folder` receives what they write.

    In each argument {run} stands for the number of the run.
    """
    absent = ("--video_path", str(folder / "absent.mp4"), "--audio_path", str(folder / "absent.wav"))
    out = ("--video_out_path", str(folder / "out{run}.mp4"))
    lists = ("--manifests", str(folder / MANIFESTS), "--out_dir", str(folder / "lists{run}"), "train=1")
    first = (sys.executable, "-c", UNTIL_FIRST_FRAME, *DEMO[2:], *out, "--preset")
    app = (sys.executable, "-c", UNTIL_PAGE, "--demo", "--folder", str(folder / "app{run}"))
    return {
        "help": {f"{name} --help": (*PYTHON, name, "--help") for name in commands()},
        "errors": {
            "scripts.inference, missing video": (*PYTHON, "scripts.inference", *absent),
            "scripts.inference, missing list": (*PYTHON, "scripts.inference", "--jobs", str(folder / "absent.csv")),
            "scripts.train_unet, missing configuration": (
                *PYTHON,
                "scripts.train_unet",
                "--unet_config_path",
                "a.yaml",
            ),
        },
        "tools": {
            "scripts.download_checkpoints --check": (*PYTHON, "scripts.download_checkpoints", "--check"),
            "scripts.write_fileslist, three clips": (*PYTHON, "scripts.write_fileslist", *lists),
            "scripts.doctor --licences": (*PYTHON, "scripts.doctor", "--licences"),
        },
        "memory": {"the imports of a job": (sys.executable, "-c", IMPORTS)},
        "first_frame": {"the demo, fast, until its first frame": (*first, "fast")},
        "page": {"gradio_app --demo, until its page is there": app},
        "jobs": {f"the demo, {preset}": (*DEMO, *out, "--preset", preset) for preset in ("fast", "quality")},
    }


def write_manifests(folder: Path) -> None:
    """A folder of a finished data processing with three clips, without pictures."""
    last = STAGE_NAMES[-1]
    for index in range(3):
        path = folder / last / f"{index}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    clips = [ManifestRow(str(i), "", f"{i}.mp4", str(i), 0.0, 3.0, "kept", file=f"{last}/{i}.mp4") for i in range(3)]
    manifests = Folder(folder / MANIFESTS)
    Manifests(manifests, STAGE_NAMES).write(last, frame_of(clips))
    write_rejudged(manifests, str(folder), StageSettings(), Folder(folder))


def row_of(name: str, runs: Sequence[Finished]) -> dict[str, Any]:
    """Median processor time and memory of some runs of one program."""
    seconds = [run.processor_sec for run in runs if run.processor_sec is not None]
    peaks = [run.peak_mb for run in runs if run.peak_mb is not None]
    return {
        "program": name,
        "processor s": round(statistics.median(seconds), 2) if seconds else "unknown",
        "least": round(min(seconds), 2) if seconds else "unknown",
        "peak MB": round(max(peaks)) if peaks else "unknown",
        "status": max(run.status for run in runs),
    }


def measure(chosen: Mapping[str, Sequence[str]], rounds: int) -> list[dict[str, Any]]:
    """One row for each program; they take turns, so that other work on the machine affects all of them."""
    runs: dict[str, list[Finished]] = {name: [] for name in chosen}
    for run in range(rounds):
        for name, arguments in chosen.items():
            runs[name].append(run_program([argument.replace("{run}", str(run)) for argument in arguments]))
    return [row_of(name, of_program) for name, of_program in runs.items()]


def on_one_core() -> None:
    """Keep this process and those that it starts on one core, where the system can, and on one thread."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SHIPPED), "GRADIO_SERVER_PORT": "0"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = tuple(programs(Path()))
    parser.add_argument("--what", nargs="+", choices=kinds, default=kinds[:-1], help="(default: all but jobs)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    on_one_core()
    with tempfile.TemporaryDirectory() as folder:
        write_manifests(Path(folder))
        known = programs(Path(folder))
        chosen = {name: arguments for kind in args.what for name, arguments in known[kind].items()}
        rows = measure(chosen, args.rounds)
    report("start", rows, args.out, rounds=args.rounds)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("start", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
