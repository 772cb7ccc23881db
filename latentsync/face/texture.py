"""Fine detail of the original, kept where the new face shows the same: skin, hair and background stay as sharp as in the frame.

Networks and resizing lose pores, grain and sharp edges. Where a new face differs from the original by little more than that, the
frame's own pixels carry this detail, so there the frame is changed by the blurred difference alone, averaged over neighbouring
frames. Where the face moves, as lips do, the new face is used; it is sharpened by as much as the networks softened what is kept
of the face. Far from the mouth nothing moves in speech, so larger differences there are mistakes, and the frame stays as it is.
Distances are in pixels of a face of `SIDE` pixels.

Legend: f frames of a window, s side of the compared faces, at most `SIDE`.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from latentsync.face.pixels import frame_averaging

SIDE = 128  # pixels along each side: larger faces are compared at this size
SHAPE_BLUR = 2.0  # standard deviation of the blur after which faces are compared
TOLERANCE = 0.15  # distance of two colours in [-1, 1] at which 61 % of the detail is kept
GROWTH, FRAMES = 2, 2  # so far around a movement, and so many frames before and after it, no detail is kept
SOFTENING = 1.5  # standard deviation of the blur of the weight
DETAIL_BLUR = 3.0  # standard deviation: what is finer counts as detail

MOUTH, RADII = (0.5, 0.72), (0.30, 0.36)  # x and y, of the side: in an ellipse around the mouth the face may move
FADING = 1.35  # times the ellipse: beyond this it may not
PASTING_LOSS = 0.36  # of fine detail, if a face of 128 pixels is pasted and aligned again; half of it at twice the side
MEASURED_EVERY = 5  # frames: sharpness is measured in a few frames of a window
MOST_GAIN = 2.25  # of sharpening, so that noise and edges are not exaggerated

Images = NDArray[np.float32]  # [s, s, f], with colours [s, s, f * 3]


def sharpened(faces: torch.Tensor, originals: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Faces whose fine detail is amplified until what is kept of them (`mask` [r, r] 1) is as sharp as in the originals.

    All are [f, 3, r, r] in [-1, 1], on the CPU. Pasting is taken into account.
    """
    some, kept = slice(None, None, MEASURED_EVERY), (mask > 0.5).float()
    new, old = (float((fine_detail(each[some]).square() * kept).sum()) for each in (faces, originals))
    pasted = 1 - PASTING_LOSS * min(1, SIDE / faces.shape[-1])
    gain = min(max(math.sqrt(old / max(new, 1e-9)) / pasted, 1), MOST_GAIN)
    sharp, near = faces.clone(memory_format=torch.contiguous_format), moving_part(faces.shape[-1])
    for plane in sharp.flatten(0, 1).numpy():
        cv2.addWeighted(plane[near], gain, local_mean(plane[near], faces.shape[-1]), 1 - gain, 0, dst=plane[near])
    return sharp


def fine_detail(faces: torch.Tensor) -> torch.Tensor:
    """Faces [f, 3, r, r] minus their means over squares of about 3 / 128 of the side."""
    planes = faces.contiguous().flatten(0, 1).numpy()
    fine = np.stack([plane - local_mean(plane, faces.shape[-1]) for plane in planes])
    return torch.from_numpy(fine).view(faces.shape)


def local_mean(plane: Images, face_px: int) -> Images:
    """The mean around each pixel of a plane [h, w], or a part of it, of a face of `face_px` pixels."""
    side = 2 * round(max(1, face_px / SIDE)) + 1
    return np.asarray(cv2.blur(plane, (side, side)), np.float32)


def kept_detail(faces: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """How far the detail of each original is kept, in [0, 1], and the change of its three colours: [f, 4, s, s].

    Both are [f, 3, r, r] in [-1, 1], on the CPU, consecutive frames. With weight w and change c a pixel of the frame becomes
    w (frame + c) + (1 - w) face.
    """
    change = np.concatenate([small(new - old) for new, old in zip(faces, originals, strict=True)], axis=2)
    pixel = len(change) / SIDE
    shape = np.square(blurred(change, SHAPE_BLUR * pixel))
    moved = np.sqrt(rearrange(shape, "h w (f c) -> h w f c", c=3).sum(axis=3))
    moved = over_time(cv2.dilate(moved, np.ones((2 * round(GROWTH * pixel) + 1,) * 2)).reshape(moved.shape))
    weight = rearrange(blurred(np.exp(-np.square(moved / TOLERANCE) / 2), SOFTENING * pixel), "h w f -> f 1 h w")
    slow = rearrange(blurred(change, DETAIL_BLUR * pixel), "h w (f c) -> f c h w", c=3)
    averaging = frame_averaging(len(faces)).numpy()
    mean_weight = np.tensordot(averaging, weight, 1)
    mean = np.tensordot(averaging, weight * slow, 1) / np.maximum(mean_weight, 1e-6)
    alike, near = np.minimum(weight, mean_weight), mouth_region(len(change))
    kept, believed = 1 - near * (1 - alike), 1 - (1 - near) * (1 - alike)
    return torch.from_numpy(np.concatenate([kept, believed * mean], axis=1, dtype=np.float32))


@lru_cache(maxsize=8)
def mouth_region(side: int) -> Images:
    """How far an aligned face may move in speech, [s, s]: 1 around the mouth and at the chin, 0 at hair, ears and background."""
    place = (np.arange(side, dtype=np.float32) + 0.5) / side
    across, down = ((place - middle) / radius for middle, radius in zip(MOUTH, RADII, strict=True))
    distance = np.hypot(across, down[:, None])
    return np.clip((FADING - distance) / (FADING - 1), 0, 1)


def moving_part(side: int) -> tuple[slice, slice]:
    """Rows and columns of `mouth_region`."""
    rows, columns = (np.flatnonzero(mouth_region(side).any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def small(change: torch.Tensor) -> Images:
    """The difference of two faces [3, r, r] as an image [s, s, 3]."""
    image = np.ascontiguousarray(rearrange(change, "c h w -> h w c").numpy())
    if len(image) <= SIDE:
        return image
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)


def over_time(moved: Images) -> Images:
    """The largest of the values [s, s, f] of each frame and its neighbours."""
    longest = np.pad(moved, ((0, 0), (0, 0), (FRAMES, FRAMES)), mode="edge")
    return np.asarray(np.max([longest[..., i : i + moved.shape[2]] for i in range(2 * FRAMES + 1)], axis=0))


def blurred(images: Images, deviation: float) -> Images:
    return np.asarray(cv2.GaussianBlur(images, (0, 0), deviation), np.float32).reshape(images.shape)
