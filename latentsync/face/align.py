"""Face alignment: a 2x3 matrix from three points of the frame to the upright crop, and the warp with it.

Coordinates are x, y of pixel centres: the centre of the top left pixel is (0, 0). Faces are detected and aligned in frames with
square pixels; for frames stored with other pixel shapes the matrix is rescaled, see `rescaled`. The crop has aspect 3:4 and is
then stretched to a square of `resolution`, because the public checkpoints were trained on such faces. The fit is a similarity
after Schönemann (1966): rotation by SVD, scale from the standard deviations, all in float32.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch  # slow to import, and not needed to find faces

FloatArray = NDArray[np.float32]
FrameArray = NDArray[np.uint8]
Region = tuple[slice, slice]  # rows, columns of a frame

TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]], dtype=np.float32)  # left brow, right brow, nose
TEMPLATE_SIZE = (75, 100)  # w, h of the crop in template units
UNITS_AT_256 = 2.8  # crop pixels per template unit at resolution 256
BIAS_MEMORY = 0.2  # weight of the previous bias in the moving average
FILL = 127  # grey level outside the frame


@dataclass
class Smoother:
    """Smoothing state of one stream of consecutive frames; create a new one, or call `reset`, where the stream is interrupted."""

    bias: FloatArray | None = None  # [2], in standard deviations of the points; None before the first frame

    def reset(self) -> None:
        self.bias = None

    def update(self, current: FloatArray) -> FloatArray:
        """Update the moving average with `current` [2] and return the new bias [2]."""
        if self.bias is None:
            self.bias = current
        else:
            self.bias = (BIAS_MEMORY * self.bias + (1 - BIAS_MEMORY) * current).astype(np.float32)
        return self.bias


def template_ratio(resolution: int) -> float:
    """Crop pixels per template unit at `resolution` (2.8 at 256)."""
    if resolution < 8:
        raise ValueError(f"resolution is {resolution}, but a face needs at least 8 pixels: use 256 or 512.")
    return resolution / 256 * UNITS_AT_256


def crop_size(resolution: int) -> tuple[int, int]:
    """Width and height in pixels of the 3:4 crop for a square face of `resolution`: (210, 280) at 256."""
    ratio = template_ratio(resolution)
    return round(TEMPLATE_SIZE[0] * ratio), round(TEMPLATE_SIZE[1] * ratio)


def normalise_points(points: FloatArray) -> tuple[FloatArray, FloatArray, np.float32]:
    """Points [n, 2] minus their mean, divided by their sample standard deviation; also the mean [2] and the deviation."""
    centre = points.mean(axis=0)
    centred = points - centre
    deviation = centred.std(ddof=1)
    return centred / deviation, centre, deviation


def rotation_between(source: FloatArray, target: FloatArray) -> FloatArray:
    """Rotation [2, 2] (no reflection) that best aligns the centred points `source` [n, 2] with `target` [n, 2]."""
    u, _, vt = np.linalg.svd(source.T @ target)
    v = vt.T.copy()
    if np.linalg.det(v @ u.T) < 0:
        v[:, -1] = -v[:, -1]
    return v @ u.T


def align_matrix(points: NDArray[np.floating], resolution: int, smoother: Smoother | None = None) -> FloatArray:
    """Similarity [2, 3], float32, that maps frame coordinates to crop coordinates of size `crop_size(resolution)`.

    `points` [3, 2]: centres of the left brow, the right brow and the nose in frame pixels (left and right in
    the image). With a `smoother`, the deviation of the nose from the template, averaged over time, is added to the
    translation in pixels, as in the training of the public checkpoints; without one the plain fit is returned. Raises
    ValueError for points that coincide or are not finite.
    """
    source = np.asarray(points, dtype=np.float32)
    if source.shape != TEMPLATE.shape:
        raise ValueError(
            f"alignment points have shape {source.shape}, not [3, 2]: pass left brow, right brow and nose."
        )
    if not np.isfinite(source).all() or np.ptp(source, axis=0).max() < 1e-3:
        raise ValueError("alignment points coincide or are not finite: pass three distinct points.")
    target = TEMPLATE * np.float32(template_ratio(resolution))
    source_unit, source_centre, source_deviation = normalise_points(source)
    target_unit, target_centre, target_deviation = normalise_points(target)
    linear = target_deviation / source_deviation * rotation_between(source_unit, target_unit)
    translation = target_centre - linear @ source_centre
    if smoother is not None:
        translation = translation + smoother.update(target_unit[2] - source_unit[2])
    return np.concatenate([linear, translation[:, None]], axis=1).astype(np.float32)


def invert_matrix(matrix: FloatArray) -> FloatArray:
    """Inverse [2, 3] of an affine matrix [2, 3]: crop coordinates -> frame coordinates."""
    return np.linalg.inv(np.vstack([matrix.astype(np.float64), [0.0, 0.0, 1.0]]))[:2].astype(np.float32)


def transform_points(matrix: FloatArray, points: NDArray[np.floating]) -> FloatArray:
    """Points [n, 2] transformed by an affine matrix [2, 3]."""
    return (np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def rescaled(
    matrix: NDArray[np.floating], scale: tuple[float, float], origin: tuple[float, float] = (0.0, 0.0)
) -> NDArray[np.float64]:
    """Matrices [..., 2, 3], float64, for a resized part of the frame instead of the frame.

    A pixel of the part is `scale` (x, y) pixels of the frame wide and high; the part begins at pixel `origin` (x, y) of the frame.
    """
    linear, ratio = matrix[..., :2].astype(np.float64), np.array(scale)
    offset = linear @ (np.array(origin) + (ratio - 1) / 2) + matrix[..., 2]
    return np.concatenate([linear * ratio, offset[..., None]], axis=-1)


def crop_corners(size: tuple[int, int]) -> FloatArray:
    """Pixel centres [4, 2] of the corners of a w x h image."""
    w, h = size
    return np.array([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]], dtype=np.float32)


def sampled_region(matrix_inverse: FloatArray, size: tuple[int, int], frame_hw: tuple[int, int]) -> Region:
    """Rows and columns of the frame that a bilinear warp to a crop of w x h `size` can read (at least 2 x 2)."""
    corners = transform_points(matrix_inverse, crop_corners(size))
    low = np.floor(corners.min(axis=0)).astype(int) - 1
    high = np.ceil(corners.max(axis=0)).astype(int) + 2
    limit = np.array(frame_hw[::-1])
    low = np.clip(low, 0, limit - 2)
    high = np.clip(high, low + 2, limit)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def sampling_grid(
    matrix: FloatArray,
    start: tuple[int, int],
    size: tuple[int, int],
    source_start: tuple[int, int],
    source: tuple[int, int],
) -> "torch.Tensor":
    """Sampling positions of a bilinear warp: normalised, corner-aligned coordinates [1, h, w, 2] for `grid_sample`, float32.

    `matrix` [2, 3] maps target to source coordinates. The target has w x h `size` and starts at `start` (x, y); the source
    has w x h `source` and starts at `source_start`.
    """
    import torch

    grid = torch.empty(1, size[1], size[0], 2)
    column = torch.arange(size[0], dtype=torch.float32)
    row = torch.arange(size[1], dtype=torch.float32)[:, None]
    for axis, (along_x, along_y, offset) in enumerate(matrix.tolist()):
        unit = 2 / max(source[axis] - 1, 1)
        first = (along_x * start[0] + along_y * start[1] + offset - source_start[axis]) * unit - 1
        torch.add(column * (along_x * unit) + first, row * (along_y * unit), out=grid[0, ..., axis])
    return grid


def colour_planes(frame: FrameArray) -> "torch.Tensor":
    """A frame uint8 h w 3, or a part of it, as float32 planes [3, h, w] in [0, 255]."""
    import torch

    planes = np.empty((3, *frame.shape[:2]), dtype=np.uint8)
    cv2.split(frame, list(planes))
    return torch.from_numpy(planes).float()


def colour_frame(levels: "torch.Tensor") -> FrameArray:
    """Planes [3, h, w] in [0, 255] as a frame uint8 h w 3, truncated."""
    planes = levels.numpy().astype(np.uint8)  # a quarter of the time of torch's cast
    return np.asarray(cv2.merge(list(planes)), dtype=np.uint8)


def warp_levels(frame: FrameArray, matrix: FloatArray, size: tuple[int, int]) -> "torch.Tensor":
    """The w x h crop of a frame uint8 h w 3 as planes [3, h, w] in [0, 255]: bilinear, grey 127 outside the frame."""
    from torch.nn import functional as F

    inverse = invert_matrix(matrix)
    rows, columns = sampled_region(inverse, size, (frame.shape[0], frame.shape[1]))
    patch = colour_planes(frame[rows, columns]).sub_(FILL)
    read = (columns.stop - columns.start, rows.stop - rows.start)
    grid = sampling_grid(inverse, (0, 0), size, (columns.start, rows.start), read)
    crop = F.grid_sample(patch[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    return crop.add_(FILL).clamp_(0, 255)


def warp_face(frame: FrameArray, matrix: FloatArray, resolution: int) -> FrameArray:
    """The aligned face, uint8 `resolution` x `resolution` x 3, of a frame uint8 h w 3; `matrix` as from `align_matrix`."""
    from latentsync.face.filters import resize_lanczos

    levels = warp_levels(frame, matrix, crop_size(resolution)).floor_()
    return colour_frame(resize_lanczos(levels, (resolution, resolution)))


# Small upright patches of a frame; large faces are first reduced by area averaging.
@dataclass(frozen=True)
class CloseUp:
    """A part of a frame, reduced to about the scale of the patches that are taken from it."""

    pixels: FrameArray  # uint8 [h, w, 3]
    scale: tuple[float, float]  # frame pixels a pixel is wide and high
    origin: tuple[int, int]  # x, y of its first pixel in the frame
    frame_size: tuple[int, int]  # w, h

    def covers(self, matrix: FloatArray, size: tuple[int, int]) -> bool:
        """Whether it contains the w x h patch by `matrix`, as far as the frame does."""
        corners = transform_points(invert_matrix(matrix), crop_corners(size))
        seen = (np.clip(corners, 0, np.array(self.frame_size) - 1) - self.origin) / self.scale
        return bool(seen.min() >= -1 and (seen <= self.pixels.shape[1::-1]).all())

    def patch(self, matrix: FloatArray, size: tuple[int, int]) -> FrameArray:
        """The w x h patch, uint8 [h, w, 3], by the matrix [2, 3] from the frame; pixels outside repeat the border."""
        return self._warped(self.pixels, matrix, size)

    def grey_patch(self, matrix: FloatArray, size: tuple[int, int]) -> FrameArray:
        """As `patch`, in grey: uint8 [h, w]."""
        return self._warped(np.asarray(cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY), np.uint8), matrix, size)

    def _warped(self, pixels: FrameArray, matrix: FloatArray, size: tuple[int, int]) -> FrameArray:
        inner = rescaled(matrix, self.scale, self.origin)
        return np.asarray(cv2.warpAffine(pixels, inner, size, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)


def close_up(frame: FrameArray, matrix: FloatArray, size: tuple[int, int], margin: int = 0) -> CloseUp:
    """The part of a frame (uint8 h w 3) under a w x h patch and `margin` patch pixels around it.

    `matrix` [2, 3] maps the frame to the patch.
    """
    w, h = size[0] + margin, size[1] + margin
    corners = transform_points(
        invert_matrix(matrix), np.array([[-margin, -margin], [w, -margin], [-margin, h], [w, h]])
    )
    limit = np.array(frame.shape[1::-1])
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, limit - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, low + 1, limit)
    halvings = max(0, int(np.log2(1 / np.hypot(*matrix[0, :2]))))
    cell = 2**halvings
    cells = np.maximum(1, np.minimum(-(-(high - low) // cell), (limit - low) // cell))
    high = np.minimum(low + cells * cell, limit)
    region = small = frame[low[1] : high[1], low[0] : high[0]]
    for _ in range(halvings):  # a third of the time of one step
        half = max(1, small.shape[1] // 2), max(1, small.shape[0] // 2)
        small = np.asarray(cv2.resize(small, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    scale = region.shape[1] / small.shape[1], region.shape[0] / small.shape[0]
    return CloseUp(small, scale, (int(low[0]), int(low[1])), (frame.shape[1], frame.shape[0]))


def warp_region(frame: FrameArray, matrix: FloatArray, size: tuple[int, int]) -> FrameArray:
    """The w x h patch of a frame, uint8 [h, w, 3]; pixels outside the frame repeat its border."""
    return close_up(frame, matrix, size).patch(matrix, size)


def warp_grey(frame: FrameArray, matrix: FloatArray, size: tuple[int, int]) -> FrameArray:
    """As `warp_region`, in grey: uint8 [h, w]."""
    return close_up(frame, matrix, size).grey_patch(matrix, size)
