"""Where an aligned face lies in a frame, and how it blends with it: region, coverage, feather.

Coordinates are pixel centres, x then y. A frame's pixels need not be square: then the matrix to the crop is no similarity, and
the feather is equally wide on the face, not in pixels. Legend: h w pixels of a frame or of a part of it.
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
Widths = tuple[int, int]  # of the feather along x and y, pixels of the frame
SQUARE_TOLERANCE = 1e-3  # of a pixel's aspect; less is the rounding of matrices
MARGIN = 3  # pixels around the warped crop: what lies further away has weight 0 before and after the feather


def edge_width(mask_area: float) -> int:
    """Width of the feather in pixels for a face that covers `mask_area` pixels of the frame; at least 1."""
    return max(1, int(math.sqrt(mask_area)) // EDGE_DIVISOR)


def pixel_shape(matrix: FloatArray) -> tuple[float, float]:
    """Width and height of a frame's pixel on the crop, over the shorter of the two: (1, 1) for square pixels."""
    width, height = np.linalg.norm(matrix[:, :2].astype(np.float64), axis=0).tolist()
    if abs(width / height - 1) < SQUARE_TOLERANCE:
        return 1.0, 1.0
    return width / min(width, height), height / min(width, height)


def edge_widths(mask_area: float, shape: tuple[float, float] = (1.0, 1.0)) -> Widths:
    """`edge_width` along x and y for pixels of the given shape (see `pixel_shape`), as wide on the face as for square ones."""
    width = edge_width(mask_area * shape[0] * shape[1])
    return max(1, round(width / shape[0])), max(1, round(width / shape[1]))


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


def feather(mask: FloatArray, widths: Widths | None = None) -> tuple[FloatArray, FloatArray]:
    """From the coverage h w of the face: the inner mask, eroded by a pixel, and the soft blend weight.

    `widths` of the feather are measured on the mask, for square pixels, where they are not given.
    """
    inner = cv2.erode(mask, np.ones((2, 2), np.uint8))
    widths = edge_widths(float(inner.sum(dtype=np.float64))) if widths is None else widths
    sigmas = [0.3 * (width - 1) + 0.8 for width in widths]
    size = 2 * widths[0] + 1, 2 * widths[1] + 1
    soft = cv2.GaussianBlur(eroded(mask, widths), size, sigmas[0], sigmaY=sigmas[1], borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(inner, dtype=np.float32), np.asarray(soft, dtype=np.float32)


def eroded(mask: FloatArray, widths: Widths) -> FloatArray:
    """The least of the coverage h w from a pixel more than `widths` up and left to one less down and right, in the frame.

    The coverage is a product of two trapezia and so logarithmically concave: over a box it is least at a corner.
    """
    across, down = widths
    padded = cv2.copyMakeBorder(mask, down + 1, down - 1, across + 1, across - 1, cv2.BORDER_REPLICATE)
    ends = np.minimum(padded[: len(padded) - 2 * down], padded[2 * down :])
    least = np.minimum(ends[:, : ends.shape[1] - 2 * across], ends[:, 2 * across :])
    return np.asarray(least, dtype=np.float32)


@dataclass(frozen=True)
class Placement:
    """Where a w x h crop lies in a frame, and how it blends with it."""

    matrix: FloatArray  # frame -> crop
    size: tuple[int, int]  # w, h of the crop
    region: Region  # all that the crop can change
    widths: Widths  # of the feather
    solid: Region | None  # part of the region where the crop has weight 1; None if it is not worth a step of its own

    @classmethod
    def of(cls, matrix: FloatArray, size: tuple[int, int], frame_hw: tuple[int, int]) -> "Placement | None":
        """The placement in a frame of h x w; None if the crop lies outside."""
        region = pasted_region(matrix, size, frame_hw)
        if region is None:
            return None
        widths = feather_widths(matrix, size, region)
        return cls(matrix, size, region, widths, solid_part(matrix, size, region, widths))

    def weights(self, part: Region) -> Weights:
        """Inner mask, blend weight and share outside the crop of a part's pixels, as `feather` has them for the whole."""
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
        """Rows and columns around a pixel on which its weight depends: those of two erosions and the blur."""
        across, down = self.widths
        return 2 * down + 1, 2 * across + 1

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


def feather_widths(matrix: FloatArray, size: tuple[int, int], region: Region) -> Widths:
    """Widths of the feather that the eroded mask's area gives.

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
    pixel = pixel_shape(matrix)
    least, most = (edge_widths(each, pixel) for each in (max(area - around - 4, 0), area + 4))
    if least == most:  # the erosion takes up to its outline
        return least
    inner = cv2.erode(coverage(matrix, size, region), np.ones((2, 2), np.uint8))
    return edge_widths(float(inner.sum(dtype=np.float64)), pixel)


def solid_part(matrix: FloatArray, size: tuple[int, int], region: Region, widths: Widths) -> Region | None:
    """An upright rectangle of `region` in which the blend weight is 1; None if it is not worth a step of its own."""
    if pixel_count(region) < SMALL_REGION:
        return None
    linear = np.abs(matrix[:, :2].astype(np.float64))
    half = (np.array(size) - 1) / 2
    if np.linalg.det(linear) < 1e-3 * linear[:, 0].max() * linear[:, 1].max():  # near 45 degrees no rectangle fits well
        return None
    # its corners grown by all filters touch the crop's edges
    reach = np.linalg.solve(linear, half) - (2 * np.array(widths) + 3)
    centre = transform_points(invert_matrix(matrix), half[None])[0]
    low, high = np.ceil(centre - reach), np.floor(centre + reach) + 1
    if (low >= high).any():
        return None
    found = intersection((slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))), region)
    return found if found and 4 * pixel_count(found) > pixel_count(region) else None
