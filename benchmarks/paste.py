"""Alignment and paste of one frame: in the region of the face alone, compared with plain operations on the whole frame.

python -m benchmarks.paste [--resolution 512] [--out paste.json]

`paste` and `plain paste` replace the whole aligned face. `paste in a job` replaces the masked region, as in inference, where only
changed pixels are blended.

Legend: c colours, h w pixels, r side of the square face.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.table import median_ms, report
from latentsync.face.align import FILL, FloatArray, FrameArray, crop_size, warp_face
from latentsync.face.masks import load_mask
from latentsync.face.paste import Patch
from latentsync.face.pixels import frames_to_pixels, keep_surroundings
from scripts.command import run_command

FRAME_SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}  # w, h
FACE_SHARES = (0.25, 1.0)  # height of the crop as a fraction of the frame height
TURN_DEG = 3.0  # how far the head is tilted
MAX_LEVELS, MEAN_LEVELS = 2, 0.05  # largest differences of pictures that count as equal


def plain_warp(image: torch.Tensor, matrix: torch.Tensor, size: tuple[int, int], fill: float) -> torch.Tensor:
    """Bilinear warp of an image [c, h, w] along `matrix` [2, 3] (image -> target) to w x h `size`, `fill` outside.

    The target's pixel grid in homogeneous coordinates is transformed by the inverse, normalised and sampled once; a fill
    other than 0 needs a second sampling, of ones.
    """
    inverse = torch.linalg.inv(torch.cat([matrix, torch.tensor([[0.0, 0.0, 1.0]])]))
    ys, xs = torch.arange(size[1], dtype=torch.float32), torch.arange(size[0], dtype=torch.float32)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ inverse[:2].T
    grid = (2 * points / torch.tensor([image.shape[2] - 1.0, image.shape[1] - 1.0]) - 1)[None]
    warped = F.grid_sample(image[None], grid, align_corners=True)[0]
    if fill:
        covered = F.grid_sample(torch.ones_like(image[None, :1]), grid, align_corners=True)[0]
        warped = warped + fill * (1 - covered)
    return warped


def plain_align(frame: FrameArray, matrix: FloatArray, resolution: int) -> FrameArray:
    """The aligned face [r, r, 3] of a frame: the whole frame as a float image, one affine warp to the crop, resize."""
    image = torch.from_numpy(frame).permute(2, 0, 1).float()
    crop = plain_warp(image, torch.from_numpy(matrix), crop_size(resolution), FILL).clamp(0, 255)
    levels = crop.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    return np.asarray(cv2.resize(levels, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4), dtype=np.uint8)


def plain_paste(frame: FrameArray, face: torch.Tensor, matrix: FloatArray) -> FrameArray:
    """The frame with a face [3, r, r] pasted in, every step on planes of the whole frame, in float32.

    The face and a mask of ones are warped to the frame's size with torch. The mask is eroded by a pixel (`unfold` and
    the minimum of each window), then by the feather width and blurred with OpenCV's fast filters, and the two pictures are
    blended. No step is slowed down on purpose, and none is limited to the region of the face.
    """
    height, width = frame.shape[:2]
    size = crop_size(face.shape[-1])
    crop = F.interpolate(face[None], size=size[::-1], mode="bicubic", align_corners=False, antialias=True)[0]
    back = torch.linalg.inv(torch.cat([torch.from_numpy(matrix), torch.tensor([[0.0, 0.0, 1.0]])]))[:2]
    levels = (plain_warp(crop, back, (width, height), FILL) / 2 + 0.5).clamp(0, 1) * 255
    covered = plain_warp(torch.ones_like(crop[:1]), back, (width, height), 0)
    inner = F.unfold(F.pad(covered[None], (1, 0, 1, 0), value=1.0), 2).amin(dim=1).reshape(height, width)
    edge = max(1, int(math.sqrt(float(inner.sum()))) // 20)
    core = cv2.erode(inner.numpy(), np.ones((2 * edge, 2 * edge), np.uint8))
    blurred = cv2.GaussianBlur(core, (2 * edge + 1, 2 * edge + 1), 0.3 * (edge - 1) + 0.8)
    soft = torch.from_numpy(np.asarray(blurred, dtype=np.float32))
    image = torch.from_numpy(frame).permute(2, 0, 1).float()
    blended = soft * inner * levels + (1 - soft) * image
    return blended.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()


def paste(frame: FrameArray, face: torch.Tensor, matrix: FloatArray, original: torch.Tensor | None = None) -> None:
    """Paste a face [3, r, r] into the frame in place, as jobs do."""
    patch = Patch.of((frame.shape[0], frame.shape[1]), face, matrix, original)
    assert patch is not None, "the face is inside the frame"
    patch.blend_into(frame)


def draw_frame(size: tuple[int, int]) -> FrameArray:
    """A frame of waves and grain, w x h `size`."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    waves = [127 + 80 * np.sin(x / 31 + y / 47 + phase) for phase in (0.0, 1.0, 2.0)]
    grain = np.random.default_rng(0).normal(0, 4, (size[1], size[0], 3)).astype(np.float32)
    return np.clip(np.stack(waves, axis=-1) + grain, 0, 255).astype(np.uint8)


def centred_matrix(size: tuple[int, int], share: float, resolution: int) -> FloatArray:
    """Matrix [2, 3] of a tilted face in the middle of a w x h frame whose crop is `share` of the frame high."""
    crop = np.array(crop_size(resolution))
    scale, turn = crop[1] / (share * size[1]), math.radians(TURN_DEG)
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    offset = (crop - 1) / 2 - linear @ ((np.array(size) - 1) / 2)
    return np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)


def check_equal(what: str, ours: FrameArray, plain: FrameArray, inside: np.ndarray | None = None) -> None:
    """Raise RuntimeError where two pictures differ by more than the tolerance; the mean is taken over `inside`."""
    difference = np.abs(ours.astype(np.int16) - plain)
    most, mean = int(difference.max()), float(difference[inside].mean() if inside is not None else difference.mean())
    if most > MAX_LEVELS or mean > MEAN_LEVELS:
        raise RuntimeError(
            f"{what} differ by up to {most} levels, {mean:.3f} on average, so timings cannot be compared."
        )


def measure(name: str, share: float, resolution: int, repeats: int) -> dict[str, Any]:
    """One row of the table: both ways on one frame, checked for equality first."""
    frame = draw_frame(FRAME_SIZES[name])
    matrix = centred_matrix(FRAME_SIZES[name], share, resolution)
    aligned = warp_face(frame, matrix, resolution)
    face = -frames_to_pixels(aligned)
    check_equal(f"the aligned faces at {name}", aligned, plain_align(frame, matrix, resolution))
    ours, plain = frame.copy(), plain_paste(frame, face, matrix)
    paste(ours, face, matrix)
    check_equal(f"the pasted frames at {name}", ours, plain, (plain != frame).any(axis=-1))
    original = frames_to_pixels(aligned)
    repainted = keep_surroundings(face, original, load_mask(resolution))
    work = frame.copy()  # pasted into in place, as by the pipeline, which owns the frames that it reads
    ways = {
        "align": lambda: warp_face(frame, matrix, resolution),
        "plain align": lambda: plain_align(frame, matrix, resolution),
        "paste": lambda: paste(work, face, matrix),
        "plain paste": lambda: plain_paste(frame, face, matrix),
        "paste in a job": lambda: paste(work, repainted, matrix, original),
    }
    row: dict[str, Any] = {"frame": name, "face": f"{share:.0%} of height"}
    taken = median_ms(ways, repeats)
    row |= {f"{way} ms": round(ms, 3) for way, ms in taken.items()}
    ratio = (taken["plain align"] + taken["plain paste"]) / (taken["align"] + taken["paste"])
    return row | {"ratio": round(ratio, 1)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", nargs="+", choices=FRAME_SIZES, default=list(FRAME_SIZES), help="frame sizes")
    parser.add_argument("--resolution", type=int, default=256, help="side of the aligned face in pixels")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each way; the median is shown")
    parser.add_argument("--threads", type=int, default=1, help="threads of both ways, in torch and OpenCV")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    rows = [measure(name, share, args.resolution, args.repeats) for name in args.frames for share in FACE_SHARES]
    settings = {"resolution": args.resolution, "repeats": args.repeats, "threads": args.threads}
    report("paste", rows, args.out, **settings)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("paste", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
