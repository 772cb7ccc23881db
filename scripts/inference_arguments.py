"""The command line of `scripts.inference`."""

import argparse
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from latentsync.diffusion.solvers import SOLVERS
from latentsync.face.detection.detector import BACKENDS
from latentsync.inference.memory import MemoryChoice
from latentsync.inference.settings import (
    DEEPCACHE_INTERVAL,
    PRESETS,
    Colour,
    Init,
    LastWindow,
    Length,
    OnMissingFace,
    Reference,
    Rest,
    Silence,
    Texture,
    Vae,
)
from latentsync.media.pixels.interlace import Interlaced
from latentsync.media.video.encode import CODECS
from latentsync.precision import PRECISIONS
from latentsync.weights import PUBLIC_UNET
from latentsync.weights.adapters import joined
from scripts.command import yaml_file


def parse(argv: list[str] | None, description: str | None, prog: str = "inference.sh") -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    files = parser.add_argument_group("files").add_argument
    files("--video_path", type=Path, help="the video (or picture) whose lips are changed")
    files("--audio_path", type=Path, help="the new speech: any file with an audio track")
    files(
        "--speakers",
        metavar="{auto,FILE}",
        help="in place of --audio_path, for several people: .json, .csv, .srt or .vtt that says who speaks when and what, see"
        " docs/dubbing.md; with --audio_path, a mix: auto finds who speaks when, and with an .rttm file whose face is whose",
    )
    files("--video_out_path", type=Path, default=Path("video_out.mp4"), help="the output (default: %(default)s)")
    files(
        "--jobs",
        type=Path,
        metavar="LIST",
        help="run many jobs: .csv or .jsonl with video, audio, output, and settings",
    )
    files("--report", type=Path, metavar="FILE.json", help="the report (default: beside the output)")
    files("--job_dir", type=Path, help="folder of finished segments (default: OUTPUT.job, deleted after success)")
    files("--force", action="store_true", help="start over, and replace a file that this program did not write")
    files("--preflight", action="store_true", help="only find faces: write the report and a contact sheet")
    models = parser.add_argument_group("models").add_argument
    models("--demo", action="store_true", help="use the small demo models that ship with the project")
    models("--inference_ckpt_path", type=Path, help=f"the U-Net (default: checkpoints/{PUBLIC_UNET.name})")
    models(
        "--adapter",
        action="append",
        metavar="FILE[:FACTOR]",
        help="an adapter of the U-Net, for a person or a language, and how strongly it acts (default: 1); may be repeated",
    )
    models("--vae", choices=get_args(Vae), help="tiny: decode faces with the small tiny_vae.safetensors")
    models(
        "--precision",
        choices=PRECISIONS,
        help="of the U-Net and auto-encoder (default: auto; half for the presets fast and turbo)",
    )
    models("--compile", action="store_true", help="compile the U-Net: slower start, faster on long videos")
    models(
        "--unet_config_path",
        type=yaml_file,
        help="configuration of a U-Net that has none in its file, see configs/unet",
    )
    models("--detector", choices=BACKENDS, help="default: face_alignment, or mesh with demo models")
    models(
        "--commercial_safe", action="store_true", help="refuse networks whose licence or training data is not for that"
    )
    models("--workers", type=int, metavar="N", help="number of worker processes (default: one for each GPU)")
    models(
        "--ray_address",
        metavar="HOST:PORT",
        help="with --jobs: run them on this Ray cluster, whose machines share the files",
    )
    models("--memory", choices=get_args(MemoryChoice), help="how much is computed at once (default: as much as fits)")
    lips = parser.add_argument_group("lips (defaults are the checkpoint's)").add_argument
    lips(
        "--preset",
        choices=PRESETS,
        help="a trade of time for quality, see docs/performance.md; other flags override it",
    )
    distilled = ", ".join(each.name for each in SOLVERS if each.needs_distilled)
    lips("--solver", choices=[each.name for each in SOLVERS], help=f"sampling method ({distilled}: distilled weights)")
    lips("--inference_steps", dest="steps", type=int, metavar="N", help="sampling steps, usually 20")
    lips("--guidance_scale", type=float, metavar="X", help="strength of the audio's influence, usually 1.5")
    lips(
        "--guidance_interval",
        nargs=2,
        type=float,
        metavar=("FROM", "TO"),
        help="apply guidance only between these fractions of the way from noise (0) to picture (1)",
    )
    lips(
        "--enable_deepcache",
        dest="deepcache_interval",
        action="store_const",
        const=DEEPCACHE_INTERVAL,
        help=f"short for --deepcache_interval {DEEPCACHE_INTERVAL}",
    )
    lips(
        "--deepcache_interval",
        type=int,
        metavar="N",
        help="run the whole U-Net only every N steps, its last layer in the others (default: 1, exact)",
    )
    lips("--seed", type=int, help="the same seed gives the same result; -1 draws one")
    lips(
        "--reference",
        choices=get_args(Reference),
        help="reference frames: the repainted ones, another moment, or closed lips",
    )
    lips("--init", choices=get_args(Init), help="start of sampling: pure noise, or the reference with noise")
    lips(
        "--colour",
        choices=get_args(Colour),
        help="matched: correct the auto-encoder's colour error, and the colours along the border of the repainted part",
    )
    lips(
        "--texture",
        choices=get_args(Texture),
        help="match: keep the frame's own fine detail where the new face shows the same",
    )
    lips(
        "--silence",
        choices=get_args(Silence),
        help="in pauses of the audio: close the mouth, or keep the video's lips (default: model, as in speech)",
    )
    lips(
        "--strength",
        metavar="X",
        help="how far lips open: 1 as the model opens them, 0 closed, up to 2; or seconds and strength, such as '0:1 12.5:0.6'",
    )
    lips(
        "--last_window",
        choices=get_args(LastWindow),
        help="frames left over at a segment's end: with those before them (default: shift), or alone as in the releases (shorten)",
    )
    lips(
        "--overlap",
        type=int,
        metavar="FRAMES",
        help="frames shared by neighbouring windows, cross-faded (default: none)",
    )
    tracks = parser.add_argument_group("tracks (of files that have several; the first is 1)").add_argument
    tracks(
        "--audio_track",
        type=int,
        metavar="N",
        help="of the audio file (default: the one that the file marks)",
    )
    tracks("--video_track", type=int, metavar="N", help="of the video (default: the one that the file marks)")
    faces = parser.add_argument_group("faces").add_argument
    faces("--face", help="which person: largest, center, a number, x,y@seconds, or a picture of the person")
    faces("--on_missing_face", "--on-missing-face", choices=get_args(OnMissingFace), help="default: passthrough")
    faces("--min_face_px", type=float, metavar="PX", help="narrower faces are passed through")
    faces(
        "--max_yaw_deg",
        type=float,
        metavar="DEGREES",
        help="faces turned further, aside or up or down, are passed through",
    )
    faces(
        "--occlusion",
        metavar="{auto,off,MASKS}",
        help="keep what is in front of the mouth: search for it (auto), or the path of masks, a picture or video, white in front"
        " (default: off)",
    )
    output = parser.add_argument_group("output").add_argument
    output("--fps", type=rate, help="frames per second, such as 25 or 30000/1001 (default: the video's own)")
    output("--length", choices=get_args(Length), help="if the audio is longer than the video (default: bounce)")
    output("--rest", choices=get_args(Rest), help="of a video longer than the audio (default: cut)")
    output(
        "--range",
        dest="ranges",
        nargs="+",
        metavar="START-END",
        help="edit only these parts, in seconds, such as 12.5-31.0; the rest of the video and its sound stay as they are;"
        " START-END@AUDIO: with the audio from that second on (default: from its start, then on from range to range)",
    )
    output("--start_sec", type=float, metavar="SECONDS", help="a preview from this second of the output on")
    output("--limit_sec", type=float, metavar="SECONDS", help="a preview of this length")
    output("--codec", choices=CODECS, help="default: auto, which is H.264, or HEVC for videos of more than 8 bits")
    output(
        "--interlaced",
        choices=get_args(Interlaced),
        help="interlaced video: deinterlace it (default), or keep its fields",
    )
    output("--crf", type=int, help="quality of the encode, lower is better (default: 15)")
    origin = parser.add_argument_group("origin (see docs/provenance.md)").add_argument
    origin(
        "--no_mark",
        dest="mark",
        action="store_const",
        const=False,
        help="do not say in the output's metadata that lips are generated, by what and from which file",
    )
    origin(
        "--provenance",
        type=Path,
        metavar="FILE.json",
        help="sign the output (.mp4 or .mov) with a C2PA manifest, by the certificate and key that this file names",
    )
    others = parser.add_argument_group("accepted for old scripts").add_argument
    others("--temp_dir", type=Path, help="not used")
    args = parser.parse_args(argv)
    args.adapter = joined(args.adapter)
    args.ranges = " ".join(args.ranges) if args.ranges else None
    return args


def rate(text: str) -> Fraction:
    """Parse a frame rate."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a frame rate such as 25 or 30000/1001") from None


def given(args: argparse.Namespace, schema: type) -> dict[str, Any]:
    """The arguments that are fields of `schema`."""
    return {field.name: getattr(args, field.name) for field in fields(schema) if hasattr(args, field.name)}
