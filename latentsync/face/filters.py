"""Separable filters of faces: resizing, and on accelerators blurring, as banded matrices, cached per size and device.

A filter of a few taps is a matrix with a narrow band. For resizing, multiplying it in blocks takes a third of the time of OpenCV's
and PyTorch's routines; for blurring OpenCV is faster on a CPU. All weights are computed by those routines, so results differ only
by the order of summation.

Legend: c planes, h w pixels, n samples along one axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

BLOCK = 32  # rows of the matrix per multiplication
FIXED_POINT = 2048  # OpenCV rounds the weights of 8-bit resizing to this fraction


@dataclass(frozen=True)
class Bands:
    """A banded matrix [n_out, n_in], split into blocks of rows without the zeros left and right of the band."""

    length: int  # n_out
    blocks: tuple[tuple[slice, slice, torch.Tensor], ...]  # rows, columns and values of each block

    @classmethod
    def of(cls, matrix: torch.Tensor) -> "Bands":
        blocks = []
        for start in range(0, len(matrix), BLOCK):
            rows = slice(start, min(start + BLOCK, len(matrix)))
            used = torch.nonzero(matrix[rows].abs().amax(dim=0)).flatten()
            columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
            blocks.append((rows, columns, matrix[rows, columns].contiguous()))
        return cls(len(matrix), tuple(blocks))

    def to(self, device: torch.device) -> "Bands":
        """The same matrix on another device."""
        return Bands(self.length, tuple((rows, columns, values.to(device)) for rows, columns, values in self.blocks))

    def along_height(self, planes: torch.Tensor) -> torch.Tensor:
        """Planes [c, n_in, w] -> [c, n_out, w]."""
        return torch.cat([weights @ planes[:, read] for _, read, weights in self.blocks], dim=1)

    def along_width(self, planes: torch.Tensor) -> torch.Tensor:
        """Planes [c, h, n_in] -> [c, h, n_out]."""
        lines = planes.reshape(-1, planes.shape[-1])
        result = lines.new_empty(len(lines), self.length)
        for rows, read, weights in self.blocks:
            torch.mm(lines[:, read], weights.T, out=result[:, rows])
        return result.reshape(*planes.shape[:-1], self.length)


@cache
def lanczos_bands(n_in: int, n_out: int) -> Bands:
    """OpenCV's 8-tap Lanczos filter for 8-bit images."""
    matrix = cv2.resize(np.eye(n_in, dtype=np.float32), (n_in, n_out), interpolation=cv2.INTER_LANCZOS4)
    return Bands.of((torch.from_numpy(np.asarray(matrix, dtype=np.float32)) * FIXED_POINT).round() / FIXED_POINT)


@cache
def bicubic_bands(n_in: int, n_out: int) -> Bands:
    """Antialiased bicubic filter (a = -0.5)."""
    eye = torch.eye(n_in)[None, None]
    return Bands.of(F.interpolate(eye, size=(n_out, n_in), mode="bicubic", align_corners=False, antialias=True)[0, 0])


def resize_lanczos(levels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Integer levels [c, h, w] in [0, 255] resized to w x h `size`, rounded; equals OpenCV's Lanczos of the 8-bit image."""
    narrow = lanczos_bands(levels.shape[-1], size[0]).along_width(levels)
    return lanczos_bands(levels.shape[-2], size[1]).along_height(narrow).add_(0.5).floor_().clamp_(0, 255)


def resize_bicubic(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Planes [c, h, w] resized to w x h `size`: antialiased bicubic."""
    narrow = bicubic_bands(planes.shape[-1], size[0]).along_width(planes)
    return bicubic_bands(planes.shape[-2], size[1]).along_height(narrow)


@cache
def area_bands(n_in: int, n_out: int, part: tuple[int, int], device: torch.device) -> Bands:
    """Means of areas, from n_in samples to fewer, or as many; of the samples only those in `part` (start, stop) are given."""
    matrix = cv2.resize(np.eye(n_in, dtype=np.float32), (n_in, n_out), interpolation=cv2.INTER_AREA)
    return Bands.of(torch.from_numpy(np.asarray(matrix, dtype=np.float32))[:, slice(*part)]).to(device)


# a filter of OpenCV: image, taps along x and y -> image
Filter = Callable[[NDArray[np.float32], tuple[int, int]], NDArray[np.float32]]


def filtered(planes: torch.Tensor, taps: int, image_filter: Filter) -> torch.Tensor:
    """Planes [c, h, w] after a separable filter of OpenCV: on the CPU by its own, faster routine; elsewhere as matrices."""
    if planes.device.type == "cpu":
        return torch.from_numpy(np.stack([image_filter(plane, (taps, taps)) for plane in planes.numpy()]))
    height, width = (filter_bands(n, taps, image_filter, planes.device) for n in planes.shape[-2:])
    return height.along_height(width.along_width(planes))


@cache
def filter_bands(n: int, taps: int, image_filter: Filter, device: torch.device) -> Bands:
    """A filter of OpenCV along one axis as a matrix, with its way of continuing the image at the edge."""
    return Bands.of(torch.from_numpy(image_filter(np.eye(n, dtype=np.float32), (1, taps)))).to(device)


def blur(planes: torch.Tensor, deviation: float) -> torch.Tensor:
    """Planes [c, h, w] blurred by a Gaussian with a standard deviation in pixels."""
    return filtered(planes, 2 * round(4 * deviation) + 1, gaussian(deviation))


@cache
def gaussian(deviation: float) -> Filter:
    return lambda image, taps: np.asarray(cv2.GaussianBlur(image, taps, deviation), np.float32)


def local_mean(planes: torch.Tensor, side: int) -> torch.Tensor:
    """The mean of the square of `side` pixels around each pixel of planes [c, h, w]."""
    return filtered(planes, side, box)


def box(image: NDArray[np.float32], taps: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(image, taps), np.float32)
