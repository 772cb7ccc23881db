"""Memory of a whole job against the length of its video: decoding, faces, sampling, paste and encoding are real.

python -m benchmarks.memory [--seconds 30 600] [--out memory.json]

The networks are small stand-ins, because theirs is the same at any length. Every length is a process of its own.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.stand_in import MiddleFace, stand_in_models, write_pair
from benchmarks.table import report
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.report import save_report
from latentsync.inference.settings import InferenceSettings

KB_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1  # of ru_maxrss: bytes on macOS, kilobytes elsewhere


def peak_mb() -> float:
    """The most memory that this process has had so far; on Linux without what its parent had when it was started."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    kilobytes: list[float] = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return (kilobytes or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB_PER_UNIT])[0] / 1024


def run_job(folder: Path, seconds: float, size: tuple[int, int], answer: Connection) -> None:
    """In a process of its own: one job and its report; sends its row of the table."""
    torch.set_num_threads(1)
    pipeline = LipsyncPipeline(stand_in_models(), MiddleFace())
    peaks = {"start": peak_mb()}

    def watch(stage: str, done: int, total: int) -> None:
        peaks[stage] = peak_mb()

    begun = time.perf_counter()
    settings = InferenceSettings(steps=1, guidance_scale=1.0)
    done = pipeline(folder / "v.mp4", folder / "a.wav", folder / "o.mp4", settings, progress=watch)
    save_report(done, folder / "o.report.json")
    assert done.synced_frames == done.frames, "every frame has a face"
    stages = {f"peak MB, {stage}": round(peak) for stage, peak in peaks.items()}
    row = {"seconds": seconds, "frames": done.frames, "frame": "{} x {}".format(*size), **stages}
    answer.send({**row, "peak MB": round(peak_mb()), "took s": round(time.perf_counter() - begun, 1)})


def measure(seconds: float, size: tuple[int, int]) -> dict[str, Any]:
    """One row of the table."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        maker = context.Process(target=write_pair, args=(Path(name), seconds, *size))
        maker.start()
        maker.join()
        receiver, sender = context.Pipe(duplex=False)
        job = context.Process(target=run_job, args=(Path(name), seconds, size, sender))
        job.start()
        sender.close()
        try:
            row: dict[str, Any] = receiver.recv()
        except EOFError:
            raise RuntimeError(f"the job of {seconds:g} s failed, see above") from None
        job.join()
    return row


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", nargs="+", type=float, default=[30.0, 600.0], help="lengths of the videos")
    parser.add_argument("--size", nargs=2, type=int, default=[1920, 1080], metavar=("W", "H"), help="px")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    size = (args.size[0], args.size[1])
    rows = [measure(seconds, size) for seconds in args.seconds]
    first = rows[0]["peak MB"]
    rows = [{**row, "against the first": f"{row['peak MB'] / first - 1:+.1%}"} for row in rows]
    report("memory", rows, args.out, size=list(size), threads=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
