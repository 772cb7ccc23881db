"""Fine detail of the original, kept where the new face shows the same: skin, hair and background stay as sharp as in the frame.

Networks and resizing lose pores, grain and sharp edges. Where a new face differs from the original by little more than that, the
frame's own pixels carry this detail, so there the frame is changed by the blurred difference alone, averaged over neighbouring
frames. Where the face moves, as lips do, the new face is used; it is sharpened by as much as the networks softened what is kept
of the face. Far from the mouth nothing moves in speech, so larger differences there are mistakes, and the frame stays as it is.
Distances are in pixels of a face of `SIDE` pixels.

Tensors may be on any device, with values in [-1, 1]. Legend: f frames of a window, s side of the compared faces, at most `SIDE`.
"""

from functools import cache

import torch
from torch import Tensor

from latentsync.face.align import Region
from latentsync.face.colour import frame_averaging
from latentsync.face.filters import area_bands, blur, local_mean

SIDE = 128  # pixels along each side: larger faces are compared at this size
SHAPE_BLUR = 2.0  # standard deviation of the blur after which faces are compared
TOLERANCE = 0.095  # distance of two colours in [-1, 1] at which 61 % of the detail is kept
GROWTH, FRAMES = 2, 2  # so far around a movement, and so many frames before and after it, no detail is kept
SOFTENING = 1.5  # standard deviation of the blur of the weight
DETAIL_BLUR = 3.0  # standard deviation: what is finer counts as detail

MOUTH, RADII = (0.5, 0.72), (0.30, 0.36)  # x and y, of the side: in an ellipse around the mouth the face may move
FADING = 1.35  # times the ellipse: beyond this it may not
PASTING_LOSS = 0.36  # of fine detail, if a face of 128 pixels is pasted and aligned again; half of it at twice the side
MEASURED_EVERY = 8  # frames: sharpness is measured in a few frames of a window
MOST_GAIN = 2.25  # of sharpening, so that noise and edges are not exaggerated


def sharpening(faces: Tensor, originals: Tensor, kept: Tensor) -> Tensor:
    """By how much the fine detail of `faces` must be amplified until what is `kept` of them [r, r] is as sharp as in the originals.

    Both are [f, 3, r, r], consecutive frames. The loss in pasting is taken into account. The result has no dimensions and stays on
    the faces' device.
    """
    some = slice(None, None, MEASURED_EVERY)
    new, old = ((fine_detail(each[some]).square_() * kept).sum() for each in (faces, originals))
    pasted = 1 - PASTING_LOSS * min(1, SIDE / faces.shape[-1])
    return ((old / new.clamp(min=1e-9)).sqrt() / pasted).clamp(1, MOST_GAIN)


def sharpened(faces: Tensor, gain: Tensor, face_px: int) -> Tensor:
    """Faces [f, 3, h, w], or a part of faces of `face_px` pixels, with `gain` times their fine detail."""
    return torch.lerp(coarse(faces, face_px), faces, gain)


def fine_detail(faces: Tensor) -> Tensor:
    """Faces [f, 3, r, r] without what is `coarse`."""
    return faces - coarse(faces, faces.shape[-1])


def coarse(faces: Tensor, face_px: int) -> Tensor:
    """Means of faces [f, 3, h, w] over squares of about 3 / 128 of the side of a whole face."""
    side = 2 * round(max(1, face_px / SIDE)) + 1
    return local_mean(faces.flatten(0, 1), side).view(faces.shape)


def small(change: Tensor, part: Region, face_px: int) -> Tensor:
    """A change of faces [f, c, h, w] in a `part` of the whole face of `face_px` pixels, zero around it: [f, c, s, s]."""
    rows, columns = (area_bands(face_px, min(face_px, SIDE), (each.start, each.stop), change.device) for each in part)
    return columns.along_width(rows.along_height(change.flatten(0, 1))).unflatten(0, change.shape[:2])


def kept_detail(change: Tensor) -> Tensor:
    """How far the detail of each original is kept, in [0, 1], and the change of its three colours: [f, 4, s, s].

    `change` is the difference of new faces and originals [f, 3, s, s], consecutive frames. With weight w and change c a pixel of
    the frame becomes w (frame + c) + (1 - w) face.
    """
    side = change.shape[-1]
    pixel = side / SIDE
    moved = each_blurred(change, SHAPE_BLUR * pixel).square().sum(dim=1).sqrt()  # f s s
    for dim, reach in ((1, round(GROWTH * pixel)), (2, round(GROWTH * pixel)), (0, FRAMES)):
        moved = largest_within(moved, dim, reach)
    unmoved = moved.div_(TOLERANCE).pow_(4).div_(-2).exp_()[:, None]
    weight = each_blurred(unmoved, SOFTENING * pixel)  # f 1 s s
    slow = each_blurred(change, DETAIL_BLUR * pixel)
    near_frames = frame_averaging(len(change), change.device)
    mean_weight, mean = (torch.tensordot(near_frames, each, 1) for each in (weight, weight * slow))
    alike, near = torch.minimum(weight, mean_weight), mouth_region(side, change.device)
    kept, believed = 1 - near * (1 - alike), 1 - (1 - near) * (1 - alike)
    return torch.cat([kept, believed * mean.div_(mean_weight.clamp(min=1e-6))], dim=1)


@cache
def mouth_region(side: int, device: torch.device) -> Tensor:
    """How far an aligned face may move in speech, [s, s]: 1 around the mouth and at the chin, 0 at hair, ears and background."""
    place = (torch.arange(side) + 0.5) / side
    across, down = ((place - middle) / radius for middle, radius in zip(MOUTH, RADII, strict=True))
    distance = torch.hypot(across, down[:, None])
    return ((FADING - distance) / (FADING - 1)).clamp(0, 1).to(device)


def largest_within(values: Tensor, dim: int, reach: int) -> Tensor:
    """The largest of the values up to `reach` places away along a dimension."""
    count = values.shape[dim]
    largest = values
    for step in range(1, min(reach, count - 1) + 1):
        near, far = largest.clone(), count - step
        for to, source in ((0, step), (step, 0)):
            torch.maximum(near.narrow(dim, to, far), values.narrow(dim, source, far), out=near.narrow(dim, to, far))
        largest = near
    return largest


def each_blurred(images: Tensor, deviation: float) -> Tensor:
    return blur(images.flatten(0, 1), deviation).view(images.shape)
