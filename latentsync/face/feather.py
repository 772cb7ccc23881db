"""Position and blend weights of an aligned face in a frame: region, coverage, feathered edge.

Coordinates are x, y of pixel centres. If the pixels of a frame are not square, the matrix to the crop is not a similarity, and the
width of the feather is equal on the face, not in pixels. Legend: h w pixels of a frame or of a part of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.face.align import FloatArray, Region, invert_matrix, transform_points

EDGE_DIVISOR = 20  # width of the feather: 1/20 of the square root of the face's area
SMALL_REGION = 1 << 17  # pixels; smaller regions are blended faster as a whole than in five parts
Weights = tuple[FloatArray, FloatArray, FloatArray]  # inner mask, blend weight, share outside the crop: each h w
Widths = tuple[int, int]  # of the feather along x and y, pixels of the frame
SQUARE_TOLERANCE = 1e-3  # deviation of the pixel aspect from 1 that is due to the rounding of matrices
MARGIN = 3  # pixels around the warped crop; farther away the weight is 0 with and without feather


def edge_width(mask_area: float) -> int:
    """Width of the feather in pixels for a face that covers `mask_area` pixels of the frame; at least 1."""
    return max(1, int(math.sqrt(mask_area)) // EDGE_DIVISOR)


def pixel_shape(matrix: FloatArray) -> tuple[float, float]:
    """Width and height of a pixel of the frame on the crop, divided by the smaller: (1, 1) for square pixels."""
    width, height = np.linalg.norm(matrix[:, :2].astype(np.float64), axis=0).tolist()
    if abs(width / height - 1) < SQUARE_TOLERANCE:
        return 1.0, 1.0
    return width / min(width, height), height / min(width, height)


def edge_widths(mask_area: float, shape: tuple[float, float] = (1.0, 1.0)) -> Widths:
    """`edge_width` along x and y for pixels of `shape` (see `pixel_shape`); the width on the face is that for square pixels."""
    width = edge_width(mask_area * shape[0] * shape[1])
    return max(1, round(width / shape[0])), max(1, round(width / shape[1]))


def pasted_region(matrix: FloatArray, size: tuple[int, int], frame_hw: tuple[int, int]) -> Region | None:
    """Rows and columns of the frame that pasting a w x h crop aligned by `matrix` can change; None outside the frame."""
    w, h = size
    reached = np.array([[-1, -1], [w, -1], [-1, h], [w, h]])  # bilinear sampling extends one pixel beyond the crop
    return region_around(transform_points(invert_matrix(matrix), reached), frame_hw)


def region_around(corners: FloatArray, frame_hw: tuple[int, int]) -> Region | None:
    """Rows and columns within `MARGIN` of the `corners` [n, 2]; None if they are outside the frame."""
    limit = np.array(frame_hw[::-1])
    low = np.clip(np.floor(corners.min(axis=0)) - MARGIN, 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + MARGIN + 1, 0, limit).astype(int)
    if (low >= high).any():
        return None
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def coverage(matrix: FloatArray, size: tuple[int, int], region: Region) -> FloatArray:
    """Coverage h w in [0, 1] of each pixel of `region` by the w x h crop: a bilinear warp of ones, in closed form."""
    rows, columns = region
    x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)[:, None]
    exact = matrix.astype(np.float64)
    inside: list[FloatArray] = []
    for (along_x, along_y, offset), length in zip(exact, size, strict=True):
        middle = (length - 1) / 2
        row, column = (along_y * y + (offset - middle)).astype(np.float32), (along_x * x).astype(np.float32)
        share = row + column  # distance from the middle of the crop, then distance from its edge
        np.subtract(np.float32(middle + 1), np.abs(share, out=share), out=share)
        inside.append(np.clip(share, 0, 1, out=share))
    return np.multiply(inside[0], inside[1], out=inside[0])


def feather(mask: FloatArray, widths: Widths | None = None) -> tuple[FloatArray, FloatArray]:
    """The inner mask (the coverage h w eroded by a pixel) and the soft blend weight of a face.

    `widths` of the feather: by default from the area of the mask, for square pixels.
    """
    inner = cv2.erode(mask, np.ones((2, 2), np.uint8))
    widths = edge_widths(float(inner.sum(dtype=np.float64))) if widths is None else widths
    sigmas = [0.3 * (width - 1) + 0.8 for width in widths]
    size = 2 * widths[0] + 1, 2 * widths[1] + 1
    soft = cv2.GaussianBlur(eroded(mask, widths), size, sigmas[0], sigmaY=sigmas[1], borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(inner, dtype=np.float32), np.asarray(soft, dtype=np.float32)


def eroded(mask: FloatArray, widths: Widths) -> FloatArray:
    """Erosion of the coverage h w by a box that extends `widths` + 1 pixels up and left and `widths` - 1 down and right.

    The coverage is a product of two trapezoid functions and therefore logarithmically concave: its minimum over a box is at a
    corner.
    """
    across, down = widths
    padded = cv2.copyMakeBorder(mask, down + 1, down - 1, across + 1, across - 1, cv2.BORDER_REPLICATE)
    ends = np.minimum(padded[: len(padded) - 2 * down], padded[2 * down :])
    least = np.minimum(ends[:, : ends.shape[1] - 2 * across], ends[:, 2 * across :])
    return np.asarray(least, dtype=np.float32)


@dataclass(frozen=True)
class Placement:
    """Position of a w x h crop in a frame, with the widths of its feather."""

    matrix: FloatArray  # frame -> crop
    size: tuple[int, int]  # w, h of the crop
    region: Region  # all pixels that the crop can change
    widths: Widths  # of the feather
    solid: Region | None  # part of the region with weight 1; None if too small to be blended separately

    @classmethod
    def of(cls, matrix: FloatArray, size: tuple[int, int], frame_hw: tuple[int, int]) -> "Placement | None":
        """The placement in a frame of h x w; None if the crop is outside."""
        region = pasted_region(matrix, size, frame_hw)
        if region is None:
            return None
        widths = feather_widths(matrix, size, region)
        return cls(matrix, size, region, widths, solid_part(matrix, size, region, widths))

    def weights(self, part: Region) -> Weights:
        """Inner mask, blend weight and 1 - coverage of the pixels of a part; equal to those of `feather` for the whole region."""
        rows, columns = (
            slice(max(own.start - reach, whole.start), min(own.stop + reach, whole.stop))
            for own, whole, reach in zip(part, self.region, self.reaches, strict=True)
        )
        own = (
            slice(part[0].start - rows.start, part[0].stop - rows.start),
            slice(part[1].start - columns.start, part[1].stop - columns.start),
        )
        covered = coverage(self.matrix, self.size, (rows, columns))
        inner, soft = feather(covered, self.widths)
        return inner[own], soft[own], 1 - covered[own]

    @property
    def reaches(self) -> tuple[int, int]:
        """Rows and columns around a pixel on which its weight depends, by two erosions and the blur."""
        across, down = self.widths
        return 2 * down + 1, 2 * across + 1

    def parts(self, within: Region) -> Iterator[tuple[Region, bool]]:
        """Split `within` into disjoint parts; yields each part and whether its weight is 1 everywhere."""
        solid = self.solid and intersection(self.solid, within)
        if solid is None:
            yield within, False
            return
        (rows, columns), (top, left) = within, solid
        bands = [
            (slice(rows.start, top.start), columns),
            (top, slice(columns.start, left.start)),
            (top, slice(left.stop, columns.stop)),
            (slice(top.stop, rows.stop), columns),
        ]
        yield from ((band, False) for band in bands if pixel_count(band))
        yield solid, True


def pixel_count(region: Region) -> int:
    """Number of pixels of a region."""
    return (region[0].stop - region[0].start) * (region[1].stop - region[1].start)


def intersection(first: Region, second: Region) -> Region | None:
    """Intersection of two regions; None if it is empty."""
    rows, columns = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return None if rows.start >= rows.stop or columns.start >= columns.stop else (rows, columns)


def feather_widths(matrix: FloatArray, size: tuple[int, int], region: Region) -> Widths:
    """Widths of the feather from the area of the eroded mask.

    The area is computed from the outline; only if the rounding of the width depends on the exact area, the mask is summed.
    """
    w, h = size
    outline = np.array([[-0.5, -0.5], [w - 0.5, -0.5], [w - 0.5, h - 0.5], [-0.5, h - 0.5]], dtype=np.float32)
    corners = transform_points(invert_matrix(matrix), outline)
    rows, columns = region
    frame = np.array([[columns.start, rows.start], [columns.stop, rows.start]], dtype=np.float32)
    frame = np.concatenate([frame, frame[::-1] + [[0, rows.stop - rows.start]]]).astype(np.float32) - np.float32(0.5)
    area, shape = cv2.intersectConvexConvex(corners, frame)
    around = cv2.arcLength(shape, True) if shape is not None else 0.0
    pixel = pixel_shape(matrix)
    least, most = (edge_widths(each, pixel) for each in (max(area - around - 4, 0), area + 4))
    if least == most:  # the erosion removes at most the outline
        return least
    inner = cv2.erode(coverage(matrix, size, region), np.ones((2, 2), np.uint8))
    return edge_widths(float(inner.sum(dtype=np.float64)), pixel)


def solid_part(matrix: FloatArray, size: tuple[int, int], region: Region, widths: Widths) -> Region | None:
    """An upright rectangle of `region` with blend weight 1; None if it is too small to be blended separately."""
    if pixel_count(region) < SMALL_REGION:
        return None
    linear = np.abs(matrix[:, :2].astype(np.float64))
    half = (np.array(size) - 1) / 2
    # near 45 degrees only small rectangles fit
    if np.linalg.det(linear) < 1e-3 * linear[:, 0].max() * linear[:, 1].max():
        return None
    # corners of the rectangle, plus the reach of all filters, touch the edges of the crop
    reach = np.linalg.solve(linear, half) - (2 * np.array(widths) + 3)
    centre = transform_points(invert_matrix(matrix), half[None])[0]
    low, high = np.ceil(centre - reach), np.floor(centre + reach) + 1
    if (low >= high).any():
        return None
    found = intersection((slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))), region)
    return found if found and 4 * pixel_count(found) > pixel_count(region) else None
