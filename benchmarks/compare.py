"""Comparison with another lip-sync program on one clip: seconds, memory, and our metrics of both results.

python -m benchmarks.compare --command 'python run.py --face {video} --audio {audio} --outfile {out}' [--video V --audio A]

The command is split into arguments before {video}, {audio} and {out} are replaced, so file names may contain spaces; no shell is
used. Our inference is also started as a program, so that its time includes loading the models. The correlation with the new
audio needs a JSON file with the true opening beside the audio, as written by `scripts.make_avatars`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import report
from latentsync.data.aligned import aligned_faces
from latentsync.face.detection.detector import make_detector
from latentsync.media.probe import probe
from latentsync.media.process import run_program
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.metrics.lips.motion import jitter, seam_jump
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO
from latentsync.system import split_command
from scripts.command import run_command

OURS = "--video_path {video} --audio_path {audio} --video_out_path {out} --force"
FACE_PX, WINDOW = 128, 16


def filled_in(command: Sequence[str], **paths: Path) -> list[str]:
    """Arguments with {video}, {audio} and {out} replaced; ValueError if one of them is missing."""
    for name in paths:
        if not any(f"{{{name}}}" in argument for argument in command):
            raise ValueError(f"the command does not contain {{{name}}}: {' '.join(command)}")
    arguments = list(command)
    for name, path in paths.items():
        arguments = [argument.replace(f"{{{name}}}", str(path)) for argument in arguments]
    return arguments


def measured(video: Path, truth: np.ndarray | None) -> dict[str, Any]:
    """Our metrics of a result."""
    faces = np.stack(list(aligned_faces(video, make_detector(), FACE_PX)))
    lips = read_lips(faces)
    changes = np.abs(np.diff(faces[:, FACE_PX // 2 :].astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    count = 0 if truth is None else min(len(lips), len(truth))
    return {
        "frames": probe(video).frame_count,
        "new sound": None if truth is None else round(correlation(lips[:count], truth[:count]), 3),
        "jitter": round(jitter(lips), 4),
        "seam": seam_jump(changes, WINDOW),
    }


def row(name: str, command: Sequence[str], args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    out = folder / f"{name}.mp4"
    done = run_program(filled_in(command, video=args.video, audio=args.audio, out=out))
    if done.status or not out.is_file():
        raise ValueError(f"{name} exited with status {done.status} and did not write {out.name}: {done.output}")
    truth = args.audio.with_suffix(".json")
    known = np.array(json.loads(truth.read_text(encoding="utf-8"))["aperture_px"]) if truth.is_file() else None
    return {"system": name, "s": round(done.seconds, 1), "peak MB": done.peak_mb, **measured(out, known)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, help="of the other system, with {video}, {audio} and {out}")
    parser.add_argument("--name", default="other")
    parser.add_argument("--ours", default="--demo", help="arguments of our own inference (default: the demo's models)")
    parser.add_argument("--video", type=Path, default=DEMO_VIDEO)
    parser.add_argument("--audio", type=Path, default=DEMO_AUDIO)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    ours = [sys.executable, "-m", "scripts.inference", *split_command(OURS), *split_command(args.ours)]
    with tempfile.TemporaryDirectory() as folder:
        commands = {"latentsync": ours, args.name: split_command(args.command)}
        rows = [row(name, command, args, Path(folder)) for name, command in commands.items()]
    report("compare", rows, args.out, command=args.command, ours=args.ours)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("compare", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
