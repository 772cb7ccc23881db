"""Pasting an aligned face back into its frame, with an edge feathered by the size of the face.

Everything is computed in the box around the face alone: the frame outside of it is not touched. The middle of the face,
where the face hides the frame fully, needs no weights; only the feathered border is blended.

Legend: c colours, h w pixels of a frame, of a part of it or of the 3:4 crop, r side of the square face.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from latentsync.face.align import (
    FILL,
    FloatArray,
    FrameArray,
    Region,
    colour_frame,
    colour_planes,
    crop_size,
    invert_matrix,
    sampling_grid,
    transform_points,
    warp_levels,
)
from latentsync.face.feather import (
    Placement,
    Weights,
    coverage,
    edge_width,
    feather,
    intersection,
    pasted_region,
    region_around,
)
from latentsync.face.pixels import changed_weight, match_ring
from latentsync.face.resize import resize_bicubic

__all__ = ["coverage", "edge_width", "feather", "paste_face", "paste_face_into", "pasted_region", "unwarp"]

STRIP_PIXELS = 1 << 16  # pixels worked on at a time: what is between the steps stays in the processor's cache
FILL_LEVEL = (FILL + 1) * 255 / 2  # grey level of what lies outside the crop, before it is clamped

Face = torch.Tensor | NDArray[np.float32]


def strips(part: Region) -> Iterator[tuple[Region, slice]]:
    """A part cut into strips of rows of about `STRIP_PIXELS`; and the rows of each, counted within the part."""
    rows, columns = part
    step = max(1, STRIP_PIXELS // (columns.stop - columns.start))
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        yield (slice(start, stop), columns), slice(start - rows.start, stop - rows.start)


def unwarp(planes: torch.Tensor, matrix: FloatArray, region: Region) -> torch.Tensor:
    """Planes [c, h, w] of a crop as seen in `region` [c, h, w]: bilinear, 0 outside the crop."""
    rows, columns = region
    size = (columns.stop - columns.start, rows.stop - rows.start)
    grid = sampling_grid(matrix, (columns.start, rows.start), size, (0, 0), (planes.shape[-1], planes.shape[-2]))
    return F.grid_sample(planes[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]


def blend_part(pixels: FrameArray, planes: torch.Tensor, weights: Weights | None, opacity: float) -> None:
    """Blend warped `planes` into a part of the frame, `pixels` uint8 h w 3, in place; truncated to levels.

    `planes` [3 or 4, h, w] are the levels and, where there is a fourth, the weight of what differs. Without `weights`
    the crop covers the part wholly.
    """
    levels, differs = planes[:3], planes[3:]
    weight = torch.tensor(opacity)
    if weights is not None:
        inner, soft, outside = (torch.from_numpy(plane) for plane in weights)
        levels = levels.add_(outside, alpha=FILL_LEVEL)
        weight = soft * opacity
    levels = levels.clamp_(0, 255)
    if weights is not None:
        levels = levels.mul_(inner)
    if len(differs):
        weight = weight * differs[0].clamp_(0, 1)
    if weight.ndim or opacity < 1:
        levels = torch.lerp(colour_planes(pixels), levels, weight).clamp_(0, 255)
    pixels[:] = colour_frame(levels)


def as_planes(face: Face) -> torch.Tensor:
    """A face [3, r, r] in float32 on the CPU, whatever it was."""
    return torch.as_tensor(face).detach().to(device="cpu", dtype=torch.float32)


def changed_region(weight: torch.Tensor, placement: Placement, frame_hw: tuple[int, int]) -> Region | None:
    """The part of the placement's region in which `weight` [1, r, r] of the square face is not 0; None if it is none."""
    y, x = (torch.nonzero(weight[0].amax(dim=axis)).flatten() for axis in (1, 0))
    if not len(x):
        return None
    scale = np.array(placement.size) / weight.shape[-1]
    low = (np.array([int(x[0]), int(y[0])]) + 0.5) * scale - 0.5 - 3  # the resize to the crop reads up to 3 pixels away
    high = (np.array([int(x[-1]), int(y[-1])]) + 0.5) * scale - 0.5 + 3
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [low[0], high[1]], [high[0], high[1]]])
    found = region_around(transform_points(invert_matrix(placement.matrix), corners), frame_hw)
    return found and intersection(found, placement.region)


def ring_weight(frame_hw: tuple[int, int], placement: Placement) -> torch.Tensor:
    """Weight h w of the crop's pixels: 1 in the border that the feather takes up, 0 inside and outside the frame."""
    w, h = placement.size
    inset = 2 * edge_width(w * h)
    whole = (slice(0, h), slice(0, w))
    ring = coverage(invert_matrix(placement.matrix), frame_hw[::-1], whole)
    ring[inset:-inset, inset:-inset] = 0
    return torch.from_numpy(ring)


def check_frame(frame: FrameArray, opacity: float) -> None:
    """Raise ValueError, with a sentence, for what nothing can be pasted into."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"the frame is {describe(frame)}, not uint8 [h, w, 3]: give a colour frame as it was read.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}, not between 0 and 1.")


def check_face(face: Face, matrix: FloatArray) -> None:
    """Raise ValueError, with a sentence, for what cannot be pasted."""
    if face.ndim != 3 or face.shape[0] != 3 or face.shape[1] != face.shape[2]:
        raise ValueError(f"the face has shape {list(face.shape)}, not [3, r, r]: give one square face, colours first.")
    if not torch.as_tensor(face).is_floating_point():
        raise ValueError(f"the face is {face.dtype}, not float in [-1, 1]: convert it with frames_to_pixels.")
    linear = np.asarray(matrix, dtype=np.float64)
    if linear.shape != (2, 3) or not np.isfinite(linear).all() or abs(np.linalg.det(linear[:, :2])) < 1e-12:
        raise ValueError("the matrix is no invertible, finite [2, 3]: give one that align_matrix returned.")


def describe(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


@dataclass(frozen=True)
class Patch:
    """An aligned square face on its way into a frame: what of the frame it can change, and how."""

    region: Region  # rows and columns of the frame outside of which nothing changes
    placement: Placement
    square: torch.Tensor  # [3 or 4, r, r], the fourth plane is the weight of what differs from the original

    @classmethod
    @torch.no_grad()
    def of(
        cls, frame_hw: tuple[int, int], face: Face, matrix: FloatArray, original: Face | None = None
    ) -> "Patch | None":
        """The patch that `face` is for a frame of h x w; None if it lies outside or equals `original`.

        The arguments are those of `paste_face`; ValueError as there.
        """
        check_face(face, matrix)
        if original is not None and original.shape != face.shape:
            raise ValueError(f"the original has shape {list(original.shape)}, not the same shape as the face.")
        square = as_planes(face)
        placement = Placement.of(np.asarray(matrix, dtype=np.float32), crop_size(square.shape[-1]), frame_hw)
        if placement is None:
            return None
        if original is None:
            return cls(placement.region, placement, square)
        differs = changed_weight(square, as_planes(original))
        region = changed_region(differs, placement, frame_hw)
        return region and cls(region, placement, torch.cat([square, differs]))

    @torch.no_grad()
    def blend_into(self, frame: FrameArray, opacity: float = 1.0, ring: bool = False) -> None:
        """Paste into `frame` (uint8 h w 3) itself; without `ring` only `region` is read."""
        check_frame(frame, opacity)
        placement = self.placement
        crop = resize_bicubic(self.square, placement.size)
        crop[:3].add_(1).mul_(255 / 2)
        if ring:
            seen = warp_levels(frame, placement.matrix, placement.size)
            crop[:3] = match_ring(crop[:3], seen, ring_weight((frame.shape[0], frame.shape[1]), placement))
        for part, solid in placement.parts(self.region):
            weights = None if solid else placement.weights(part)
            for strip, rows in strips(part):
                own = None if weights is None else (weights[0][rows], weights[1][rows], weights[2][rows])
                blend_part(frame[strip], unwarp(crop, placement.matrix, strip), own, opacity)


def paste_face_into(
    frame: FrameArray,
    face: Face,
    matrix: FloatArray,
    opacity: float = 1.0,
    ring: bool = False,
    original: Face | None = None,
) -> Region | None:
    """Paste the aligned square `face` into `frame` (uint8 h w 3) itself; returns the rows and columns it may change.

    The arguments are those of `paste_face`. None is returned, and nothing is changed, if the face lies outside the
    frame, has opacity 0, or equals `original`.
    """
    check_frame(frame, opacity)
    patch = Patch.of((frame.shape[0], frame.shape[1]), face, matrix, original)
    if patch is None or opacity == 0:
        return None
    patch.blend_into(frame, opacity, ring)
    return patch.region


def paste_face(
    frame: FrameArray,
    face: Face,
    matrix: FloatArray,
    opacity: float = 1.0,
    ring: bool = False,
    original: Face | None = None,
) -> FrameArray:
    """A copy of `frame` (uint8 h w 3) with the aligned square `face` pasted in, truncated to uint8.

    Args:
        face: [3, r, r], float in [-1, 1].
        matrix: [2, 3] as from `align_matrix` at resolution r.
        opacity: in [0, 1], fades the face in and out.
        ring: match the face's colours to the frame's, measured in a ring: the border that the feather takes up. For
            faces that were repainted as a whole.
        original: [3, r, r], the aligned face that `face` was made from: where the two agree the frame's own pixels
            stay as they are, sharper than a face that was warped there and back.

    The result equals the frame bit by bit outside the face. Raises ValueError for arguments of another shape or range.
    """
    result = frame.copy() if isinstance(frame, np.ndarray) else frame  # anything else is refused with a sentence
    paste_face_into(result, face, matrix, opacity, ring, original)
    return result
