"""How well `--occlusion auto` finds what is in front of a face: `python -m benchmarks.occlusion [--videos V ...] [--out FILE]`.

Unseen drawn heads, each once with every kind of object that comes and goes, and once without one; the detector is the usual one.
Everything is measured in the repainted part of the face, in its aligned face of 256 pixels. `iou`: of the masks with the true ones,
over all frames; `kept`: percentage of the objects' pixels that stay as they are, because they are masked or the frame is passed
through; `wrong`: percentage of the face that is masked in frames without an object; `hidden`: frames that are passed through, and
`truly`: those in which the true mask hides the mouth. `--videos` are other clips without objects, of which the beginning is read.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.table import report
from latentsync.avatar import OCCLUDERS
from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, random_clip, random_part
from latentsync.face.align import FrameArray, crop_size
from latentsync.face.detection.detector import make_detector
from latentsync.face.occlusion import FACE_MARGIN, hidden_mouths, in_aligned_face, patch_matrix
from latentsync.inference.faces.occluders import detect_occluders, region
from latentsync.inference.faces.plan import ACTIONS, EDIT, FacePlan, FacePolicy, plan_faces
from latentsync.inference.faces.select import choose_face, parse_face_choice
from latentsync.inference.faces.tracks import track_faces
from latentsync.inference.windows.references import usual_in_shots
from latentsync.media.video.read import read_frames
from latentsync.timebase import MODEL_FPS
from scripts.command import run_command

RESOLUTION = 256
Floats = NDArray[np.floating]


def planned(frames: Sequence[FrameArray]) -> FacePlan:
    """The plan of a clip at 25 frames a second, with what is found in front of the face."""
    detector, times = make_detector(), [index / MODEL_FPS for index in range(len(frames) + 1)]
    tracks = track_faces(iter(frames), detector)
    chosen = choose_face(tracks, parse_face_choice("largest"), times, detector)
    plan = plan_faces(tracks, chosen, FacePolicy(), times, RESOLUTION)
    known = plan.action == ACTIONS[EDIT]

    def read(start: int, stop: int) -> Iterator[FrameArray]:
        return iter(frames[start:stop])

    found = detect_occluders(read, plan, usual_in_shots(plan, known), known, lambda done: None)
    return replace(plan, occluders=found)


def row_of(name: str, kind: str, frames: Sequence[FrameArray], truth: Sequence[Floats] | None) -> dict[str, Any]:
    """The row of one clip; `truth`: the object's share of every pixel of each frame, None without an object."""
    plan = planned(frames)
    assert plan.occluders is not None
    both = either = covered = kept = wrong = free = 0
    true_patches = np.zeros((len(frames), *plan.occluders.mask.shape[1:]), np.float32)
    for index in np.flatnonzero(plan.edited).tolist():
        points, matrix = plan.points[index], plan.matrices[index]
        face = in_aligned_face(region(plan, index, FACE_MARGIN).astype(np.float32), points, matrix, RESOLUTION) > 0.5
        mask = plan.occluders.of(index)
        found = face & (False if mask is None else in_aligned_face(mask, points, matrix, RESOLUTION) > 0.5)
        if truth is None or not truth[index].any():
            wrong, free = wrong + int(found.sum()), free + int(face.sum())
            continue
        true_patches[index] = cv2.warpAffine(truth[index], patch_matrix(points), true_patches.shape[:0:-1])
        crop = cv2.warpAffine(truth[index], matrix, crop_size(RESOLUTION))
        true = face & (cv2.resize(crop, (RESOLUTION, RESOLUTION)) > 0.5)
        visible = plan.visible(index, matrix, RESOLUTION)
        stays = np.zeros_like(true) if visible is None else visible == 0
        both, either = both + int((found & true).sum()), either + int((found | true).sum())
        covered, kept = covered + int(true.sum()), kept + int((true & (stays | plan.occluders.hidden[index])).sum())
    return {
        "clip": name,
        "object": kind,
        "iou": round(both / either, 2) if either else "",
        "kept %": round(100 * kept / covered, 1) if covered else "",
        "wrong %": round(100 * wrong / free, 2) if free else "",
        "hidden": int(plan.occluders.hidden.sum()),
        "truly": int(hidden_mouths(true_patches).sum()),
    }


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for index in range(args.first, args.first + args.clips):
        for kind in (*OCCLUDERS, None):
            clip = replace(random_clip(HELD_OUT_FIRST_SEED + index), occluder=kind)
            drawn = list(random_part(clip, args.frames).frames_and_masks())
            frames, masks = [frame for frame, _ in drawn], [mask for _, mask in drawn]
            yield row_of(str(index), kind or "none", frames, masks if kind else None)
    for video in args.videos:
        yield row_of(video.stem, "none", [shown.frame for shown in islice(read_frames(video), args.frames)], None)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=3, help="drawn people (default: %(default)s)")
    parser.add_argument("--first", type=int, default=2, help="number of the first one (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=75, help="of each clip (default: %(default)s)")
    parser.add_argument("--videos", type=Path, nargs="*", default=[], help="clips in which nothing is in front")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    report("occlusion", list(rows(args)), args.out, clips=args.clips, first=args.first, frames=args.frames)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("occlusion", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
