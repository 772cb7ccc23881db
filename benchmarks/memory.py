"""Peak memory of a whole job by length of its video; decoding, detection, sampling, paste and encoding are real.

python -m benchmarks.memory [--seconds 30 600] [--out memory.json]
python -m benchmarks.memory --video talk.mp4 --audio talk.wav --seconds 9.6 77

Drawn videos use small stand-in networks, since the memory of networks does not depend on the length. A given video uses the demo
networks; it is played back and forth, and its audio is repeated. Every length runs in its own process.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.table import report
from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.inference.jobs.report import save_report
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.system import peak_resident_mb
from latentsync.testing import StubDetector, stand_in_models, write_pair
from latentsync.timebase import SAMPLE_RATE_HZ
from scripts.command import run_command


def peak_mb() -> float:
    """Peak resident memory of this process so far; on Linux without the part inherited from its parent; 0 on Windows."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return kilobytes[0] / 1024 if kilobytes else peak_resident_mb() or 0.0


def drawn_pipeline() -> tuple[LipsyncPipeline, InferenceSettings]:
    return LipsyncPipeline(stand_in_models(), StubDetector()), InferenceSettings(steps=1, guidance_scale=1.0)


def demo_pipeline() -> tuple[LipsyncPipeline, InferenceSettings]:
    pipeline = LipsyncPipeline.from_pretrained(DEMO_UNET, None, DEFAULT_DETECTOR)
    return pipeline, pipeline.models.defaults.changed({"preset": "fast"})


def write_sound(path: Path, sound: Path, seconds: float) -> None:
    """Write the audio, repeated or cut to a duration of `seconds`."""
    waveform = read_audio(sound)
    write_wav(path, np.resize(waveform, round(seconds * SAMPLE_RATE_HZ)))


def run_job(video: Path, audio: Path, is_drawn: bool, seconds: float, answer: Connection) -> None:
    """Run one job, in its own process, and write its report; sends the row of the table through `answer`."""
    torch.set_num_threads(1)
    pipeline, settings = drawn_pipeline() if is_drawn else demo_pipeline()
    output = audio.with_name("o.mp4")
    peaks = {"start": peak_mb()}

    def watch(stage: str, done: int, total: int) -> None:
        peaks[stage] = peak_mb()

    begun = time.perf_counter()
    done = pipeline(video, audio, output, settings, progress=watch)
    save_report(done, output.with_suffix(".report.json"))
    assert done.synced_frames == done.frames or not is_drawn, "every drawn frame has a face"
    stages = {f"peak MB, {stage}": round(peak) for stage, peak in peaks.items()}
    row = {"seconds": seconds, "frames": done.frames, "frame": f"{done.width} x {done.height}", **stages}
    answer.send({**row, "peak MB": round(peak_mb()), "took s": round(time.perf_counter() - begun, 1)})


def measure(seconds: float, size: tuple[int, int], given: tuple[Path, Path] | None) -> dict[str, Any]:
    """One row of the table, for a `given` video and sound or a drawn pair of w x h `size`."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        video, audio = given[0] if given else Path(name) / "v.mp4", Path(name) / "a.wav"
        target, arguments = (
            (write_sound, (audio, given[1], seconds)) if given else (write_pair, (audio.parent, seconds, *size))
        )
        maker = context.Process(target=target, args=arguments)
        maker.start()
        maker.join()
        receiver, sender = context.Pipe(duplex=False)
        job = context.Process(target=run_job, args=(video, audio, given is None, seconds, sender))
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
    parser.add_argument("--video", type=Path, help="real footage; needs --audio")
    parser.add_argument("--audio", type=Path, help="its audio, repeated up to the length of --seconds")
    parser.add_argument("--size", nargs=2, type=int, default=[1920, 1080], metavar=("W", "H"), help="px")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if (args.video is None) != (args.audio is None):
        parser.error("--video and --audio must be given together.")
    return args


def bench(args: argparse.Namespace) -> None:
    size = (args.size[0], args.size[1])
    given = (args.video, args.audio) if args.video else None
    rows = [measure(seconds, size, given) for seconds in args.seconds]
    first = rows[0]["peak MB"]
    rows = [{**row, "against the first": f"{row['peak MB'] / first - 1:+.1%}"} for row in rows]
    report("memory", rows, args.out, size=list(size), threads=1)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("memory", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
