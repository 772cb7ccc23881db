"""Conversions of aligned faces for the network: frames (uint8) <-> pixels (float in [-1, 1]), resize, masking, differences.

Tensor legend: f frames (any leading batch), c colours, h w height and width.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch.nn import functional as F

from latentsync.face.masks import latent_mask


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


def changed_weight(face: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Blend weight [1, h, w] in [0, 1] of pixels in which `face` differs from `original`; both [c, h, w] in [0, 255], on the CPU.

    It is 1 where a colour differs by 4 levels or more, and 0 away from all pixels that differ by more than one level. Its soft
    edge, 1/64 of the face wide, is outside the pixels that differ.
    """
    differs = (face - original).abs_().amax(dim=0).sub_(1).div_(3).clamp_(0, 1).numpy()
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
