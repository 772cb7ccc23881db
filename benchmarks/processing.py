"""Data processing: cost of each stage, memory by number and length of clips, and speed with one core and with two.

python -m benchmarks.processing [--parts stages memory cores] [--video FILE] [--out_dir DIR]

Costs are CPU seconds of one process, which other programs disturb little. The comparison of cores is wall time, with each run
pinned to its cores.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.table import report
from latentsync.avatar.clip import spoken_clip
from latentsync.avatar.sound.sentences import random_sentence
from latentsync.config import load
from latentsync.media.probe import probe
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.processing.clip import Kept, source_clip
from latentsync.processing.config import ProcessingConfig, RunSettings
from latentsync.processing.manifests.row import ManifestRow
from latentsync.processing.plan import Plan, make_step, plan_of
from latentsync.processing.run.chain import Chain, Item
from latentsync.processing.run.progress import LocalTracker
from latentsync.processing.run.ray_session import ray_session
from latentsync.processing.run.runner import run
from latentsync.processing.run_folder import make_run_folder
from latentsync.processing.stages.order import STAGES, STEPS, StageClasses
from latentsync.system import peak_resident_mb
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ, samples_of_frames
from scripts.command import run_command

CONFIG = Path(__file__).resolve().parent.parent / "configs/processing/demo.yaml"
SEED = 7_000_000
SENTENCES = 9  # about 20 s
FRAME = (1280, 720)  # w, h px
HOURS = 2000
DRAWN = 4  # different sources for the comparison of cores; the others are copies
KEEP_ALL: dict[str, Any] = {"min_sync_confidence": -100.0, "max_offset_frames": 15, "min_quality": 0.0}
FUSED_TO_FACES = 2  # steps: stages 1 to 6


def make_source(path: Path, length_sec: float, seed: int = SEED) -> None:
    """A drawn, talking person in 720p; repeated if `length_sec` is longer than the drawing."""
    rng = np.random.default_rng(seed)
    avatar = spoken_clip(seed, " ".join(random_sentence(rng, held_out=False) for _ in range(SENTENCES)), rng)
    width, height = FRAME
    count = round(length_sec * MODEL_FPS)
    drawn = [cv2.resize(frame, (height, height)) for frame in islice(avatar.frames(), count)]
    waveform = avatar.speech.waveform[: samples_of_frames(len(drawn))]
    sound = path.with_suffix(".wav")
    write_wav(sound, np.resize(waveform, samples_of_frames(count)), SAMPLE_RATE_HZ)
    side = (width - height) // 2
    with VideoWriter(path, VideoFormat.constant(width, height, MODEL_FPS), AudioSource(sound)) as writer:
        for frame in islice(cycle(drawn), count):
            writer.write(cv2.copyMakeBorder(frame, 0, 0, side, side, cv2.BORDER_REPLICATE))
    sound.unlink()


def stage_rows(args: argparse.Namespace, plan: Plan, settings: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """CPU seconds of each stage by itself, and of the steps that share a decode, on one video."""
    video = args.video or folder / "person.mp4"
    if not args.video:
        make_source(video, 20)
    alone = [(stage,) for stage in STAGES]
    for stages in [*alone, *(step for step in STEPS if len(step) > 1)]:
        yield timed_step(stages, video, settings, folder)


def timed_step(stages: StageClasses, video: Path, settings: Any, folder: Path) -> dict[str, Any]:
    """One step on the output of the stages before it, which run first and are not timed."""
    clips = [source_clip(video, str(video), video.name)]
    for earlier in earlier_steps(stages):
        clips = [clip for each in clips for clip in kept_by(make_step(earlier, settings), each, folder / "before")]
    step = make_step(stages, settings)
    kept_by(step, clips[0], folder / "warm")
    begun = time.process_time()
    for clip in clips:
        kept_by(step, clip, folder / "timed")
    cpu_sec = time.process_time() - begun
    video_sec = sum(clip.duration_sec for clip in clips) or probe(video).duration_sec
    speed = video_sec / cpu_sec
    return {
        "stages": " + ".join(stage.name for stage in stages),
        "video s": round(video_sec, 1),
        "cpu s": round(cpu_sec, 2),
        "video s per cpu s": round(speed, 2),
        f"core hours for {HOURS} h": round(HOURS / speed),
    }


def earlier_steps(stages: StageClasses) -> list[StageClasses]:
    """The steps that must run before `stages`: whole steps, and earlier stages of the same step."""
    place = next(index for index, step in enumerate(STEPS) if stages[0] in step)
    inside = STEPS[place][: STEPS[place].index(stages[0])]
    return [*STEPS[:place], *((stage,) for stage in inside)]


def kept_by(step: Any, clip: Any, folder: Path) -> list[Any]:
    folders = {stage.name: folder / stage.name if stage.writes == "always" else None for stage in step.stages}
    for each in folders.values():
        if each:
            each.mkdir(parents=True, exist_ok=True)
    last = step.stages[-1].name
    return [outcome.clip for name, outcome in step(clip, folders) if name == last and isinstance(outcome, Kept)]


def memory_rows(args: argparse.Namespace, plan: Plan, settings: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """Peak memory of one worker: for increasingly long sources, then for many short ones."""
    for number, seconds in enumerate((10, 20, 80)):
        yield memory_row(plan, folder / f"long {number}", [seconds])
    for number in range(3):
        yield memory_row(plan, folder / f"many {number}", [10] * 4)


def memory_row(plan: Plan, folder: Path, lengths_sec: Sequence[int]) -> dict[str, Any]:
    videos = folder / "raw"
    videos.mkdir(parents=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # in another process, so that its memory is not measured
        pool.submit(make_source, videos / "0.mp4", lengths_sec[0]).result()
    for number in range(1, len(lengths_sec)):
        shutil.copy(videos / "0.mp4", videos / f"{number}.mp4")
    run_folder = make_run_folder(videos)
    run_folder.manifests.write("current_run", run_folder.run_id.encode())
    chain = Chain(plan, plan, run_folder, LocalTracker())
    for name, size in run_folder.sources().items():
        list(chain(Item(plan[0].name, ManifestRow("", "", name, scores={"source_bytes": size}))))
    peak = peak_resident_mb() or 0.0
    return {"clips": len(lengths_sec), "seconds each": lengths_sec[0], "peak MiB so far": round(peak)}


def cores_rows(args: argparse.Namespace, plan: Plan, settings: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """Wall time of stages 1 to 6 over the same folder with one core and with two; Ray's start is not counted."""
    videos = folder / "raw"
    videos.mkdir()
    for number in range(args.sources):
        if number < DRAWN:
            make_source(videos / f"{number}.mp4", 10, SEED + number)
        else:
            shutil.copy(videos / f"{number % DRAWN}.mp4", videos / f"{number}.mp4")
    taken: dict[int, float] = {}
    all_cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    for cores in (1, 2):
        if hasattr(os, "sched_setaffinity"):  # also for Ray, its processes and the encoder's threads
            os.sched_setaffinity(0, sorted(all_cores)[:cores])
        with ray_session(cores=cores, gpus=0):
            run_folder = make_run_folder(videos, folder / f"{cores} cores")
            begun = time.perf_counter()
            run(plan[:FUSED_TO_FACES], run_folder, RunSettings())
            taken[cores] = time.perf_counter() - begun
        yield {"cores": cores, "wall s": round(taken[cores], 1), "times as fast": round(taken[1] / taken[cores], 2)}
    if all_cores:
        os.sched_setaffinity(0, all_cores)


PARTS = {"memory": memory_rows, "stages": stage_rows, "cores": cores_rows}  # memory first, while the process is small


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--config", type=Path, default=CONFIG, help="a file of configs/processing (default: %(default)s)")
    add("--video", type=Path, help="for the table of stages (default: a drawn person, 720p, 20 s)")
    add("--sources", type=int, default=8, help="videos of 10 s for the comparison of cores")
    add("--out_dir", type=Path, help="folder for one JSON file for each part")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    settings = replace(load(args.config, ProcessingConfig).stages, **KEEP_ALL)
    plan = plan_of(settings)
    with tempfile.TemporaryDirectory() as name:
        for part in args.parts:
            rows = list(PARTS[part](args, plan, settings, Path(name)))
            report(f"processing {part}", rows, args.out_dir and args.out_dir / f"{part}.json", config=str(args.config))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("processing", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
