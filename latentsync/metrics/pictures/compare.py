"""Frame-by-frame comparison of a result with the true video: PSNR, SSIM and LPIPS in four regions of the frame."""

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentsync.media.probe import probe
from latentsync.media.video.read import frames_at
from latentsync.metrics.pictures.image_quality import SSIM_WINDOW, psnr, ssim_map, weighted_mean
from latentsync.metrics.regions import REGIONS, frame_regions
from latentsync.metrics.statistics import DIFFERENT_LENGTHS, DIFFERENT_SIZES, NO_FACE, UnscorableError
from latentsync.timebase import MODEL_FPS

if TYPE_CHECKING:
    from torch import Tensor  # slow to import, and not needed for the limits and formulas of this file

LENGTH_SLACK = 2  # frames by which a result and its truth may differ, because encoders round durations

FrameArray = NDArray[np.uint8]
PerceptualMap = Callable[["Tensor", "Tensor"], "Tensor"]  # two images [1, 3, h, w] in [-1, 1] -> distances [1, 1, h, w]


def compare_pictures(
    video: Path, truth: Path, matrices: NDArray[np.float32], perceptual: PerceptualMap | None = None
) -> dict[str, float]:
    """Mean scores over the frames: psnr_full, psnr_inside, ..., ssim_..., and lpips_... where `perceptual` is given.

    Args:
        video: the result.
        truth: the true video.
        matrices: [t, 2, 3], alignment of the face in the true video (see `face_series`), which places the regions.
        perceptual: LPIPS as a map.

    Raises:
        UnscorableError: the videos differ in size or length, or no frame shows a face.
        MediaError: a file cannot be read.
    """
    rows = [
        frame_scores(first, second, matrix, perceptual)
        for (first, second), matrix in zip(paired_frames(video, truth), matrices, strict=False)
        if np.isfinite(matrix).all()
    ]
    if not rows:
        raise UnscorableError(NO_FACE, f"{truth} shows no face, so the generated region is unknown.")
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def frame_scores(
    frame: FrameArray, truth: FrameArray, matrix: NDArray[np.float32], perceptual: PerceptualMap | None = None
) -> dict[str, float]:
    """The scores of one frame, uint8 [h, w, 3]; empty regions are left out."""
    regions = frame_regions(matrix, (frame.shape[0], frame.shape[1]))
    regions = {name: regions[name] for name in REGIONS if regions[name].any()}
    similarity = ssim_map(frame, truth)
    edge = SSIM_WINDOW // 2
    scores = {f"psnr_{name}": psnr(frame, truth, weight) for name, weight in regions.items()}
    for name, weight in regions.items():
        inner = weight[edge:-edge, edge:-edge]
        if inner.any():
            scores[f"ssim_{name}"] = weighted_mean(similarity[edge:-edge, edge:-edge], inner)
    if perceptual is not None:
        distances = perceptual(_pixels(frame), _pixels(truth))[0, 0].cpu().numpy()
        scores |= {f"lpips_{name}": weighted_mean(distances, weight) for name, weight in regions.items()}
    return scores


def paired_frames(video: Path, truth: Path) -> Iterator[tuple[FrameArray, FrameArray]]:
    """Pairs of frames at 25 fps, as many as the shorter video has.

    Raises:
        UnscorableError: they differ in size, or by more than `LENGTH_SLACK` frames.
        MediaError: a file cannot be read.
    """
    sizes = [probe(path).square_size for path in (video, truth)]
    if sizes[0] != sizes[1]:
        detail = f"{video} has {sizes[0][0]} x {sizes[0][1]} pixels, the truth {truth} {sizes[1][0]} x {sizes[1][1]}."
        raise UnscorableError(DIFFERENT_SIZES, detail)
    missing = 0
    for first, second in zip_longest(frames_at(video, MODEL_FPS), frames_at(truth, MODEL_FPS)):
        if first is not None and second is not None:
            yield first.frame, second.frame
            continue
        missing += 1
        if missing > LENGTH_SLACK:
            detail = f"{video} is {'longer' if second is None else 'shorter'} than its truth {truth}: give the complete result."
            raise UnscorableError(DIFFERENT_LENGTHS, detail)


def _pixels(frame: FrameArray) -> "Tensor":
    import torch
    from einops import rearrange

    return rearrange(torch.from_numpy(frame).float() / 127.5 - 1, "h w c -> 1 c h w")
