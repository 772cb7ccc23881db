"""Pasting an aligned face back into its frame, with an edge that is feathered in proportion to the size of the face.

Only the pixels in the bounding box of the face are computed. In the middle of the face the blend weight is 1, so weights are
computed and applied only in the feathered border.

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
)
from latentsync.face.feather import Placement, Weights, intersection, region_around
from latentsync.face.filters import resize_bicubic
from latentsync.face.pixels import changed_weight

STRIP_PIXELS = 1 << 16  # pixels processed at a time, so that intermediate results stay in the CPU's cache
FILL_LEVEL = (FILL + 1) * 255 / 2  # grey level of the pixels outside the crop, before clamping

Face = torch.Tensor | NDArray[np.float32] | FrameArray  # float [3, r, r] in [-1, 1], or uint8 [r, r, 3]


def strips(part: Region) -> Iterator[tuple[Region, slice]]:
    """Split a region into strips of rows of about `STRIP_PIXELS` each; yields the strip and its rows relative to the region."""
    rows, columns = part
    step = max(1, STRIP_PIXELS // (columns.stop - columns.start))
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        yield (slice(start, stop), columns), slice(start - rows.start, stop - rows.start)


def unwarp(planes: torch.Tensor, matrix: FloatArray, region: Region, mode: str = "bilinear") -> torch.Tensor:
    """Warp the planes [c, h, w] of a crop back to `region` of the frame: [c, h, w] of the region, 0 outside the crop."""
    rows, columns = region
    size = (columns.stop - columns.start, rows.stop - rows.start)
    grid = sampling_grid(matrix, (columns.start, rows.start), size, (0, 0), (planes.shape[-1], planes.shape[-2]))
    return F.grid_sample(planes[None], grid, mode=mode, padding_mode="zeros", align_corners=True)[0]


def blend_part(pixels: FrameArray, planes: torch.Tensor, weights: Weights | None, opacity: float) -> None:
    """Blend warped `planes` into `pixels` (uint8 h w 3, a part of the frame) in place; the result is truncated to uint8.

    `planes` [3 to 5, h, w]: colours in [0, 255]; optionally the weight of the pixels that differ from the original, and the share
    of the frame's own colours that is added. `weights` None means a weight of 1 everywhere.
    """
    levels, differs, kept = planes[:3], planes[3:4], planes[4:]
    if len(kept):
        levels = levels.addcmul_(kept.clamp_(0, 1), colour_planes(pixels))
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


def as_levels(face: Face) -> torch.Tensor:
    """A face as float32 planes [3, r, r] in [0, 255] on the CPU."""
    values = torch.as_tensor(face).detach().cpu()
    if values.dtype == torch.uint8:
        return colour_planes(values.numpy())
    return values.float().add(1).mul_(255 / 2)


def changed_region(weight: torch.Tensor, placement: Placement, frame_hw: tuple[int, int]) -> Region | None:
    """The part of the placement's region where `weight` [1, r, r] of the square face is above 0; None if there is none."""
    y, x = (torch.nonzero(weight[0].amax(dim=axis)).flatten() for axis in (1, 0))
    if not len(x):
        return None
    scale = np.array(placement.size) / weight.shape[-1]
    low = (np.array([int(x[0]), int(y[0])]) + 0.5) * scale - 0.5 - 3  # the resize to the crop reads up to 3 pixels away
    high = (np.array([int(x[-1]), int(y[-1])]) + 0.5) * scale - 0.5 + 3
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [low[0], high[1]], [high[0], high[1]]])
    found = region_around(transform_points(invert_matrix(placement.matrix), corners), frame_hw)
    return found and intersection(found, placement.region)


def check_frame(frame: FrameArray, opacity: float) -> None:
    """Raise ValueError unless `frame` is uint8 [h, w, 3] and `opacity` is in [0, 1]."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(
            f"the frame is {type_and_shape(frame)}, not uint8 [h, w, 3]: pass a colour frame as it was read."
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}, not between 0 and 1.")


def check_face(face: Face, matrix: FloatArray) -> None:
    """Raise ValueError unless `face` is a `Face` and `matrix` an invertible [2, 3]."""
    values = torch.as_tensor(face)
    if not values.is_floating_point() and values.dtype != torch.uint8:
        raise ValueError(f"the face is {face.dtype}: pass float in [-1, 1], colours first, or uint8, colours last.")
    form, sides = ("[r, r, 3]", face.shape[:2]) if values.dtype == torch.uint8 else ("[3, r, r]", face.shape[1:])
    colours = face.shape[-1 if values.dtype == torch.uint8 else 0]
    if face.ndim != 3 or colours != 3 or sides[0] != sides[1]:
        raise ValueError(f"the face has shape {list(face.shape)}, not {form}: pass one square face.")
    linear = np.asarray(matrix, dtype=np.float64)
    if linear.shape != (2, 3) or not np.isfinite(linear).all() or abs(np.linalg.det(linear[:, :2])) < 1e-12:
        raise ValueError("the matrix is not an invertible, finite [2, 3]: pass one that align_matrix returned.")


def type_and_shape(value: object) -> str:
    """Type of a value, and of an array its element type and shape."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


@dataclass(frozen=True)
class Patch:
    """An aligned square face to blend into a frame, with its position and the region that it changes."""

    region: Region  # rows and columns of the frame outside of which nothing changes
    placement: Placement
    # [3 to 5, r, r]: levels in [0, 255], then the weights of what differs from the original, and of its detail
    square: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        frame_hw: tuple[int, int],
        face: Face,
        matrix: FloatArray,
        original: Face | None = None,
        detail: torch.Tensor | None = None,
        visible: FloatArray | None = None,
    ) -> "Patch | None":
        """The patch of a face for a frame of h x w; None if it is outside the frame or equals `original`.

        Args:
            face: float [3, r, r] in [-1, 1], or uint8 [r, r, 3].
            matrix: [2, 3] as from `align_matrix` at resolution r.
            original: in either form, the aligned face that `face` was generated from. Where the two are equal, the frame keeps
                its own pixels, which are sharper than a face that was warped twice.
            detail: [4, s, s], where the two show the same, so that the frame keeps its fine detail (see `latentsync.face.texture`).
            visible: [r, r], with an original: 0 where something is in front of the face, so that the frame keeps its own pixels.

        Raises ValueError for arguments of another shape or type.
        """
        check_face(face, matrix)
        square, before = as_levels(face), None if original is None else as_levels(original)
        if before is not None and before.shape != square.shape:
            raise ValueError(f"the original has shape {list(before.shape)}, not the same shape as the face.")
        placement = Placement.of(np.asarray(matrix, dtype=np.float32), crop_size(square.shape[-1]), frame_hw)
        if placement is None:
            return None
        if before is None:
            return cls(placement.region, placement, square)
        differs = changed_weight(square, before)
        if visible is not None:
            differs = differs * torch.from_numpy(visible)
        region = changed_region(differs, placement, frame_hw)
        if region is None:
            return None
        if detail is None:
            return cls(region, placement, torch.cat([square, differs]))
        kept, change = F.interpolate(detail[None], square.shape[-2:], mode="bilinear", align_corners=False)[0].split(
            [1, 3]
        )
        mixed = torch.lerp(square, change * (255 / 2), kept)  # near 0 where the frame's own levels are added
        return cls(region, placement, torch.cat([mixed, differs, kept]))

    @torch.no_grad()
    def blend_into(self, frame: FrameArray, opacity: float = 1.0) -> None:
        """Blend into `frame` (uint8 h w 3) in place, truncated to uint8; only `region` is read and written.

        `opacity` in [0, 1] scales the blend weight. Raises ValueError for another frame or opacity.
        """
        check_frame(frame, opacity)
        placement = self.placement
        mode = "bicubic" if len(self.square) == 5 else "bilinear"  # where detail is kept, warping must not lose any
        crop = resize_bicubic(self.square, placement.size)
        for part, solid in placement.parts(self.region):
            weights = None if solid else placement.weights(part)
            for strip, rows in strips(part):
                own = None if weights is None else (weights[0][rows], weights[1][rows], weights[2][rows])
                blend_part(frame[strip], unwarp(crop, placement.matrix, strip, mode), own, opacity)
