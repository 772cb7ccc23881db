"""Lip-sync a video to another audio track; without arguments, the shipped demo: ./inference.sh [--help].

The output lasts as long as the sound and has the video's own frames and times. A run that was stopped goes on when the same
command is given again.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from latentsync.config import UNetRun, load
from latentsync.device import spread_devices
from latentsync.inference.batch import JobEntry, JobOutcome, read_jobs, run_all, run_all_on_cluster, run_all_spread
from latentsync.inference.jobs.job import LipsyncJob, check_job
from latentsync.inference.jobs.report import check_report, save_report
from latentsync.inference.jobs.workers import WorkerPool
from latentsync.inference.memory import share_one_heap
from latentsync.inference.model_files import TINY_VAE, find_model_files
from latentsync.inference.models import DEMO_UNET, check_settings, distilled_companion, recommended
from latentsync.inference.pipeline import STAGES, LipsyncPipeline
from latentsync.inference.preflight import preflight, sheet_path
from latentsync.inference.settings import InferenceSettings, JobOptions, precision_of
from latentsync.processing.run.ray_session import ray_session
from latentsync.weights import FETCH_INFERENCE, PUBLIC_UNET, CheckpointError
from scripts.command import run_command
from scripts.inference_arguments import given, parse
from scripts.inference_screen import as_note, progress_bars, show_outcomes, told

ROOT = Path(__file__).resolve().parent.parent
DEMO_VIDEO, DEMO_AUDIO = ROOT / "assets/demo_video.mp4", ROOT / "assets/demo_audio.wav"
SOME_FAILED = 1  # exit status

NOTES = {
    "pair": f"No video given: taking the shipped demo, {DEMO_VIDEO.name} with {DEMO_AUDIO.name}.",
    "demo": f"The demo models are small and know drawn heads only. Weights for real people: `{FETCH_INFERENCE}`.",
    "temp_dir": "--temp_dir: nothing is put there; finished parts wait in --job_dir.",
}


def choose(args: argparse.Namespace) -> list[str]:
    """Fill in the files that are not named and check them; returns the names of the notes for the user."""
    pair = args.video_path, args.audio_path
    if args.jobs and any((*pair, args.report, args.job_dir)):
        raise ValueError("--jobs names its own files: leave out --video_path, --audio_path, --report and --job_dir.")
    if not args.jobs and (pair[0] is None) != (pair[1] is None):
        raise ValueError("--video_path and --audio_path belong together: give both, or none for the demo.")
    if args.ray_address and not args.jobs:
        raise ValueError("--ray_address spreads many jobs over a cluster: give their list with --jobs.")
    notes = [] if any(pair) or args.jobs else ["pair"]
    if args.demo and args.inference_ckpt_path:
        raise ValueError("--demo brings its own models: leave out --demo or --inference_ckpt_path.")
    args.demo = args.demo or not (any(pair) or args.jobs or args.inference_ckpt_path)
    if args.report and args.report.suffix != ".json":
        raise ValueError(f"cannot write the report {args.report}: give it a name that ends in .json.")
    check_models(args)
    args.video_path, args.audio_path = args.video_path or DEMO_VIDEO, args.audio_path or DEMO_AUDIO
    given = {"demo": args.demo, "temp_dir": args.temp_dir}
    return notes + [name for name, is_given in given.items() if is_given]


def unet_path(args: argparse.Namespace) -> Path:
    """The demo's or the official U-Net, or a user's own; its distilled form where the settings need one that is there."""
    path = DEMO_UNET if args.demo else args.inference_ckpt_path or PUBLIC_UNET
    needs_distilled = InferenceSettings().changed(given(args, InferenceSettings)).needs_distilled_weights
    return distilled_companion(path) if needs_distilled else path


def detector_name(args: argparse.Namespace) -> str:
    """The face detector that suits the models."""
    return args.detector or ("cascade" if args.demo else "face_alignment")


def check_models(args: argparse.Namespace) -> None:
    """ValueError with everything that is missing of the models, before any of them is read."""
    path = unet_path(args)
    files = find_model_files(path, args.unet_config_path, detector_name(args))
    try:
        files.check()
    except CheckpointError as error:
        raise CheckpointError(f"{error} Or try --demo." if path == PUBLIC_UNET else str(error)) from error
    settings = recommended(files.facts).changed(given(args, InferenceSettings))
    check_settings(settings, "distilled" in files.facts, (path.parent / TINY_VAE).is_file())


def load_pipeline(args: argparse.Namespace, device: torch.device | None = None) -> LipsyncPipeline:
    """The models with the face detector that suits them."""
    return LipsyncPipeline.from_pretrained(
        unet_path(args),
        args.unet_config_path,
        detector_name(args),
        device,
        precision=args.precision or precision_of(args.preset),
        compiled=args.compile,
    )


def make_pool(args: argparse.Namespace) -> WorkerPool:
    """The processes that `--workers` asks for: one for each GPU, or so many, which share the processor's cores."""
    devices = spread_devices(args.workers)
    shares = len(devices) if devices[0].type == "cpu" else 1
    threads = max(1, torch.get_num_threads() // shares)
    return WorkerPool(partial(load_pipeline, args), devices, threads)


def run_quietly(args: argparse.Namespace, pipeline: LipsyncPipeline, entry: JobEntry) -> str:
    """One job of many, in a process of its own."""
    return run_one(pipeline, entry, args, Console(quiet=True))


def run_one(
    pipeline: LipsyncPipeline,
    entry: JobEntry,
    args: argparse.Namespace,
    console: Console,
    pool: WorkerPool | None = None,
) -> str:
    """One job with its progress on the screen and its report beside the output; returns a line about it, and the warnings
    that came up in the work."""
    settings = pipeline.models.defaults.changed(given(args, InferenceSettings)).changed(entry.settings)
    options = JobOptions().changed(given(args, JobOptions)).changed(entry.options)
    job = check_job(entry.video, entry.audio, entry.output, options, args.force)
    if args.jobs:
        show_warnings(job, console)
    report_path = check_report(args.report or entry.output.with_suffix(".report.json"), job, args.force)
    with progress_bars(console) as bars:
        tasks = {
            stage: bars.add_task(stage, start=False, total=None) for stage in STAGES[: 1 if args.preflight else None]
        }

        def show(stage: str, done: int, total: int) -> None:
            bars.start_task(tasks[stage])
            bars.update(tasks[stage], completed=done, total=total)

        if args.preflight:
            report = preflight(pipeline, job, settings, sheet_path(entry.output), show, args.force)
        else:
            report = pipeline.run(job, settings, show, args.job_dir, args.force, pool)
    save_report(report, report_path)
    return told(report, args.preflight, () if console.quiet else job.warnings)


def show_warnings(job: LipsyncJob, console: Console) -> None:
    """What is known before the work."""
    for warning in job.warnings:
        console.print(as_note(warning), soft_wrap=True)


def outcome_code(outcomes: Iterable[JobOutcome], console: Console) -> int:
    """Run many jobs, show what became of each; returns the exit code."""
    all_outcomes = list(outcomes)
    show_outcomes(all_outcomes, console)
    return SOME_FAILED if any(outcome.error for outcome in all_outcomes) else 0


def lipsync(args: argparse.Namespace, console: Console) -> int:
    for note in choose(args):
        console.print(NOTES[note], soft_wrap=True)
    if args.unet_config_path:
        load(args.unet_config_path, UNetRun, note=lambda line: console.print(line, soft_wrap=True))
    InferenceSettings().changed(given(args, InferenceSettings))  # a wrong value is told before anything is loaded
    JobOptions().changed(given(args, JobOptions))
    one = JobEntry(1, args.video_path, args.audio_path, args.video_out_path, {}, {})
    entries = read_jobs(args.jobs) if args.jobs else [one]
    if not args.jobs:
        options = JobOptions().changed(given(args, JobOptions))
        show_warnings(check_job(one.video, one.audio, one.output, options, args.force), console)
    pool = make_pool(args)
    if args.jobs and args.ray_address:
        with ray_session(args.ray_address) as cluster:
            count = args.workers or int(cluster.gpus) or cluster.nodes
            run = partial(run_quietly, args)
            return outcome_code(run_all_on_cluster(entries, run, pool.load, cluster.gpus, count), console)
    if args.jobs and len(pool.devices) > 1:
        return outcome_code(run_all_spread(entries, partial(run_quietly, args), pool), console)
    with console.status("Load the models"):
        pipeline = load_pipeline(args)
    if args.jobs:
        return outcome_code(run_all(entries, lambda entry: run_one(pipeline, entry, args, console)), console)
    torch.set_num_threads(pool.threads)
    helpers = replace(pool, devices=pool.devices[1:])  # this process is one of the workers
    console.print(run_one(pipeline, one, args, console, helpers), soft_wrap=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv, __doc__)
    share_one_heap()  # before the first thread
    console = Console(highlight=False, markup=False)
    return run_command("inference", lambda: lipsync(args, console), if_stopped="the same command goes on where it was")


if __name__ == "__main__":
    sys.exit(main())
