"""Whether generated faces can be shown: numbers that broke, and pictures that are no face."""

import torch
from torch import Tensor

FLAT_DEVIATION = 0.01  # of pixels in [-1, 1]: a face with a hundredth is one colour
MASK_LEVEL, MASK_DEVIATION = 0.03, 0.06  # mid grey, the colour under the mask, and how even it must be


def fault(faces: Tensor, mask: Tensor) -> str | None:
    """What is wrong with decoded faces [f, 3, h, w], or None; `mask` [h, w] is 0 where they were generated.

    "not a number" for values that are not finite, "one colour" where the generated part of a frame has none but one, and
    "mask" where it is the grey that the network is shown there.
    """
    if not torch.isfinite(faces).all():
        return "not a number"
    generated = faces.float()[..., mask < 0.5]  # f c n
    deviation = generated.std(dim=(1, 2))
    if (deviation < FLAT_DEVIATION).any():
        return "one colour"
    grey = (generated.mean(dim=(1, 2)).abs() < MASK_LEVEL) & (deviation < MASK_DEVIATION)
    return "mask" if grey.any() else None
