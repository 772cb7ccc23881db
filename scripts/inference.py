"""Lip-sync a video to another audio track; without arguments, the shipped demo: ./inference.sh [--help]."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from latentsync.device import pick_device
from latentsync.face.detect import BACKENDS, make_detector
from latentsync.inference.job import check_job
from latentsync.inference.models import DEMO_UNET, LipsyncModels
from latentsync.inference.pipeline import STAGES, LipsyncPipeline
from latentsync.inference.settings import InferenceSettings
from latentsync.weights import FETCH_INFERENCE, PUBLIC_UNET

ROOT = Path(__file__).resolve().parent.parent
DEMO_VIDEO, DEMO_AUDIO = ROOT / "assets/demo_video.mp4", ROOT / "assets/demo_audio.wav"

NOTES = {
    "pair": f"No video given: taking the shipped demo, {DEMO_VIDEO.name} with {DEMO_AUDIO.name}.",
    "demo": f"The demo models are small and know drawn heads only. Weights for real people: `{FETCH_INFERENCE}`.",
    "deepcache": "--enable_deepcache: this version has no feature cache and samples every step exactly.",
    "temp_dir": "--temp_dir: nothing is put there; the output grows beside its final name, as NAME.partial.",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="inference.sh", description=__doc__)
    add = parser.add_argument
    add("--video_path", type=Path, help="the video whose lips are changed")
    add("--audio_path", type=Path, help="what they shall speak: any file with sound")
    add("--video_out_path", type=Path, default=Path("video_out.mp4"), help="the result, MP4 (default: %(default)s)")
    add("--demo", action="store_true", help="use the small demo models that ship with the project")
    add("--inference_ckpt_path", type=Path, help=f"the U-Net (default: checkpoints/{PUBLIC_UNET.name})")
    add("--unet_config_path", type=Path, help="for a U-Net of unknown origin, see configs/unet")
    add("--inference_steps", type=int, metavar="N", help="sampling steps (default: the checkpoint's, mostly 20)")
    add("--guidance_scale", type=float, metavar="X", help="how much the audio is exaggerated (default: mostly 1.5)")
    add("--seed", type=int, help="same seed, same result; -1 for another every time (default: 1247)")
    add("--reference", choices=("current", "elsewhere"), help="show the network the very frames, or another moment")
    add("--init", choices=("noise", "reference"), help="where sampling starts")
    add("--colour", choices=("decoded", "matched"), help="matched: take out the auto-encoder's own colour error")
    add("--detector", choices=BACKENDS, help="default: face_alignment, or cascade with demo models")
    add("--report", type=Path, metavar="FILE.json", help="write what was done as JSON")
    add("--enable_deepcache", action="store_true", help="accepted; this version samples exactly without it")
    add("--temp_dir", type=Path, help="accepted; this version needs no temporary files")
    return parser.parse_args(argv)


def choose(args: argparse.Namespace) -> list[str]:
    """Fill in the files that are not named and check them; returns the names of the notes for the user."""
    if (args.video_path is None) != (args.audio_path is None):
        raise ValueError("--video_path and --audio_path belong together: give both, or none for the demo.")
    notes = [] if args.video_path else ["pair"]
    if args.demo and args.inference_ckpt_path:
        raise ValueError("--demo brings its own models: leave out --demo or --inference_ckpt_path.")
    args.demo = args.demo or not (args.video_path or args.inference_ckpt_path)
    if not args.demo and args.inference_ckpt_path is None and not PUBLIC_UNET.is_file():
        raise ValueError(f"The official checkpoint {PUBLIC_UNET} is missing: run `{FETCH_INFERENCE}`, or try --demo.")
    if args.report and args.report.suffix != ".json":
        raise ValueError(f"cannot write the report {args.report}: give it a name that ends in .json.")
    args.video_path, args.audio_path = args.video_path or DEMO_VIDEO, args.audio_path or DEMO_AUDIO
    given = {"demo": args.demo, "deepcache": args.enable_deepcache, "temp_dir": args.temp_dir}
    return notes + [name for name, is_given in given.items() if is_given]


def load_pipeline(demo: bool, checkpoint: Path | None, config: Path | None, detector: str | None) -> LipsyncPipeline:
    """The demo's or the official models, or a user's own, with the face detector that suits them."""
    device = pick_device()
    finder = make_detector(detector or ("cascade" if demo else "face_alignment"), device=str(device))
    path = DEMO_UNET if demo else checkpoint or PUBLIC_UNET
    return LipsyncPipeline(LipsyncModels.load(path, config, device), finder)


def settings_of(args: argparse.Namespace, defaults: InferenceSettings) -> InferenceSettings:
    given = {name: getattr(args, name) for name in ("guidance_scale", "seed", "reference", "init", "colour")}
    return defaults.changed({"steps": args.inference_steps, **given})


def lipsync(args: argparse.Namespace, console: Console) -> None:
    for note in choose(args):
        console.print(NOTES[note], soft_wrap=True)
    settings_of(args, InferenceSettings())  # a wrong value is told before anything is loaded
    job = check_job(args.video_path, args.audio_path, args.video_out_path)
    with console.status("Load the models"):
        pipeline = load_pipeline(args.demo, args.inference_ckpt_path, args.unet_config_path, args.detector)
    columns = (TextColumn("{task.description:13}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console) as bars:
        tasks = {stage: bars.add_task(stage, start=False, total=None) for stage in STAGES}

        def show(stage: str, done: int, total: int) -> None:
            bars.start_task(tasks[stage])
            bars.update(tasks[stage], completed=done, total=total)

        report = pipeline.run(job, settings_of(args, pipeline.models.defaults), show)
    if args.report:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    console.print(f"{report.output}: {report.summary()}", soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        lipsync(args, Console(highlight=False, markup=False))
    except (ValueError, OSError) as error:
        print(f"inference: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("inference: stopped; no output was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
