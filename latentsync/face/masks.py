"""The fixed mouth mask of the network: 1 where the face is kept, 0 where it is generated.

The generated region is a U at 256 x 256: the lower face down to the chin and two side bars beside the nose. The public
checkpoints were trained with exactly this region, so its rows are stored here. The mask channel of the network has the
same polarity.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.weights.table import LATENT_STRIDE

if TYPE_CHECKING:
    import torch  # slow to import, and not needed to read a mask

MASK_SIZE = 256
BAND = 5 / 64  # of the side: width of the band in which colours are compared with the original's
MOUTH_ROWS, MOUTH_COLUMNS = (
    (0.55, 0.90),
    (0.25, 0.75),
)  # region of the lips in an aligned face, as fractions of its side
# first row, last row (inclusive), then start and end (exclusive) of each generated span of columns
# fmt: off
GENERATED_ROWS: tuple[tuple[int, ...], ...] = (
    (95, 127, 9, 78, 178, 247), (128, 134, 9, 248), (135, 135, 9, 247), (136, 148, 10, 247), (149, 149, 10, 246),
    (150, 162, 11, 246), (163, 163, 11, 245), (164, 169, 12, 245), (170, 170, 12, 244), (171, 171, 13, 244),
    (172, 172, 13, 243), (173, 173, 14, 243), (174, 174, 14, 242), (175, 175, 15, 242), (176, 176, 15, 241),
    (177, 177, 16, 241), (178, 178, 16, 240), (179, 179, 17, 239), (180, 180, 18, 239), (181, 181, 18, 238),
    (182, 183, 19, 237), (184, 184, 20, 236), (185, 186, 21, 235), (187, 187, 22, 234), (188, 188, 22, 233),
    (189, 189, 23, 233), (190, 190, 24, 232), (191, 191, 25, 231), (192, 192, 26, 231), (193, 193, 26, 230),
    (194, 194, 27, 229), (195, 195, 28, 229), (196, 196, 29, 228), (197, 197, 30, 227), (198, 198, 31, 226),
    (199, 199, 32, 225), (200, 200, 33, 224), (201, 201, 34, 224), (202, 202, 34, 223), (203, 203, 35, 222),
    (204, 204, 36, 221), (205, 205, 37, 220), (206, 206, 38, 219), (207, 207, 39, 218), (208, 208, 40, 217),
    (209, 209, 42, 216), (210, 210, 43, 215), (211, 211, 44, 214), (212, 212, 45, 213), (213, 213, 47, 212),
    (214, 214, 48, 211), (215, 215, 49, 209), (216, 216, 51, 208), (217, 217, 52, 207), (218, 218, 54, 205),
    (219, 219, 56, 204), (220, 220, 57, 203), (221, 221, 59, 201), (222, 222, 60, 200), (223, 223, 62, 198),
    (224, 224, 64, 197), (225, 225, 66, 195), (226, 226, 68, 193), (227, 227, 70, 192), (228, 228, 72, 190),
    (229, 229, 74, 188), (230, 230, 76, 186), (231, 231, 78, 184), (232, 232, 80, 181), (233, 233, 82, 179),
    (234, 234, 85, 176), (235, 235, 87, 174), (236, 236, 90, 172), (237, 237, 93, 169), (238, 238, 95, 167),
    (239, 239, 99, 165), (240, 240, 104, 161), (241, 241, 108, 157), (242, 242, 131, 153),
)
# fmt: on


def mask_image() -> NDArray[np.uint8]:
    """The mask of the public checkpoints, uint8 256 x 256: 255 = keep, 0 = generate."""
    image = np.full((MASK_SIZE, MASK_SIZE), 255, dtype=np.uint8)
    for first, last, *columns in GENERATED_ROWS:
        for start, end in zip(columns[::2], columns[1::2], strict=True):
            image[first : last + 1, start:end] = 0
    return image


def read_mask_image(path: Path | str) -> NDArray[np.uint8]:
    """A mask (uint8 h w, the red channel) from an image file: 255 = keep, 0 = generate. ValueError if unreadable."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is not a readable image, so it cannot be the mask: pass a PNG, or no mask.")
    return np.ascontiguousarray(image[..., 2])


def resize_mask(image: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """A mask image resized to `resolution` x `resolution` by 8x8 Lanczos on uint8 (edges become grey); unchanged at that size."""
    if image.shape == (resolution, resolution):
        return image
    return cv2.resize(image, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4).astype(np.uint8, copy=False)


def load_mask(resolution: int, path: Path | str | None = None) -> "torch.Tensor":
    """Mask [r, r], float32 in [0, 1] (1 = keep), at r = `resolution`: that of the public checkpoints, or of an image file.

    Raises ValueError if `resolution` is not a positive multiple of 8 or the file cannot be read.
    """
    if resolution <= 0 or resolution % LATENT_STRIDE:
        raise ValueError(f"resolution is {resolution}, but latents need a positive multiple of {LATENT_STRIDE}.")
    image = shipped_mask(resolution) if path is None else resize_mask(read_mask_image(path), resolution)
    import torch

    return torch.from_numpy(image.astype(np.float32) / 255)


@lru_cache(maxsize=8)
def shipped_mask(resolution: int) -> NDArray[np.uint8]:
    """`mask_image` at `resolution`, cached; do not modify it."""
    return resize_mask(mask_image(), resolution)


def latent_mask(mask: "torch.Tensor") -> "torch.Tensor":
    """Mask [..., h, w] at the size of the latents [..., h/8, w/8]: the top left pixel of each 8 x 8 cell (nearest neighbour)."""
    return mask[..., ::LATENT_STRIDE, ::LATENT_STRIDE]


def weighted_mouth(side: int, weight: float) -> "torch.Tensor":
    """Loss weights [side, side] of an aligned face's pixels or latent cells: `weight` around the lips, 1 elsewhere."""
    import torch

    rows, columns = (slice(int(a * side), int(b * side)) for a, b in (MOUTH_ROWS, MOUTH_COLUMNS))
    weights = torch.ones(side, side)
    weights[rows, columns] = weight
    return weights


def generated_part(mask: "torch.Tensor") -> tuple[slice, slice]:
    """Rows and columns of the rectangle of whole latent cells around the generated region of `mask` [h, w]."""
    import torch

    lines = (torch.nonzero((mask < 1).any(dim=axis)).flatten().tolist() for axis in (1, 0))
    cells = ((line[0] // LATENT_STRIDE, line[-1] // LATENT_STRIDE + 1) for line in lines)
    rows, columns = (slice(LATENT_STRIDE * first, LATENT_STRIDE * end) for first, end in cells)
    return rows, columns


def border_band(mask: "torch.Tensor") -> "torch.Tensor":
    """Band inside the generated region of `mask` [h, w], along its border: 1 at the border, falling to 0 at `BAND` of the side.

    The edge of the image is no border.
    """
    import torch

    generated = (mask < 0.5).to(torch.uint8).cpu().numpy()
    distance = torch.from_numpy(cv2.distanceTransform(generated, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    depth = (distance - 1) / (BAND * mask.shape[-1])
    return torch.where(distance > 0, (1 - depth).clamp(0, 1), 0).to(mask)
