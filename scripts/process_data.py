"""Turn a folder of raw videos into training clips: ./data_processing_pipeline.sh --input_dir DIR [entries of the configuration]

The same command continues after an interruption. With --reapply, other thresholds are applied to the scores of a
run; settings that are not given are those of the run.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from latentsync.data.storage import Folder
from latentsync.face.detection.detector import BACKENDS
from latentsync.processing.config import ProcessingConfig
from latentsync.processing.manifests.settings_record import recorded_entries
from latentsync.processing.pipeline import process, rejudge
from latentsync.processing.report.funnel import Funnel, hours_text, label
from latentsync.processing.stages.av_synced import SYNC_MODELS
from latentsync.processing.stages.high_visual_quality import QUALITY_METRICS
from scripts.command import run_command, yaml_file
from scripts.processing_progress import ProgressDisplay
from scripts.shards import SHARDS, add_shards, clip_names, pack

CONFIG = Path(__file__).resolve().parent.parent / "configs/processing/default.yaml"
# option -> entry of the configuration
ENTRIES = {
    "resolution": "stages.resolution",
    "detector": "stages.detector",
    "sync_model": "stages.sync_model",
    "quality_metric": "stages.quality_metric",
    "sync_conf_threshold": "stages.min_sync_confidence",
    "ray_address": "run.ray_address",
    "total_num_workers": "run.cores",
    "per_gpu_num_workers": "run.workers_per_gpu",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="data_processing_pipeline.sh", description=__doc__)
    add = parser.add_argument
    add("--input_dir", help="raw videos, with sub-folders; a path or s3://, gs://, hdfs://; only read")
    add("--output_dir", help="where the stages' folders appear (default: beside the input folder)")
    add(
        "--config",
        type=yaml_file,
        help=f"a file of configs/processing (default: {CONFIG}; with --reapply, the run's settings)",
    )
    add("--dry_run", action="store_true", help="measure and report in OUTPUT/dry_run, keep no clips")
    add("--keep_stages", action="store_true", help="keep the files of every stage, not only the last one's")
    add("--reapply", metavar="MANIFESTS", help="apply the thresholds to a run's manifests, into --output_dir")
    add_shards(add, "also write the kept clips into OUTPUT/shards, from which training streams")
    add("--resolution", type=int, help="px of the aligned faces (default: 256)")
    add("--detector", choices=BACKENDS, help="default: face_alignment")
    add("--sync_model", choices=SYNC_MODELS, help="demo: the small network that ships with the project")
    add("--quality_metric", choices=QUALITY_METRICS, help="sharpness: needs no weights")
    add("--sync_conf_threshold", type=float, help="least sync confidence (default: the network's own, 3)")
    add("--ray_address", metavar="HOST:PORT", help="a running Ray cluster (default: this machine)")
    add("--total_num_workers", type=int, metavar="N", help="cores of this machine to use (default: all)")
    add("--per_gpu_num_workers", type=int, metavar="N", help="workers that share a GPU (default: 4)")
    add("--temp_dir", type=Path, help="accepted and ignored: unfinished files are in OUTPUT/manifests")
    add("overrides", nargs="*", help="entries such as stages.min_quality=30")
    return parser.parse_args(argv)


def configuration(args: argparse.Namespace) -> ProcessingConfig:
    from latentsync.config import load  # imports PyTorch

    given = [f"{entry}={getattr(args, name)}" for name, entry in ENTRIES.items() if getattr(args, name) is not None]
    given += ["run.keep_stages=true"] if args.keep_stages else []
    recorded = recorded_entries(Folder(args.reapply)) if args.reapply and not args.config else []
    return load(args.config or CONFIG, ProcessingConfig, [*recorded, *given, *args.overrides])


def summary(funnel: Funnel) -> str:
    given, kept = funnel.stages[0].given, funnel.stages[-1].kept
    text = f"{given.clips:,} videos of {hours_text(given.hours)}: {kept.clips:,} clips of {hours_text(kept.hours)} kept"
    failed = sum(share.clips for stage in funnel.stages for share in stage.failed.values())
    return f"{text}; {failed:,} failed, the same command tries them again." if failed else f"{text}."


def run_process(args: argparse.Namespace, console: Console) -> None:
    with ProgressDisplay(console) as display:
        done = process(args.input_dir, args.output_dir, configuration(args), args.dry_run, display.show)
    console.print(summary(done.funnel))
    if done.without_source:
        console.print(f"{done.without_source} clips wait for a source that is no longer in the input folder.")
    console.print(f"Clips: {done.clips}" if done.clips else "A dry run keeps no clips.", soft_wrap=True)
    console.print(f"Report: {done.report}", soft_wrap=True)
    if args.output_format == SHARDS and done.clips:
        clips = Folder(done.clips)
        pack(clips, clip_names(clips), clips.beside().under(SHARDS), args.shard_mb, console)


def run_reapply(args: argparse.Namespace, console: Console) -> None:
    if not args.output_dir:
        raise ValueError("--reapply needs --output_dir: an empty folder for the new manifests, report and list.")
    done = rejudge(args.reapply, args.output_dir, configuration(args).stages)
    console.print(summary(done.funnel))
    for stage, clips in done.unmeasured.items():
        if clips:
            console.print(f"{label(stage)}: {clips:,} more clips would be kept, but no later stage has measured them.")
    console.print(f"Clips: {done.kept_list}\nReport: {done.report}", soft_wrap=True)


def work(args: argparse.Namespace) -> None:
    if bool(args.input_dir) == bool(args.reapply):
        raise ValueError("give --input_dir with a folder of videos, or --reapply with a run's manifests.")
    if args.output_format == SHARDS and (args.reapply or args.dry_run):
        raise ValueError(
            f"--output_format {SHARDS} needs a run that keeps clips; after --reapply use scripts.write_fileslist with it."
        )
    (run_reapply if args.reapply else run_process)(args, Console(highlight=False, markup=False))


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("process_data", lambda: work(args), if_stopped="the same command continues from here")


if __name__ == "__main__":
    sys.exit(main())
