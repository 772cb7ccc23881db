"""Every face detector over clips and their degraded twins: `python -m benchmarks.faces CLIPS [--detectors mesh cascade]`.

The reference is a detector with landmarks on the undamaged clip. In the whole clip, `found` counts frames with the right face. The
points slip where they move over the head, as the picture shows it: `slips` counts frames with more than 2 % of the face's width,
`jumps` those after which they also come back at once, `largest` and `slip` are the largest and the median. Slips without jumps are
heads that turn and brows that rise. `tremor` is the movement of the points over the head on still stretches; `in frame`, the same
in the frame, contains what the head itself does. Of each twin a few frames in a row are taken: `found` counts frames with a face at
the right place, `wrong` faces elsewhere.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.face_twins import TWINS, KnownFace
from benchmarks.table import report
from latentsync.face.align import FloatArray, FrameArray, align_matrix, crop_size, transform_points, warp_grey
from latentsync.face.detection.detector import BACKENDS, Face, FaceDetector, make_detector
from latentsync.face.detection.motion import fitted
from latentsync.media.video.read import read_frames
from scripts.command import run_command

FOUND, WRONG = 0.2, 0.5  # of the face's width from the known place
JUMP_PERCENT = 2.0
STILL, STRETCH = 0.01, 9  # of the face's width by which points move in a still stretch of so many frames
UPPER_FACE = (slice(20, 150), slice(20, 190))  # rows, columns of the aligned crop
UNKNOWN = np.full((3, 2), np.nan)
AGREEING = 0.6  # share of the features that must agree for the picture to show the motion


@dataclass
class Followed:
    """What a detector says about a clip."""

    faces: list[list[Face]] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    searched: list[bool] = field(default_factory=list)  # whether the whole frame was searched too

    def largest(self, index: int) -> Face | None:
        return max(self.faces[index], key=lambda face: face.face_px, default=None)


def followed(detector: FaceDetector, frames: Sequence[FrameArray]) -> Followed:
    detector.reset()
    result = Followed()
    for frame in frames:
        begun = time.perf_counter()
        result.faces.append(detector.faces(frame))
        result.ms.append(1e3 * (time.perf_counter() - begun))
        result.searched.append(getattr(detector, "since_search", 0) == 0)
    return result


def known_faces(frames: Sequence[FrameArray], reference: FaceDetector) -> list[KnownFace | None]:
    """The largest face of each frame by a detector with landmarks."""
    seen = followed(reference, frames)
    faces = [seen.largest(index) for index in range(len(frames))]
    return [
        None if face is None or face.landmarks is None else KnownFace(face.points, face.landmarks, face.face_px)
        for face in faces
    ]


def slips(frames: Sequence[FrameArray], points: Sequence[FloatArray | None]) -> NDArray[np.float64]:
    """How the alignment moved over the head since the frame before, [n, 3, 2] of three places, in % of the face's width.

    NaN where the picture does not show it.
    """
    moves, before = [], None
    for frame, three in zip(frames, points, strict=True):
        now = None
        if three is not None:
            now = warp_grey(frame, align_matrix(three, 256), crop_size(256))[UPPER_FACE]
        moves.append(UNKNOWN if before is None or now is None else shift_percent(before, now))
        before = now
    return np.array(moves)


def jumps_of(slip: NDArray[np.float64]) -> int:
    """Frames in which the points leave the head by more than `JUMP_PERCENT` and return in the next frame."""
    there, back = slip[:-1], slip[1:]
    returned = (there * back).sum(axis=(1, 2)) < -0.5 * (there**2).sum(axis=(1, 2))
    return int(((sizes(there) > JUMP_PERCENT) & returned).sum())


def sizes(slip: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest of the three places' distances, [n]."""
    return np.asarray(np.hypot(slip[..., 0], slip[..., 1]).max(axis=1))


def shift_percent(before: FrameArray, after: FrameArray) -> NDArray[np.float64]:
    """Common motion of the upper face between two aligned crops at three places [3, 2], in % of the face's width; or NaN."""
    features = cv2.goodFeaturesToTrack(before, 80, 0.01, 6)
    if features is None:
        return UNKNOWN
    start = np.asarray(features, np.float32)
    moved, _, _ = cv2.calcOpticalFlowPyrLK(before, after, start, start.copy(), winSize=(21, 21), maxLevel=3)
    back, _, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, moved.copy(), winSize=(21, 21), maxLevel=3)
    kept = np.hypot(*(np.asarray(back) - start)[:, 0].T) < 0.7
    if kept.sum() < AGREEING * len(start):
        return UNKNOWN
    motion, weights = fitted(start[kept, 0], np.asarray(moved)[kept, 0])
    if (weights > 0.2).sum() < AGREEING * len(start):
        return UNKNOWN
    corners = np.array([[30, 20], [140, 20], [85, 75]], np.float32)
    return 100 * (transform_points(motion, corners) - corners).astype(np.float64) / 150


def tremor_percent(
    points: Sequence[FloatArray | None], slip: NDArray[np.float64], face_px: float
) -> tuple[float, float, int]:
    """Tremor of the points over the head and in the frame, in % of the face's width, on so many still stretches.

    In each stretch it is the movement against a parabola. In the frame it contains the movement of the head itself.
    """
    over_head, in_frame = [], []
    for start in range(len(points) - STRETCH + 1):
        part = [three for three in points[start : start + STRETCH] if three is not None]
        slipped = slip[start + 1 : start + STRETCH]
        if len(part) < STRETCH or not np.isfinite(slipped).all():
            continue
        stretch = np.stack(part)
        if np.abs(stretch - stretch.mean(axis=0)).max() <= STILL * face_px:
            path = np.concatenate([np.zeros((1, 3, 2)), np.cumsum(slipped, axis=0)])
            over_head.append(roughness(path))
            in_frame.append(100 * roughness(stretch) / face_px)
    if not over_head:
        return float("nan"), float("nan"), 0
    return float(np.mean(over_head)), float(np.mean(in_frame)), len(over_head)


def roughness(path: NDArray[np.floating]) -> float:
    """Root mean square distance of three points' path [STRETCH, 3, 2] from the nearest parabola."""
    time_line = np.arange(STRETCH) - STRETCH // 2
    basis = np.stack([time_line**power for power in range(3)], axis=1).astype(float)
    residual = np.eye(STRETCH) - basis @ np.linalg.pinv(basis)
    moved = residual @ path.reshape(STRETCH, -1)
    return float(np.sqrt((moved**2).sum() / (3 * (STRETCH - 3))))


def clip_row(
    name: str, clip: str, frames: Sequence[FrameArray], detector: FaceDetector, known: list[KnownFace | None]
) -> dict[str, Any]:
    """A detector on an undamaged clip."""
    seen = followed(detector, frames)
    pairs = [place(faces, face, np.eye(2, 3, dtype=np.float32)) for faces, face in zip(seen.faces, known, strict=True)]
    points = [None if right is None else right.points for right, _ in pairs]
    width = float(np.median([face.face_px for face in known if face] or [1.0]))
    slip = slips(frames, points)
    tremor, in_frame, stretches = tremor_percent(points, slip, width)
    return {
        "detector": name,
        "clip": clip,
        "frames": len(frames),
        "found": sum(three is not None for three in points),
        "wrong": sum(wrong for _, wrong in pairs),
        "jumps": jumps_of(slip),
        "slips": int((sizes(slip) > JUMP_PERCENT).sum()),
        "largest %": largest(sizes(slip)),
        "slip %": round(float(np.nanmedian(sizes(slip))), 3) if np.isfinite(slip).any() else None,
        "tremor %": round(tremor, 3) if stretches else None,
        "in frame %": round(in_frame, 3) if stretches else None,
        "following ms": median_ms(seen, searched=False),
        "search ms": median_ms(seen, searched=True),
        "first ms": round(seen.ms[0], 1),
    }


def median_ms(seen: Followed, searched: bool) -> float | None:
    """Median time of the frames in which faces are only followed, or the whole frame is searched too, without the first."""
    some = [ms for ms, was in zip(seen.ms[1:], seen.searched[1:], strict=True) if was == searched]
    return round(float(np.median(some)), 1) if some else None


def scaled(frame: FrameArray, height: int) -> FrameArray:
    """A frame with another height, the same if it is 0."""
    if not height:
        return frame
    size = round(frame.shape[1] * height / frame.shape[0]), height
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def largest(values: NDArray[np.float64]) -> float | None:
    return round(float(np.nanmax(values)), 2) if np.isfinite(values).any() else None


def place(faces: list[Face], known: KnownFace | None, matrix: FloatArray) -> tuple[Face | None, int]:
    """The face at the known place, and the number of faces elsewhere."""
    if known is None:
        return None, len(faces)
    expected = transform_points(matrix, known.points)
    width = known.face_px * float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    distances = [float(np.hypot(*(face.points - expected).T).max()) / width for face in faces]
    best = min(range(len(faces)), key=lambda index: distances[index], default=None)
    right = faces[best] if best is not None and distances[best] < FOUND else None
    return right, sum(distance > WRONG for distance in distances)


def twin_counts(
    frames: Sequence[FrameArray], known: list[KnownFace | None], detector: FaceDetector, twin: str
) -> tuple[int, int, int, list[float]]:
    """Frames, those with the face found, faces at wrong places, and milliseconds of a detector on a twin."""
    rng = np.random.default_rng(0)
    pairs = [(frame, face) for frame, face in zip(frames, known, strict=True) if face is not None]
    made = [TWINS[twin](frame, face, rng) for frame, face in pairs]
    seen = followed(detector, [frame for frame, _ in made])
    places = [place(faces, face, matrix) for faces, (_, face), (_, matrix) in zip(seen.faces, pairs, made, strict=True)]
    return len(pairs), sum(right is not None for right, _ in places), sum(wrong for _, wrong in places), seen.ms


def clips_of(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.rglob("*.mp4")) if path.is_dir() else [path]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, help="videos, or folders of them")
    parser.add_argument("--detectors", nargs="+", choices=list(BACKENDS), default=["mesh", "cascade"])
    parser.add_argument("--reference", choices=list(BACKENDS), default="mesh", help="a detector with landmarks")
    parser.add_argument("--twins", nargs="*", choices=list(TWINS), default=list(TWINS))
    parser.add_argument("--frames", type=int, default=13, help="of each twin of a clip")
    parser.add_argument("--limit", type=int, default=10_000, help="most frames of a whole clip; 0 for twins only")
    parser.add_argument("--height", type=int, default=0, help="scale frames to so many lines (default: as they are)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write; the table of the twins beside it")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    cv2.setNumThreads(args.threads)
    detectors = {name: make_detector(name) for name in args.detectors}
    reference = make_detector(args.reference)
    clip_rows: list[dict[str, Any]] = []
    counts: dict[tuple[str, str], list[tuple[int, int, int, list[float]]]] = {}
    for path in clips_of(args.clips):
        frames = [scaled(each.frame, args.height) for each in islice(read_frames(path), max(args.limit, args.frames))]
        known = known_faces(frames, reference)
        if args.limit:
            clip_rows += [clip_row(name, path.stem, frames, detector, known) for name, detector in detectors.items()]
        middle = max(0, (len(frames) - args.frames) // 2)
        part = slice(middle, middle + args.frames)
        for twin in args.twins:
            for name, detector in detectors.items():
                counts.setdefault((twin, name), []).append(twin_counts(frames[part], known[part], detector, twin))
    twin_rows = [
        {
            "twin": twin,
            "detector": name,
            "frames": sum(count[0] for count in found),
            "found": sum(count[1] for count in found),
            "found %": round(100 * sum(count[1] for count in found) / max(1, sum(count[0] for count in found)), 1),
            "wrong": sum(count[2] for count in found),
            "ms": round(float(np.median([ms for count in found for ms in count[3]])), 1),
        }
        for (twin, name), found in counts.items()
    ]
    settings = {name: getattr(args, name) for name in ("frames", "threads", "reference", "height")}
    report("faces", clip_rows, args.out, **settings)
    report("face twins", twin_rows, args.out and args.out.with_name(f"{args.out.stem}_twins.json"), **settings)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("faces", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
