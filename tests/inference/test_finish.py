"""New faces from decoded ones: what is outside of the mask stays, colours and sharpness become those of the original."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentsync.face.colour import measured_frames
from latentsync.face.masks import load_mask
from latentsync.face.pixels import frames_to_pixels
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.windows.finish import DecodedFaces, Finisher, NewFaces

CPU, FRAMES = torch.device("cpu"), 6
CAST = torch.tensor([0.2, -0.1, 0.05])[:, None, None]  # colour error of the auto-encoder, in levels of [-1, 1]


def window_of(side: int) -> DecodedFaces:
    """Grainy faces whose decoded ones have another colour and half of the grain."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(0.8 * torch.rand(FRAMES, 3, 5, 5, generator=generator) - 0.4, (side, side), mode="bicubic")
    grain = 0.05 * torch.randn(FRAMES, 3, side, side, generator=generator)
    frames = ((smooth + grain).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    pixels = frames_to_pixels(frames)
    decoded = smooth + 0.5 * grain + CAST
    return DecodedFaces(decoded, pixels, frames, decoded[measured_frames(FRAMES)])


def finished(window: DecodedFaces, **settings: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    side = window.decoded.shape[-1]
    finisher = Finisher(InferenceSettings(**{"colour": "matched", "texture": "match", **settings}), side, CPU)
    assert finisher.rejection(window.decoded) is None
    return finisher.finish(window)


@pytest.mark.parametrize("side", [64, 128, 192, 512])
def test_outside_of_the_mask_the_originals_stay_and_inside_their_colour_returns(side: int) -> None:
    window = window_of(side)
    faces, detail = finished(window)
    mask = load_mask(side)
    assert faces.dtype == torch.uint8 and torch.equal(faces[:, mask == 1], window.frames[:, mask == 1])
    generated = mask == 0
    off = (faces.float() - window.frames)[:, generated].mean(dim=(0, 1)).abs()
    assert off.max() < 1 < (127.5 * CAST).abs().min()
    assert detail is not None and detail.shape == (FRAMES, 4, min(side, 128), min(side, 128))


def test_settings_leave_colour_and_sharpness_as_they_were_decoded() -> None:
    window = replace(window_of(128), reconstructed=None)
    mask = load_mask(128)
    plain, detail = finished(window, colour="decoded", texture="off")
    decoded = (window.decoded * 127.5 + 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert detail is None and (plain.float() - decoded)[:, mask == 0].abs().max() <= 1
    sharp, _ = finished(window, colour="decoded")
    grain, before = (faces.float().diff(dim=2)[:, mask[:, 1:] == 0].std() for faces in (sharp, plain))
    assert grain > 1.3 * before


def test_results_of_two_windows_are_faded() -> None:
    dark, light = (torch.full((2, 8, 8, 3), level, dtype=torch.uint8) for level in (100, 201))
    first, second = (
        NewFaces(dark, dark, detail=torch.zeros(2, 4, 8, 8)),
        NewFaces(light, dark, detail=torch.ones(2, 4, 8, 8)),
    )
    both = first.faded(second, 0.25)
    assert np.unique(both.faces).tolist() == [125] and both.detail is not None and (both.detail == 0.25).all()
    assert both.frame(1).faces.shape == (1, 8, 8, 3)
