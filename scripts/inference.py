"""Lip-sync a video to another audio track; without arguments, the shipped demo: ./inference.sh [--help].

The output lasts as long as the sound and has the video's own frames and times. A run that was stopped goes on when the same
command is given again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from latentsync.inference.batch import JobEntry, Outcome, read_jobs, run_all
from latentsync.inference.job import check_job, check_report
from latentsync.inference.models import DEMO_UNET
from latentsync.inference.pipeline import STAGES, LipsyncPipeline
from latentsync.inference.preflight import preflight, sheet_path
from latentsync.inference.report import Report, save_report
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.weights import FETCH_INFERENCE, PUBLIC_UNET
from scripts.inference_arguments import given, parse

ROOT = Path(__file__).resolve().parent.parent
DEMO_VIDEO, DEMO_AUDIO = ROOT / "assets/demo_video.mp4", ROOT / "assets/demo_audio.wav"
SOME_FAILED, WRONG, STOPPED = 1, 2, 130  # exit codes

NOTES = {
    "pair": f"No video given: taking the shipped demo, {DEMO_VIDEO.name} with {DEMO_AUDIO.name}.",
    "demo": f"The demo models are small and know drawn heads only. Weights for real people: `{FETCH_INFERENCE}`.",
    "deepcache": "--enable_deepcache: this version has no feature cache and samples every step exactly.",
    "temp_dir": "--temp_dir: nothing is put there; finished parts wait in --job_dir.",
}


def choose(args: argparse.Namespace) -> list[str]:
    """Fill in the files that are not named and check them; returns the names of the notes for the user."""
    pair = args.video_path, args.audio_path
    if args.jobs and any((*pair, args.report, args.job_dir)):
        raise ValueError("--jobs names its own files: leave out --video_path, --audio_path, --report and --job_dir.")
    if not args.jobs and (pair[0] is None) != (pair[1] is None):
        raise ValueError("--video_path and --audio_path belong together: give both, or none for the demo.")
    notes = [] if any(pair) or args.jobs else ["pair"]
    if args.demo and args.inference_ckpt_path:
        raise ValueError("--demo brings its own models: leave out --demo or --inference_ckpt_path.")
    args.demo = args.demo or not (any(pair) or args.jobs or args.inference_ckpt_path)
    if not args.demo and args.inference_ckpt_path is None and not PUBLIC_UNET.is_file():
        raise ValueError(f"The official checkpoint {PUBLIC_UNET} is missing: run `{FETCH_INFERENCE}`, or try --demo.")
    if args.report and args.report.suffix != ".json":
        raise ValueError(f"cannot write the report {args.report}: give it a name that ends in .json.")
    args.video_path, args.audio_path = args.video_path or DEMO_VIDEO, args.audio_path or DEMO_AUDIO
    given = {"demo": args.demo, "deepcache": args.enable_deepcache, "temp_dir": args.temp_dir}
    return notes + [name for name, is_given in given.items() if is_given]


def load_pipeline(args: argparse.Namespace) -> LipsyncPipeline:
    """The demo's or the official models, or a user's own, with the face detector that suits them."""
    path = DEMO_UNET if args.demo else args.inference_ckpt_path or PUBLIC_UNET
    detector = args.detector or ("cascade" if args.demo else "face_alignment")
    return LipsyncPipeline.from_pretrained(path, args.unet_config_path, detector)


def run_one(pipeline: LipsyncPipeline, entry: JobEntry, args: argparse.Namespace, console: Console) -> str:
    """One job with its progress on the screen and its report beside the output; returns a line about it."""
    settings = pipeline.models.defaults.changed(given(args, InferenceSettings)).changed(entry.settings)
    options = JobOptions().changed(given(args, JobOptions)).changed(entry.options)
    job = check_job(entry.video, entry.audio, entry.output, options, args.force)
    report_path = check_report(args.report or entry.output.with_suffix(".report.json"), job, args.force)
    with progress_bars(console) as bars:
        tasks = {stage: bars.add_task(stage, start=False, total=None) for stage in STAGES}

        def show(stage: str, done: int, total: int) -> None:
            bars.start_task(tasks[stage])
            bars.update(tasks[stage], completed=done, total=total)

        if args.preflight:
            report = preflight(pipeline, job, settings, sheet_path(entry.output), show, args.force)
        else:
            report = pipeline.run(job, settings, show, args.job_dir, args.force)
    save_report(report, report_path)
    return told(report, args.preflight)


def told(report: Report, only_looked: bool) -> str:
    lines = [f"Note: {warning}" for warning in report.warnings]
    if only_looked:
        return "\n".join(
            [*lines, f"Would write {report.output}: {report.summary()} Sheet: {sheet_path(report.output)}"]
        )
    return "\n".join([*lines, f"{report.output}: {report.summary()}"])


def progress_bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description:13}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def show_outcomes(outcomes: Sequence[Outcome], console: Console) -> None:
    """The table at the end of many jobs."""
    table = Table("job", "output", "result")
    for outcome in outcomes:
        table.add_row(str(outcome.entry.number), str(outcome.entry.output), outcome.error or outcome.summary)
    console.print(table)


def lipsync(args: argparse.Namespace, console: Console) -> int:
    for note in choose(args):
        console.print(NOTES[note], soft_wrap=True)
    InferenceSettings().changed(given(args, InferenceSettings))  # a wrong value is told before anything is loaded
    JobOptions().changed(given(args, JobOptions))
    one = JobEntry(1, args.video_path, args.audio_path, args.video_out_path, {}, {})
    entries = read_jobs(args.jobs) if args.jobs else [one]
    if not args.jobs:
        check_job(one.video, one.audio, one.output, JobOptions().changed(given(args, JobOptions)), args.force)
    with console.status("Load the models"):
        pipeline = load_pipeline(args)
    if not args.jobs:
        console.print(run_one(pipeline, one, args, console), soft_wrap=True)
        return 0
    outcomes = list(run_all(entries, lambda entry: run_one(pipeline, entry, args, console)))
    show_outcomes(outcomes, console)
    return SOME_FAILED if any(outcome.error for outcome in outcomes) else 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv, __doc__)
    try:
        return lipsync(args, Console(highlight=False, markup=False))
    except (ValueError, OSError) as error:
        print(f"inference: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("inference: stopped; the same command goes on where it was.", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
