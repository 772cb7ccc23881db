"""Pasting an aligned face back into its frame, with an edge feathered by the size of the face.

Everything is computed in the box around the face alone: the frame outside of it is not touched.
"""

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from latentsync.face.align import (
    FILL,
    FloatArray,
    FrameArray,
    crop_corners,
    crop_size,
    invert_matrix,
    sampling_grid,
    transform_points,
)

EDGE_DIVISOR = 20  # the feather is 1/20 of the face's size (the root of its area) wide
Region = tuple[slice, slice]  # rows, columns of a frame


def edge_width(mask_area: float) -> int:
    """Width of the feather in pixels for a face that covers `mask_area` pixels of the frame; at least 1."""
    return max(1, int(math.sqrt(mask_area)) // EDGE_DIVISOR)


def pasted_region(matrix: FloatArray, size: tuple[int, int], frame_hw: tuple[int, int]) -> Region | None:
    """Rows and columns of the frame that a w x h crop aligned by `matrix` can change; None if it lies outside."""
    inverse = invert_matrix(matrix)
    corners = transform_points(inverse, crop_corners(size))
    area = size[0] * size[1] * abs(float(np.linalg.det(inverse[:, :2])))
    margin = edge_width(area) + 3  # what lies further away has weight 0 before and after the feather
    low = np.floor(corners.min(axis=0)).astype(int) - margin
    high = np.ceil(corners.max(axis=0)).astype(int) + margin + 1
    limit = np.array(frame_hw[::-1])
    low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    if (low >= high).any():
        return None
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def unwarp(face: torch.Tensor, matrix: FloatArray, region: Region) -> tuple[torch.Tensor, FloatArray]:
    """A crop [c, h, w] in [-1, 1] as seen in `region`: levels [c, h, w] in [0, 255] and coverage h w in [0, 1]."""
    rows, columns = region
    size = (columns.stop - columns.start, rows.stop - rows.start)
    grid = sampling_grid(matrix, (columns.start, rows.start), size, (0, 0), (face.shape[-1], face.shape[-2]))
    planes = torch.cat([face - FILL, torch.ones_like(face[:1])])[None]  # zero padding = grey outside
    planes = F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    levels = planes[:-1].add_(FILL + 1).mul_(255 / 2).clamp_(0, 255)
    return levels, planes[-1].numpy()


def feather(coverage: FloatArray) -> tuple[FloatArray, FloatArray]:
    """From the coverage h w of the face in its region: the inner mask, eroded by a pixel, and the soft blend weight."""
    inner = cv2.erode(coverage, np.ones((2, 2), np.uint8))
    width = edge_width(float(inner.sum(dtype=np.float64)))
    core = cv2.erode(inner, np.ones((2 * width, 2 * width), np.uint8))
    size = 2 * width + 1
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    soft = cv2.GaussianBlur(core, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(inner, dtype=np.float32), np.asarray(soft, dtype=np.float32)


def paste_face(
    frame: FrameArray, face: torch.Tensor | NDArray[np.float32], matrix: FloatArray, opacity: float = 1.0
) -> FrameArray:
    """A copy of `frame` (uint8 h w 3) with the aligned square `face` pasted in, truncated to uint8.

    `face` [3, r, r] in [-1, 1]; `matrix` [2, 3] as from `align_matrix` at resolution r; `opacity` in [0, 1] fades the
    face in and out. The result equals the frame bit by bit outside the face.
    """
    size = crop_size(face.shape[-1])
    result = frame.copy()
    region = pasted_region(matrix, size, (frame.shape[0], frame.shape[1]))
    if region is None or opacity <= 0:
        return result
    square = torch.as_tensor(face).detach().float().cpu()[None]
    crop = F.interpolate(square, size=size[::-1], mode="bicubic", align_corners=False, antialias=True)[0]  # 3:4
    levels, coverage = unwarp(crop, matrix, region)
    inner, soft = (torch.from_numpy(plane) for plane in feather(coverage))
    original = torch.from_numpy(result[region]).permute(2, 0, 1)  # c h w, a view of the result
    blended = torch.lerp(original.float().contiguous(), levels.mul_(inner), soft * opacity)
    original.copy_(blended.clamp_(0, 255).to(torch.uint8))
    return result
