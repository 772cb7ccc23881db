"""Where an aligned face lies in a frame, and how it blends with it: region, coverage, feather.

Coordinates are pixel centres, x then y. Legend: h w pixels of a frame or of a part of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.face.align import FloatArray, Region, invert_matrix, transform_points

EDGE_DIVISOR = 20  # the feather is 1/20 of the face's size (the root of its area) wide
SMALL_REGION = 1 << 17  # pixels: up to here one step for the whole region is faster than five for its parts
Weights = tuple[FloatArray, FloatArray, FloatArray]  # inner mask, blend weight, share outside the crop: each h w
MARGIN = 3  # pixels around the warped crop: what lies further away has weight 0 before and after the feather


def edge_width(mask_area: float) -> int:
    """Width of the feather in pixels for a face that covers `mask_area` pixels of the frame; at least 1."""
    return max(1, int(math.sqrt(mask_area)) // EDGE_DIVISOR)


def pasted_region(matrix: FloatArray, size: tuple[int, int], frame_hw: tuple[int, int]) -> Region | None:
    """Rows and columns of the frame that a w x h crop aligned by `matrix` can change; None if it lies outside."""
    w, h = size
    reached = np.array([[-1, -1], [w, -1], [-1, h], [w, h]])  # bilinear sampling ends a pixel of the crop further out
    return region_around(transform_points(invert_matrix(matrix), reached), frame_hw)


def region_around(corners: FloatArray, frame_hw: tuple[int, int]) -> Region | None:
    """Rows and columns within `MARGIN` of the `corners` [n, 2]; None if they lie outside the frame."""
    limit = np.array(frame_hw[::-1])
    low = np.clip(np.floor(corners.min(axis=0)) - MARGIN, 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + MARGIN + 1, 0, limit).astype(int)
    if (low >= high).any():
        return None
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def coverage(matrix: FloatArray, size: tuple[int, int], region: Region) -> FloatArray:
    """Share h w, in [0, 1], of the w x h crop in each pixel of `region`: a bilinear warp of ones, in closed form."""
    rows, columns = region
    x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)[:, None]
    exact = matrix.astype(np.float64)
    inside: list[FloatArray] = []
    for (along_x, along_y, offset), length in zip(exact, size, strict=True):
        middle = (length - 1) / 2
        row, column = (along_y * y + (offset - middle)).astype(np.float32), (along_x * x).astype(np.float32)
        share = row + column  # distance from the middle of the crop, then how far inside the edge
        np.subtract(np.float32(middle + 1), np.abs(share, out=share), out=share)
        inside.append(np.clip(share, 0, 1, out=share))
    return np.multiply(inside[0], inside[1], out=inside[0])


def feather(mask: FloatArray, width: int | None = None) -> tuple[FloatArray, FloatArray]:
    """From the coverage h w of the face: the inner mask, eroded by a pixel, and the soft blend weight.

    `width` of the feather in pixels is measured on the mask where it is not given.
    """
    inner = cv2.erode(mask, np.ones((2, 2), np.uint8))
    width = edge_width(float(inner.sum(dtype=np.float64))) if width is None else width
    core = eroded(mask, width + 1, width - 1)
    size = 2 * width + 1
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    soft = cv2.GaussianBlur(core, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(inner, dtype=np.float32), np.asarray(soft, dtype=np.float32)


def eroded(mask: FloatArray, before: int, after: int) -> FloatArray:
    """The least of the coverage h w over `before` pixels up and left to `after` pixels down and right, in the frame.

    The coverage is a product of two trapezia and so logarithmically concave: over a box it is least at a corner.
    """
    padded = cv2.copyMakeBorder(mask, before, after, before, after, cv2.BORDER_REPLICATE)
    reach = before + after
    ends = np.minimum(padded[: len(padded) - reach], padded[reach:])
    least = np.minimum(ends[:, : ends.shape[1] - reach], ends[:, reach:])
    return np.asarray(least, dtype=np.float32)


@dataclass(frozen=True)
class Placement:
    """Where a w x h crop lies in a frame, and how it blends with it."""

    matrix: FloatArray  # frame -> crop
    size: tuple[int, int]  # w, h of the crop
    region: Region  # all that the crop can change
    width: int  # of the feather, pixels of the frame
    solid: Region | None  # part of the region where the crop has weight 1; None if it is not worth a step of its own

    @classmethod
    def of(cls, matrix: FloatArray, size: tuple[int, int], frame_hw: tuple[int, int]) -> "Placement | None":
        """The placement in a frame of h x w; None if the crop lies outside."""
        region = pasted_region(matrix, size, frame_hw)
        if region is None:
            return None
        width = feather_width(matrix, size, region)
        return cls(matrix, size, region, width, solid_part(matrix, size, region, width))

    def weights(self, part: Region) -> Weights:
        """Inner mask, blend weight and share outside the crop of a part's pixels, as `feather` has them for the whole."""
        reach = 2 * self.width + 1  # two erosions and the blur
        rows, columns = (
            slice(max(own.start - reach, whole.start), min(own.stop + reach, whole.stop))
            for own, whole in zip(part, self.region, strict=True)
        )
        own = (
            slice(part[0].start - rows.start, part[0].stop - rows.start),
            slice(part[1].start - columns.start, part[1].stop - columns.start),
        )
        covered = coverage(self.matrix, self.size, (rows, columns))
        inner, soft = feather(covered, self.width)
        return inner[own], soft[own], 1 - covered[own]

    def parts(self, within: Region) -> Iterator[tuple[Region, bool]]:
        """`within` cut into disjoint parts, and whether the crop has weight 1 all over each."""
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
    return (region[0].stop - region[0].start) * (region[1].stop - region[1].start)


def intersection(first: Region, second: Region) -> Region | None:
    """What two regions share; None if that is nothing."""
    rows, columns = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return None if rows.start >= rows.stop or columns.start >= columns.stop else (rows, columns)


def feather_width(matrix: FloatArray, size: tuple[int, int], region: Region) -> int:
    """Width of the feather that the eroded mask's area gives.

    The area is read off the outline, without a mask; where that is too close to a step of the width to be sure, the
    mask is summed.
    """
    w, h = size
    outline = np.array([[-0.5, -0.5], [w - 0.5, -0.5], [w - 0.5, h - 0.5], [-0.5, h - 0.5]], dtype=np.float32)
    corners = transform_points(invert_matrix(matrix), outline)
    rows, columns = region
    frame = np.array([[columns.start, rows.start], [columns.stop, rows.start]], dtype=np.float32)
    frame = np.concatenate([frame, frame[::-1] + [[0, rows.stop - rows.start]]]).astype(np.float32) - np.float32(0.5)
    area, shape = cv2.intersectConvexConvex(corners, frame)
    around = cv2.arcLength(shape, True) if shape is not None else 0.0
    least, most = edge_width(max(area - around - 4, 0)), edge_width(area + 4)  # the erosion takes up to its outline
    if least == most:
        return least
    inner = cv2.erode(coverage(matrix, size, region), np.ones((2, 2), np.uint8))
    return edge_width(float(inner.sum(dtype=np.float64)))


def solid_part(matrix: FloatArray, size: tuple[int, int], region: Region, width: int) -> Region | None:
    """An upright rectangle of `region` in which the blend weight is 1; None if it is not worth a step of its own."""
    if pixel_count(region) < SMALL_REGION:
        return None
    linear = np.abs(matrix[:, :2].astype(np.float64))
    half = (np.array(size) - 1) / 2
    if np.linalg.det(linear) < 1e-3 * linear.max() ** 2:  # near 45 degrees no rectangle fits well
        return None
    reach = np.linalg.solve(linear, half) - (2 * width + 3)  # its corners grown by all filters touch the crop's edges
    centre = transform_points(invert_matrix(matrix), half[None])[0]
    low, high = np.ceil(centre - reach), np.floor(centre + reach) + 1
    if (low >= high).any():
        return None
    found = intersection((slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))), region)
    return found if found and 4 * pixel_count(found) > pixel_count(region) else None
