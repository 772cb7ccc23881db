"""Lip-sync a video to another audio track; without arguments, the shipped demo.

The output lasts as long as the audio and keeps the video's own frames and timestamps. If a run is stopped, the same command
resumes it.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.inference.batch import JobEntry, JobOutcome, read_jobs, run_all, run_all_on_cluster, run_all_spread
from latentsync.inference.jobs.job import LipsyncJob, check_job, check_names
from latentsync.inference.jobs.speakers_file import is_sought, is_speakers_file
from latentsync.inference.jobs.workers import WorkerPool
from latentsync.inference.memory import share_one_heap
from latentsync.inference.model_files import DEMO_UNET, ModelFiles, distilled_companion, find_model_files, settings_for
from latentsync.inference.settings import InferenceSettings, JobOptions, needs_distilled, precision_of
from latentsync.media.signing import check_signed, open_signing
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO
from latentsync.weights import FETCH_INFERENCE, PUBLIC_UNET, CheckpointError
from latentsync.weights.files import VAE_CONFIG
from latentsync.weights.table import is_of_demo, public_file
from scripts.command import OK, run_command
from scripts.inference_arguments import given, parse
from scripts.status import configure_logging

# What needs PyTorch is imported when it is used: help and errors of the user are answered at once.
if TYPE_CHECKING:
    import torch

    from latentsync.inference.jobs.report import JobReport
    from latentsync.inference.pipeline import LipsyncPipeline

SOME_FAILED = 1  # exit status

NOTES = {
    "pair": f"No video given: using the shipped demo, {DEMO_VIDEO.name} with {DEMO_AUDIO.name}.",
    "demo": f"The demo models are small and know drawn heads only. Weights for real people: `{FETCH_INFERENCE}`.",
    "temp_dir": "--temp_dir is not used; finished segments are kept in --job_dir.",
}


def choose(args: argparse.Namespace) -> list[str]:
    """Fill in defaults of `args` and check them; returns keys of `NOTES` to print."""
    if args.speakers:
        choose_speakers(args)
    pair = args.video_path, args.audio_path
    if args.jobs and any((*pair, args.report, args.job_dir)):
        raise ValueError(
            "--jobs names its own files: leave out --video_path, --audio_path, --speakers, --report and --job_dir."
        )
    if not args.jobs and (pair[0] is None) != (pair[1] is None):
        raise ValueError(
            "--video_path and --audio_path (or --speakers) belong together: give both, or neither for the demo."
        )
    if args.ray_address and not args.jobs:
        raise ValueError("--ray_address runs a list of jobs on a cluster: give the list with --jobs.")
    notes = [] if any(pair) or args.jobs else ["pair"]
    if args.demo and args.inference_ckpt_path:
        raise ValueError("--demo brings its own models: leave out --demo or --inference_ckpt_path.")
    args.demo = args.demo or not (any(pair) or args.jobs or args.inference_ckpt_path)
    if args.report and args.report.suffix != ".json":
        raise ValueError(f"cannot write the report {args.report}: its name must end in .json.")
    args.video_path, args.audio_path = args.video_path or DEMO_VIDEO, args.audio_path or DEMO_AUDIO
    given = {"demo": args.demo, "temp_dir": args.temp_dir}
    return notes + [name for name, is_given in given.items() if is_given]


def choose_speakers(args: argparse.Namespace) -> None:
    """Set the file of speakers in place of the audio; raises ValueError if both are given, or it has another ending.

    `auto` and an RTTM file stay the option `speakers`: they go with an audio file, the mix.
    """
    if is_sought(args.speakers):
        if not (args.audio_path and args.video_path):
            raise ValueError(
                f"--speakers {args.speakers} finds whose lips say what of a mix: give it with --audio_path, and --video_path."
            )
        return
    if args.audio_path:
        raise ValueError(
            '--speakers names the sounds itself: leave out --audio_path, and give a mix as "mix" in the file.'
        )
    if not is_speakers_file(Path(args.speakers)):
        raise ValueError(
            f"{args.speakers} is no file of speakers: give auto, or a .json, .csv, .srt, .vtt or .rttm file, see docs/dubbing.md."
        )
    args.audio_path, args.speakers = Path(args.speakers), None


def unet_path(args: argparse.Namespace) -> Path:
    """The demo's, the official, or the given U-Net; its distilled form if the settings need one and it exists."""
    path = DEMO_UNET if args.demo else args.inference_ckpt_path or PUBLIC_UNET
    return distilled_companion(path) if needs_distilled(given(args, InferenceSettings)) else path


def detector_name(args: argparse.Namespace) -> str:
    """The chosen face detector, or the default for the models."""
    return args.detector or (DEFAULT_DETECTOR if args.demo else "face_alignment")


def check_models(args: argparse.Namespace) -> list[str]:
    """Raise ValueError listing all missing model files, and settings that do not fit the models, before any is read.

    With `--commercial_safe` also for networks that are not for commercial use; returns notes about networks of unknown licence.
    """
    path = unet_path(args)
    files = find_model_files(path, args.unet_config_path, detector_name(args))
    try:
        files.check()
    except CheckpointError as error:
        raise CheckpointError(f"{error} Or try --demo." if path == PUBLIC_UNET else str(error)) from error
    settings_for(files, given(args, InferenceSettings))
    return check_commercial(files) if args.commercial_safe else []


def check_commercial(files: ModelFiles) -> list[str]:
    """Raise ValueError if a public network is not for commercial use; returns notes about networks that are not public."""
    own = [file for file in files.all if not is_of_demo(file.path)]
    public = {file.path: public_file(file.path) or public_file(file.path / VAE_CONFIG) for file in own}
    refused = [
        f"{file.role} ({file.path}, trained on {file.data.name})"
        for file in public.values()
        if file and not file.data.commercial
    ]
    if refused:
        raise ValueError(
            f"--commercial_safe refuses the {' and the '.join(refused)}: choose --detector cascade, which OpenCV 4 has."
        )
    return [f"--commercial_safe does not know the licence of {path}." for path, file in public.items() if file is None]


def load_pipeline(args: argparse.Namespace, device: "torch.device | None" = None) -> "LipsyncPipeline":
    """Load the models and the face detector."""
    from latentsync.inference.pipeline import LipsyncPipeline

    return LipsyncPipeline.from_pretrained(
        unet_path(args),
        args.unet_config_path,
        detector_name(args),
        device,
        precision=args.precision or precision_of(args.preset),
        compiled=args.compile,
    )


def make_pool(args: argparse.Namespace) -> WorkerPool:
    """The worker processes for `--workers`: by default one for each GPU; on a CPU they share its cores."""
    import torch

    from latentsync.device import spread_devices

    devices = spread_devices(args.workers)
    shares = len(devices) if devices[0].type == "cpu" else 1
    threads = max(1, torch.get_num_threads() // shares)
    return WorkerPool(partial(load_pipeline, args), devices, threads)


def run_quietly(args: argparse.Namespace, pipeline: "LipsyncPipeline", entry: JobEntry) -> str:
    """Run one job of many in a worker process."""
    return run_entry(args, Console(quiet=True), pipeline, entry)


def run_entry(args: argparse.Namespace, console: Console, pipeline: "LipsyncPipeline", entry: JobEntry) -> str:
    """Check one job of many, show its warnings, and run it."""
    job = checked(entry, args)
    show_warnings(job, console)
    return run_one(pipeline, entry, job, args, console)


def checked(entry: JobEntry, args: argparse.Namespace) -> LipsyncJob:
    """The job of an entry; raises ValueError or MediaError if it cannot be run."""
    options = JobOptions().changed(given(args, JobOptions)).changed(entry.options)
    return check_job(entry.video, entry.audio, entry.output, options, args.force, args.provenance)


def run_one(
    pipeline: "LipsyncPipeline",
    entry: JobEntry,
    job: LipsyncJob,
    args: argparse.Namespace,
    console: Console,
    pool: WorkerPool | None = None,
) -> str:
    """Run the job of an entry, show its progress, write its report; returns its summary and the warnings not shown yet."""
    from latentsync.inference.jobs.report import check_report, save_report
    from latentsync.inference.preflight import preflight, sheet_path
    from latentsync.inference.timing import CHECK_STAGES, STAGES

    settings = pipeline.models.defaults.changed(given(args, InferenceSettings)).changed(entry.settings)
    report_path = check_report(args.report or entry.output.with_suffix(".report.json"), job, args.force)
    with progress_bars(console) as bars:
        stages = CHECK_STAGES if args.preflight else STAGES
        tasks = {stage: bars.add_task(stage, start=False, total=None) for stage in stages}

        def on_progress(stage: str, done: int, total: int) -> None:
            bars.start_task(tasks[stage])
            bars.update(tasks[stage], completed=done, total=total)

        if args.preflight:
            report = preflight(pipeline, job, settings, sheet_path(entry.output), on_progress, args.force)
        else:
            report = pipeline.run(job, settings, on_progress, args.job_dir, args.force, pool)
    save_report(report, report_path)
    return summary_lines(report, args.preflight, () if console.quiet else job.warnings)


def show_warnings(job: LipsyncJob, console: Console) -> None:
    """Print the warnings that are known before the job runs."""
    for warning in job.warnings:
        console.print(as_note(warning), soft_wrap=True)


def as_note(warning: str) -> str:
    """A warning as it is printed."""
    return f"Note: {warning}"


def summary_lines(report: "JobReport", is_preflight: bool, shown: Sequence[str] = ()) -> str:
    """The summary of a job, after its warnings; warnings that were `shown` before are not repeated."""
    from latentsync.inference.preflight import sheet_path

    lines = [as_note(warning) for warning in report.warnings if warning not in shown]
    if is_preflight:
        return "\n".join(
            [*lines, f"Would write {report.output}: {report.summary()} Sheet: {sheet_path(report.output)}"]
        )
    return "\n".join([*lines, f"{report.output}: {report.summary()}"])


def progress_bars(console: Console) -> Progress:
    """A bar for each pass, with frames done and time left."""
    columns = (TextColumn("{task.description:13}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def show_outcomes(outcomes: Sequence[JobOutcome], console: Console) -> None:
    """Print the outcomes of many jobs as a table."""
    table = Table("job", "output", "result")
    for outcome in outcomes:
        table.add_row(str(outcome.entry.number), str(outcome.entry.output), outcome.error or outcome.summary)
    console.print(table)


def outcome_code(outcomes: Iterable[JobOutcome], console: Console) -> int:
    """Run many jobs and print their outcomes; returns the exit code."""
    all_outcomes = list(outcomes)
    show_outcomes(all_outcomes, console)
    return SOME_FAILED if any(outcome.error for outcome in all_outcomes) else OK


def lipsync(args: argparse.Namespace, console: Console) -> int:
    """Run the job or the list of jobs; returns the exit code."""
    notes = choose(args)
    entries = check_entries(args)
    licence_notes = check_models(args)
    from latentsync.device import unused_gpu

    for note in [*(NOTES[choice] for choice in notes), *licence_notes, *filter(None, [unused_gpu()])]:
        console.print(note, soft_wrap=True)
    return run_list(entries, args, console) if args.jobs else run_alone(entries[0], args, console)


def check_entries(args: argparse.Namespace) -> list[JobEntry]:
    """The jobs to run; raises ValueError for settings and MediaError for files that cannot be right, before anything is loaded."""
    InferenceSettings().changed(given(args, InferenceSettings))
    options = JobOptions().changed(given(args, JobOptions))
    entries = read_jobs(args.jobs) if args.jobs else [JobEntry(1, *files_of(args), {}, {})]
    if not args.jobs:
        check_names(*files_of(args), options, args.force)
    if args.provenance:
        for entry in entries:
            check_signed(entry.output)
        open_signing(args.provenance)
    return entries


def files_of(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """The video, the audio and the output of the only job."""
    return args.video_path, args.audio_path, args.video_out_path


def run_alone(entry: JobEntry, args: argparse.Namespace, console: Console) -> int:
    """Run the only job, on this process and the other workers; returns the exit code."""
    import torch

    job = checked(entry, args)
    show_warnings(job, console)
    pool = make_pool(args)
    with console.status("Load the models"):
        pipeline = load_pipeline(args)
    torch.set_num_threads(pool.threads)
    others = replace(pool, devices=pool.devices[1:])  # this process is one of the workers
    console.print(run_one(pipeline, entry, job, args, console, others), soft_wrap=True)
    return OK


def run_list(entries: Sequence[JobEntry], args: argparse.Namespace, console: Console) -> int:
    """Run many jobs on a Ray cluster, on worker processes, or in turn; returns the exit code."""
    pool, run = make_pool(args), partial(run_quietly, args)
    if args.ray_address:
        from latentsync.processing.run.ray_session import ray_session

        with ray_session(args.ray_address) as cluster:
            count = args.workers or int(cluster.gpus) or cluster.nodes
            return outcome_code(run_all_on_cluster(entries, run, pool.load, cluster.gpus, count), console)
    if len(pool.devices) > 1:
        return outcome_code(run_all_spread(entries, run, pool), console)
    with console.status("Load the models"):
        pipeline = load_pipeline(args)
    return outcome_code(run_all(entries, partial(run_entry, args, console, pipeline)), console)


def main(argv: list[str] | None = None, prog: str = "inference.sh") -> int:
    args = parse(argv, __doc__, prog)
    configure_logging(name="latentsync.config")
    share_one_heap()  # before the first thread
    console = Console(highlight=False, markup=False)
    return run_command(
        prog.removesuffix(".sh"), lambda: lipsync(args, console), if_stopped="the same command resumes it"
    )


if __name__ == "__main__":
    sys.exit(main())
