"""Conversions of aligned faces for the network: frames (uint8) <-> pixels (float in [-1, 1]), resize, masking, colours.

Tensor legend: f frames (any leading batch), c colours, h w height and width.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch.nn import functional as F

from latentsync.face.masks import latent_mask

BORDER_CELLS = 32  # cells along each side of a face over which a colour difference is averaged
BORDER_PIXELS = 256  # along each side: of larger faces every second pixel or fewer are enough for the averages
AVERAGED_FRAMES = 2.0  # standard deviation of the Gaussian that averages differences in time
BORDER_TOLERANCE = 0.3  # of pixels in [-1, 1]: larger differences are of content, not of colour


@dataclass(frozen=True)
class FaceInputs:
    """Consecutive aligned faces, as inputs of the auto-encoder and the network."""

    pixels: torch.Tensor  # [f, c, h, w] in [-1, 1]
    masked_pixels: torch.Tensor  # [f, c, h, w], 0 (mid grey) where the face is generated
    masks: torch.Tensor  # [f, 1, h, w] in [0, 1], 1 = keep

    @property
    def latent_masks(self) -> torch.Tensor:
        """Masks at the size of the latents [f, 1, h/8, w/8]."""
        return latent_mask(self.masks)


def frames_to_pixels(frames: torch.Tensor | NDArray[np.uint8]) -> torch.Tensor:
    """Frames uint8 [..., h, w, c] -> pixels float32 [..., c, h, w] in [-1, 1]."""
    planes = rearrange(torch.as_tensor(frames), "... h w c -> ... c h w").contiguous()  # while a value is one byte
    return planes.to(torch.float32, copy=True).div_(255).sub_(0.5).div_(0.5)


def pixels_to_frames(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels [..., c, h, w] in [-1, 1] (clamped) -> frames uint8 [..., h, w, c] on the same device, truncated."""
    levels = (pixels.float() / 2 + 0.5).clamp(0, 1) * 255
    return rearrange(levels.to(torch.uint8), "... c h w -> ... h w c").contiguous()


def resize_frames(frames: torch.Tensor | NDArray[np.uint8], resolution: int) -> torch.Tensor:
    """Frames uint8 [f, h, w, c] -> uint8 [f, r, r, c]: antialiased bicubic (a = -0.5), rounded; unchanged at that size."""
    frames = torch.as_tensor(frames)
    if tuple(frames.shape[1:3]) == (resolution, resolution):
        return frames
    planes = rearrange(frames, "f h w c -> f c h w").float()
    resized = F.interpolate(planes, size=(resolution, resolution), mode="bicubic", align_corners=False, antialias=True)
    return rearrange(resized.round().clamp(0, 255).to(torch.uint8), "f c h w -> f h w c")


def prepare_faces(frames: torch.Tensor | NDArray[np.uint8], mask: torch.Tensor) -> FaceInputs:
    """Aligned faces uint8 [f, h, w, c] of any size -> network inputs at the size of `mask` [r, r] (see `load_mask`)."""
    pixels = frames_to_pixels(resize_frames(frames, mask.shape[-1]))
    mask = mask.to(pixels)
    return FaceInputs(pixels, pixels * mask, mask.expand(pixels.shape[0], 1, *mask.shape))


def colour_error(reconstructed: torch.Tensor, pixels: torch.Tensor, cell: int) -> torch.Tensor:
    """Colour error of the auto-encoder [f, c, h / cell, w / cell], averaged over cells of `cell` pixels, so that it does not
    contain the shape of the old mouth.

    Both are [f, c, h, w] in [-1, 1]; `reconstructed` is `pixels` encoded and decoded.
    """
    return F.avg_pool2d(pixels - reconstructed, cell)


def every_nth(count: int, step: int) -> torch.Tensor:
    """Indices of every `step`-th of `count` frames, starting with 0, and of the last one."""
    return torch.tensor([*range(0, count - 1, step), count - 1])


def between(values: torch.Tensor, frames: torch.Tensor, count: int) -> torch.Tensor:
    """Linear interpolation of values [n, ...] at n rising `frames`, from 0 to count - 1, to all frames: [count, ...]."""
    wanted = torch.arange(count)
    later = torch.searchsorted(frames, wanted)
    earlier = (later - 1).clamp(min=0)
    share = (wanted - frames[earlier]) / (frames[later] - frames[earlier]).clamp(min=1)
    return torch.lerp(values[earlier], values[later], share.reshape(-1, *[1] * (values.ndim - 1)).to(values.dtype))


def without_error(decoded: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """`decoded` [f, c, h, w] corrected by adding the `colour_error` of the original face, interpolated bilinearly to its size.

    The interpolation is a product with one matrix from each side, and the second product adds to `decoded`: one pass over it.
    """
    (down, across) = (
        _enlarging(*sizes).to(decoded) for sizes in zip(error.shape[-2:], decoded.shape[-2:], strict=True)
    )
    rows = (down @ error.to(decoded)).flatten(0, 1)  # (f c) h w/cell
    planes = decoded.contiguous().flatten(0, 1)
    return torch.baddbmm(planes, rows, across.T.expand(len(rows), -1, -1)).view(decoded.shape)


@lru_cache(maxsize=8)
def _enlarging(cells: int, pixels: int) -> torch.Tensor:
    """The matrix [pixels, cells] of linear interpolation from the centres of cells to those of pixels."""
    return F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0].T.contiguous()


def match_border(faces: torch.Tensor, originals: torch.Tensor, band: torch.Tensor) -> torch.Tensor:
    """`faces` with the colours that the originals have along the border of the generated region, so that no step is seen there.

    Both are [f, c, h, w] in [-1, 1], consecutive frames; `band` [h, w] is the weight of each pixel (see `border_band`). The
    difference is averaged over cells and over neighbouring frames. Large differences, such as a hand, count little. The correction
    of every cell is the mean of the measured ones, weighted by the inverse fourth power of their distance: nearly the measured one
    at the border, and changing smoothly towards the middle.
    """
    cells, step = (BORDER_CELLS, BORDER_CELLS), max(1, len(band) // BORDER_PIXELS)
    few = (..., slice(None, None, step), slice(None, None, step))
    weight = F.adaptive_avg_pool2d(band[few][None, None], cells).flatten(1)  # 1 cells
    difference = F.adaptive_avg_pool2d((originals[few] - faces[few]) * band[few], cells).flatten(2)  # f c cells
    error = torch.einsum("gf, f c n -> g c n", frame_averaging(len(faces)), difference) / weight.clamp_min(1e-6)
    trusted = weight * torch.exp(-error.square().sum(dim=1) / (2 * BORDER_TOLERANCE**2))  # f cells
    spread = _spreading(BORDER_CELLS)
    mean = ((error * trusted[:, None]) @ spread) / (trusted @ spread).clamp_min(1e-9)[:, None]
    return without_error(faces, mean.unflatten(2, cells))


@lru_cache(maxsize=8)
def frame_averaging(count: int) -> torch.Tensor:
    """The matrix [count, count] that averages over neighbouring frames, weighted by a Gaussian."""
    frame = torch.arange(count)
    weight = torch.exp(-(frame - frame[:, None]).square() / (2 * AVERAGED_FRAMES**2))
    return weight / weight.sum(dim=1, keepdim=True)


@lru_cache(maxsize=1)
def _spreading(side: int) -> torch.Tensor:
    """Weights [side * side, side * side] between cells of a square: the inverse fourth power of their distance."""
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    return (torch.cdist(place, place).square() + 0.5).pow(-2)


def changed_weight(face: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Blend weight [1, h, w] in [0, 1] of pixels in which `face` differs from `original`; both [c, h, w] in [-1, 1], on the CPU.

    It is 1 where a colour differs by 4 of 255 levels or more, and 0 away from all pixels that differ by more than one level. Its
    soft edge, 1/64 of the face wide, is outside the pixels that differ.
    """
    level = 2 / 255
    differs = ((face - original).abs_().amax(dim=0).div_(level).sub_(1).div_(3)).clamp_(0, 1).numpy()
    reach = max(1, face.shape[-1] // 64)
    box = (2 * reach + 1, 2 * reach + 1)
    grown = cv2.dilate(differs, np.ones(box, np.uint8))  # a maximum over squares, in one pass along each axis
    summed = cv2.boxFilter(grown, -1, box, normalize=False, borderType=cv2.BORDER_CONSTANT)
    rows, columns = (pixels_in_reach(length, reach) for length in differs.shape)
    weight = np.asarray(summed / np.outer(rows, columns), dtype=np.float32)
    return torch.from_numpy(np.clip(weight, 0, 1, out=weight)[None])


def pixels_in_reach(length: int, reach: int) -> NDArray[np.float32]:
    """For each of `length` pixels in a row, the number of pixels within `reach`: [length]."""
    place = np.arange(length)
    return (np.minimum(place, reach) + np.minimum(place[::-1], reach) + 1).astype(np.float32)


def keep_surroundings(decoded: torch.Tensor, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The generated face where `mask` is 0, the original where it is 1; decoded and pixels [..., c, h, w], mask [..., h, w]."""
    return torch.lerp(decoded.contiguous(), pixels, mask.to(decoded))
