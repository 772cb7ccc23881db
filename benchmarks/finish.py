"""From decoded faces to new faces: in the rectangle around the mask, frame by frame, compared with whole faces of a window at once.

python -m benchmarks.finish [--resolution 512] [--threads 1] [--out finish.json]

Both ways check the faces, match colours, keep detail and merge with the originals by the same formulas; `levels` is by how much
they differ, of 255.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.table import median_ms, report
from latentsync.face.colour import BORDER_CELLS, between_measured, border_error, measured_frames
from latentsync.face.masks import border_band, load_mask
from latentsync.face.pixels import frames_to_pixels, keep_surroundings
from latentsync.face.texture import kept_detail, sharpened, sharpening, small
from latentsync.inference.windows.finish import DecodedFaces, Finisher, rejection_reason
from latentsync.weights import LATENT_STRIDE
from scripts.command import run_command

FRAMES = 16
CPU = torch.device("cpu")


def decoded_faces(resolution: int) -> DecodedFaces:
    """A window of smooth, moving pictures with grain, and the same with other colours and other grain."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(FRAMES, 3, 9, 9, generator=generator) * 1.6 - 0.8
    grain = 0.05 * torch.randn(FRAMES, 3, resolution, resolution, generator=generator)
    picture = F.interpolate(coarse, (resolution, resolution), mode="bicubic").clamp(-0.9, 0.9)
    frames = ((picture + grain).clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    reconstructed = (picture * 0.97)[measured_frames(FRAMES)]
    return DecodedFaces(picture * 0.95 + 0.3 * grain.flip(0), frames_to_pixels(frames), reconstructed)


def plain(window: DecodedFaces) -> Tensor:
    """New faces [f, 3, r, r], all steps on whole faces of all frames."""
    decoded, pixels, side = window.decoded, window.pixels, window.decoded.shape[-1]
    mask = load_mask(side)
    whole = (slice(0, side), slice(0, side))
    assert rejection_reason(decoded, mask, whole) is None and window.reconstructed is not None
    error = F.avg_pool2d(pixels[measured_frames(len(pixels))] - window.reconstructed, LATENT_STRIDE)
    error = torch.einsum("fm, mchw -> fchw", between_measured(len(pixels), CPU), error)
    matched = decoded + F.interpolate(error, (side, side), mode="bilinear")
    at_border = border_error(matched, pixels, border_band(mask), (BORDER_CELLS, BORDER_CELLS))
    matched = matched + F.interpolate(at_border, (side, side), mode="bilinear")
    sharp = sharpened(matched, sharpening(decoded, pixels, (mask > 0.5).float()), side)
    faces = keep_surroundings(sharp, pixels, mask)
    kept_detail(small(faces - pixels, whole, side))
    return faces


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--resolution", type=int, default=512, help="side of the aligned faces, in pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each way, alternating")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


@torch.inference_mode()
def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    window = decoded_faces(args.resolution)
    finisher = Finisher(args.resolution, CPU, keeps_detail=True)

    def finish() -> Tensor:
        assert finisher.rejection(window.decoded) is None
        return finisher.finish(window)[0]

    levels = 127.5 * (finish() - plain(window)[(..., *finisher.part)]).abs()
    times = median_ms({"in the rectangle": finish, "whole faces": lambda: plain(window)}, args.rounds)
    rows = [{"way": way, "ms a window": round(ms, 1), "ms a frame": round(ms / FRAMES, 2)} for way, ms in times.items()]
    shared = {"resolution": args.resolution, "frames": FRAMES, "threads": args.threads}
    report("finish", rows, args.out, **shared, mean_levels=float(levels.mean()), max_levels=float(levels.max()))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("finish", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
