"""Colours of a new face: the auto-encoder's error is undone, and there is no step along the border of the generated region.

Both corrections are smooth, so they are measured in cells and interpolated linearly. All tensors are of the rectangle around the
generated region alone (`latentsync.face.masks.generated_part`), in [-1, 1], on any device.

Legend: f frames, c colours, h w height and width, n cells along one axis, m frames in which something was measured.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

BORDER_CELLS = 32  # cells along each side of a whole face over which a colour difference is averaged
BORDER_PIXELS = 256  # along each side: of larger faces every second pixel or fewer are enough for the averages
AVERAGED_FRAMES = 2.0  # standard deviation of the Gaussian that averages differences in time
BORDER_TOLERANCE = 0.3  # of pixels in [-1, 1]: larger differences are of content, not of colour
MEASURED_EVERY = 4  # frames: within so few the auto-encoder's error hardly changes


def with_colours(planes: Tensor, cells: Tensor) -> Tensor:
    """`planes` [f, c, h, w] plus colours in `cells` [f, c, n, n], which are interpolated bilinearly."""
    height, width = planes.shape[-2:]
    rows = enlarged(cells, (cells.shape[-2], width)).flatten(0, 1)  # (f c) n w
    down = enlarging(cells.shape[-2], height, cells.device)
    return torch.baddbmm(planes.flatten(0, 1), down.expand(len(rows), -1, -1), rows).view(planes.shape)


def enlarged(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells [..., n, n] interpolated bilinearly to height and width."""
    for axis, pixels in ((-1, size[1]), (-2, size[0])):
        count = cells.shape[axis]
        if count != pixels:
            matrix = enlarging(count, pixels, cells.device)
            cells = cells @ matrix.T if axis == -1 else matrix @ cells
    return cells


@cache
def enlarging(cells: int, pixels: int, device: torch.device) -> Tensor:
    """The matrix [pixels, cells] of linear interpolation from the centres of cells to those of pixels."""
    matrix = F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0]
    return matrix.T.contiguous().to(device)


@cache
def averaging(pixels: int, cells: int, device: torch.device) -> Tensor:
    """The matrix [pixels, cells] of means over cells."""
    return F.adaptive_avg_pool1d(torch.eye(pixels), cells).to(device)


def measured_frames(count: int) -> Tensor:
    """Indices of every `MEASURED_EVERY`-th of `count` frames, starting with 0, and of the last one."""
    return torch.tensor([*range(0, count - 1, MEASURED_EVERY), count - 1])


def colour_error(reconstructed: Tensor, originals: Tensor, cell: int, count: int) -> Tensor:
    """Colour error of the auto-encoder [f, c, n, n] in `count` frames, averaged over cells of `cell` pixels, so that it does not
    contain the shape of the old mouth.

    Both are [m, c, h, w], of the `measured_frames`; `reconstructed` is `originals` encoded and decoded.
    """
    error = F.avg_pool2d(originals - reconstructed, cell)
    return torch.einsum("fm, mchw -> fchw", between_measured(count, error.device), error)


@cache
def between_measured(count: int, device: torch.device) -> Tensor:
    """The matrix [count, m] of linear interpolation from the `measured_frames` to all frames."""
    wanted, measured = torch.arange(count), measured_frames(count)
    later = torch.searchsorted(measured, wanted)
    earlier = (later - 1).clamp(min=0)
    share = (wanted - measured[earlier]) / (measured[later] - measured[earlier]).clamp(min=1)
    before, after = (F.one_hot(each, len(measured)).float() for each in (earlier, later))
    return torch.lerp(before, after, share[:, None]).to(device)


def border_error(faces: Tensor, originals: Tensor, band: Tensor, cells: tuple[int, int]) -> Tensor:
    """The colours [f, c, n, n] missing in `faces` along the border of the generated region, so that no step is seen there.

    Both are [f, c, h, w], consecutive frames; `band` [h, w] is the weight of each pixel (see `border_band`). The difference is
    averaged over `cells` (rows, columns) and over neighbouring frames. Large differences, such as a hand, count little. The
    correction of every cell is the mean of the measured ones, weighted by the inverse fourth power of their distance: nearly the
    measured one at the border, and changing smoothly towards the middle.
    """
    rows, columns = (averaging(size, n, faces.device) for size, n in zip(band.shape, cells, strict=True))
    weight = (rows.T @ band @ columns).flatten()  # cells
    difference = (rows.T @ (((originals - faces) * band) @ columns)).flatten(2)  # f c cells
    near = frame_averaging(len(faces), faces.device)
    error = torch.einsum("gf, f c n -> g c n", near, difference) / weight.clamp_min(1e-6)
    trusted = weight * torch.exp(-error.square().sum(dim=1) / (2 * BORDER_TOLERANCE**2))  # f cells
    spread = spreading(cells, faces.device)
    mean = ((error * trusted[:, None]) @ spread) / (trusted @ spread).clamp_min(1e-9)[:, None]
    return mean.unflatten(2, cells)


@cache
def frame_averaging(count: int, device: torch.device) -> Tensor:
    """The matrix [count, count] that averages over neighbouring frames, weighted by a Gaussian."""
    frame = torch.arange(count)
    weight = torch.exp(-(frame - frame[:, None]).square() / (2 * AVERAGED_FRAMES**2))
    return (weight / weight.sum(dim=1, keepdim=True)).to(device)


@cache
def spreading(cells: tuple[int, int], device: torch.device) -> Tensor:
    """Weights [n * n, n * n] between all `cells` of a rectangle: the inverse fourth power of their distance."""
    place = torch.cartesian_prod(*(torch.arange(side) for side in cells)).float()
    return (torch.cdist(place, place).square() + 0.5).pow(-2).to(device)
