"""Quality and time of overlapping windows: `python -m benchmarks.overlap [--overlaps 0 4 8] [--clips 4] [--out FILE.json]`.

Drawn people are lip-synced to the audio of others, with windows that share some frames. `seam`: frame-to-frame change of the lower
face at window borders relative to other frames, minus 1 (0 = no seam). It is measured at the borders of windows without overlap;
the row `truth` has the seam of the true lip opening at the same frames, where it is 0 except by chance. `new sound`: correlation of
the lip opening with that of the new audio.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.table import report
from latentsync.avatar.clip import read_openings
from latentsync.data.aligned import aligned_faces
from latentsync.face.detection.detector import DEFAULT_DETECTOR, make_detector
from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.metrics.lips.motion import seam_jump
from latentsync.testing import AUDIO_FROM, held_out_clips
from scripts.command import run_command


def mouth_changes(faces: np.ndarray) -> np.ndarray:
    """Mean absolute change between frames of the lower half of aligned faces [t, r, r, 3]: [t - 1]."""
    lower = faces[:, faces.shape[1] // 2 :].astype(np.float32)
    return np.abs(np.diff(lower, axis=0)).mean(axis=(1, 2, 3))


def measure(
    pipeline: LipsyncPipeline, pairs: Sequence[tuple[Path, Path]], overlap: int, folder: Path
) -> dict[str, Any]:
    """A row of the table: the mean over all pairs."""
    settings = pipeline.models.defaults.changed({"overlap": overlap})
    window, seams, correlations, seconds, frames = pipeline.models.num_frames, [], [], 0.0, 0
    for video, audio in pairs:
        output = folder / f"{video.stem}_{overlap}.mp4"
        begun = time.perf_counter()
        frames += pipeline(video, audio, output, settings).frames
        seconds += time.perf_counter() - begun
        faces = np.stack(list(aligned_faces(output, make_detector(), pipeline.models.resolution)))
        truth = read_openings(audio)[: len(faces)]
        seams.append(seam_jump(mouth_changes(faces), window))
        correlations.append(correlation(read_lips(faces)[: len(truth)], truth))
    known = [seam for seam in seams if seam is not None]
    return {
        "overlap": overlap,
        "seam": round(float(np.mean(known)), 3),
        "new sound": round(float(np.mean(correlations)), 3),
        "ms a frame": round(1e3 * seconds / frames, 1),
    }


def true_seam(pairs: Sequence[tuple[Path, Path]], window: int) -> dict[str, Any]:
    """The row `truth`: the seam of the true lip opening at the frames of window borders."""
    seams = [seam_jump(np.abs(np.diff(read_openings(audio))), window) for _, audio in pairs]
    known = [seam for seam in seams if seam is not None]
    return {"overlap": "truth", "seam": round(float(np.mean(known)), 3), "new sound": 1.0, "ms a frame": 0.0}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    pipeline = LipsyncPipeline.from_pretrained(DEMO_UNET, None, DEFAULT_DETECTOR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = max(args.clips, AUDIO_FROM + 1)
        clips = held_out_clips(count, folder)
        pairs = [(clips[i], clips[(i + AUDIO_FROM) % count]) for i in range(args.clips)]
        rows = [measure(pipeline, pairs, overlap, folder) for overlap in args.overlaps]
        rows.append(true_seam(pairs, pipeline.models.num_frames))
    report("overlap", rows, args.out, clips=args.clips, threads=args.threads)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("overlap", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
