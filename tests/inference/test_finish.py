"""New faces from decoded ones: what is outside of the mask stays, colours and sharpness become those of the original."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from latentsync.face.colour import measured_frames
from latentsync.face.masks import load_mask
from latentsync.face.pixels import frames_to_pixels
from latentsync.inference.windows.finish import DecodedFaces, Finisher, NewFaces

CPU, FRAMES = torch.device("cpu"), 6
CAST = torch.tensor([0.2, -0.1, 0.05])[:, None, None]  # colour error of the auto-encoder, in levels of [-1, 1]


def window_of(side: int) -> DecodedFaces:
    """Grainy faces whose decoded ones have another colour and half of the grain."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(0.8 * torch.rand(FRAMES, 3, 5, 5, generator=generator) - 0.4, (side, side), mode="bicubic")
    grain = 0.05 * torch.randn(FRAMES, 3, side, side, generator=generator)
    pixels = frames_to_pixels(pixels_to_nearest((smooth + grain).clamp(-1, 1)))
    decoded = smooth + 0.5 * grain + CAST
    return DecodedFaces(decoded, pixels, decoded[measured_frames(FRAMES)])


def finished(window: DecodedFaces, keeps_detail: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Whole new faces [f, 3, r, r], and where detail is kept."""
    finisher = Finisher(window.decoded.shape[-1], CPU, keeps_detail)
    assert finisher.rejection(window.decoded) is None
    faces, detail = finisher.finish(window)
    return NewFaces(pixels_to_nearest(window.pixels), finisher.part, faces).whole(), detail


def pixels_to_nearest(pixels: torch.Tensor) -> torch.Tensor:
    return rearrange(pixels * 127.5 + 127.5, "f c h w -> f h w c").round().to(torch.uint8)


@pytest.mark.parametrize("side", [64, 128, 192, 512])
def test_outside_of_the_mask_the_originals_stay_and_inside_their_colour_returns(side: int) -> None:
    window = window_of(side)
    faces, detail = finished(window)
    mask = load_mask(side)
    assert torch.equal(faces[..., mask == 1], window.pixels[..., mask == 1])
    off = (faces - window.pixels)[..., mask == 0].mean(dim=(0, 2)).abs()
    assert off.max() < 0.008 < CAST.abs().min()
    assert detail is not None and detail.shape == (FRAMES, 4, min(side, 128), min(side, 128))


def test_settings_leave_colour_and_sharpness_as_they_were_decoded() -> None:
    window = replace(window_of(128), reconstructed=None)
    mask = load_mask(128)
    plain, detail = finished(window, keeps_detail=False)
    assert detail is None and torch.equal(plain[..., mask == 0], window.decoded[..., mask == 0])
    sharp, _ = finished(window)
    grain, before = (faces.diff(dim=3)[..., mask[:, 1:] == 0].std() for faces in (sharp, plain))
    assert grain > 1.3 * before


def test_a_value_that_is_no_number_is_found_anywhere() -> None:
    window, finisher = window_of(64), Finisher(64, CPU, keeps_detail=True)
    for place in ((0, 0), (40, 32)):  # outside and inside of the rectangle
        decoded = window.decoded.clone()
        decoded[(3, 1, *place)] = torch.nan
        assert finisher.rejection(decoded) == "not a number"


def test_results_of_two_windows_are_faded() -> None:
    original, part = torch.zeros(2, 8, 8, 3, dtype=torch.uint8), (slice(0, 8), slice(0, 8))
    dark, light = (torch.full((2, 3, 8, 8), level) for level in (-0.5, 0.5))
    first = NewFaces(original, part, dark, detail=torch.zeros(2, 4, 8, 8))
    both = first.faded(NewFaces(original, part, light, detail=torch.ones(2, 4, 8, 8)), 0.25)
    assert both.detail is not None and (both.faces == -0.25).all() and (both.detail == 0.25).all()
    assert both.frame(1).whole().shape == (1, 3, 8, 8)
