"""The auto-encoder's loss on the strength of fine detail."""

import torch
from torch.nn import functional as F

from latentsync.face.masks import weighted_mouth
from latentsync.training.demo.vae import MOUTH_WEIGHT, detail_loss


def test_blur_costs_detail_and_another_grain_of_equal_strength_hardly_any() -> None:
    side, generator = 64, torch.Generator().manual_seed(0)
    grain = 0.1 * torch.randn(2, 3, side, side, generator=generator)
    other = 0.1 * torch.randn(2, 3, side, side, generator=generator)
    blurred = F.avg_pool2d(grain, 3, stride=1, padding=1)
    weight = weighted_mouth(side, MOUTH_WEIGHT)
    same, regrown, lost = (float(detail_loss(each, grain, weight)) for each in (grain, other, blurred))
    assert same == 0
    assert 0 < regrown < 0.25 * lost


def test_detail_counts_more_around_the_lips() -> None:
    side = 64
    weight, flat = weighted_mouth(side, MOUTH_WEIGHT), torch.zeros(1, 3, side, side)
    lips, forehead = flat.clone(), flat.clone()
    stripes = torch.tensor([0.2, -0.2]).repeat(8)
    lips[..., 40:48, 24:40] = stripes
    forehead[..., 8:16, 24:40] = stripes
    assert float(detail_loss(flat, lips, weight)) > 3 * float(detail_loss(flat, forehead, weight))
