"""The original's fine detail is kept where a new face shows the same, and only there."""

import cv2
import numpy as np
import pytest
import torch

from latentsync.face import align, masks, paste, pixels
from latentsync.face.texture import fine_detail, kept_detail, sharpened, sharpening, small

SIZE, FRAMES = (320, 240), 6
POINTS = np.array([[120.0, 80.0], [200.0, 80.0], [160.0, 150.0]], dtype=np.float32)
OFFSET = 0.03  # of levels in [-1, 1]: a new face is a little brighter
MOUTH = (slice(None), slice(None), slice(70, 90), slice(40, 88))  # in a face of 128 pixels
CHEEK = (slice(None), slice(None), slice(20, 40), slice(10, 120))


@pytest.fixture(scope="module")
def grainy() -> np.ndarray:
    """A frame of soft colours with fine grain."""
    noise = np.random.default_rng(0).normal(0, 12, (SIZE[1], SIZE[0], 3))
    return np.clip(120 + noise, 0, 255).astype(np.uint8)


def soft(faces: torch.Tensor) -> torch.Tensor:
    """Faces [f, 3, r, r] without fine detail, a little brighter: what networks make of them."""
    images = faces.permute(0, 2, 3, 1).numpy()
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 2.0 * len(image) / 128) for image in images])
    return torch.from_numpy(blurred).permute(0, 3, 1, 2) + OFFSET


def detail_of(faces: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    side = faces.shape[-1]
    return kept_detail(small(faces - originals, (slice(0, side), slice(0, side)), side))


def aligned(frame: np.ndarray, side: int) -> tuple[torch.Tensor, np.ndarray]:
    """`FRAMES` equal aligned faces [f, 3, r, r] and their matrix."""
    matrix = align.align_matrix(POINTS, side)
    face = pixels.frames_to_pixels(align.warp_face(frame, matrix, side))
    return face.repeat(FRAMES, 1, 1, 1), matrix


def fine(image: np.ndarray) -> float:
    """Contrast of fine detail in the middle of a frame."""
    part = image[60:140, 110:210].astype(np.float32)
    return float((part - cv2.GaussianBlur(part, (0, 0), 1.5)).std())


@pytest.mark.parametrize("side", [64, 128, 256])
def test_a_softened_face_keeps_the_grain_of_the_frame_and_its_own_colour(grainy: np.ndarray, side: int) -> None:
    originals, matrix = aligned(grainy, side)
    faces, results = soft(originals), {}
    detail = detail_of(faces, originals)
    assert detail.shape == (FRAMES, 4, min(side, 128), min(side, 128)) and detail[:, 0].min() > 0.8
    for name, kept in (("off", None), ("match", detail[0])):
        results[name] = grainy.copy()
        patch = paste.Patch.of(SIZE[::-1], faces[0], matrix, originals[0], kept)
        assert patch is not None
        patch.blend_into(results[name])
    assert fine(results["off"]) < 0.5 * fine(grainy) and fine(results["match"]) == pytest.approx(fine(grainy), rel=0.1)
    brighter = results["match"][60:140, 110:210].mean() - grainy[60:140, 110:210].mean()
    assert brighter == pytest.approx(OFFSET * 127.5, abs=1.0)


def test_where_the_face_moves_the_new_one_is_used(grainy: np.ndarray) -> None:
    originals, _ = aligned(grainy, 128)
    faces = soft(originals)
    faces[(2, *MOUTH[1:])] = -0.9  # the mouth opens in one frame only
    kept = detail_of(faces, originals)[:, :1]
    assert kept[MOUTH][:5].max() < 0.05  # also before and after it
    assert kept[CHEEK].min() > 0.8


@pytest.mark.parametrize("side", [64, 128, 256])
def test_new_faces_are_as_sharp_as_what_is_kept_of_the_face(grainy: np.ndarray, side: int) -> None:
    originals, mask = aligned(grainy, side)[0], masks.load_mask(side)
    softened = originals - 0.25 * fine_detail(originals)
    kept, generated = (mask > 0.5).float(), mask < 0.5
    gain = sharpening(softened, originals, kept)
    sharp = sharpened(softened, gain, side)
    strengths = [float(fine_detail(faces)[..., generated].std()) for faces in (originals, softened, sharp)]
    lost_in_pasting = 0.36 if side <= 128 else 0.18
    assert strengths[1] < 0.9 * strengths[0]
    assert strengths[2] == pytest.approx(strengths[0] / (1 - lost_in_pasting), rel=0.05)
    other_layout = softened.to(memory_format=torch.channels_last)
    assert torch.equal(sharpened(other_layout, gain, side), sharp)
    assert sharpening(2 * originals, originals, kept) == 1  # never softened


def test_a_new_mouth_loses_little_of_its_detail_when_it_is_pasted(grainy: np.ndarray) -> None:
    originals, matrix = aligned(grainy, 128)
    results = {}
    for name, kept in (("plain", None), ("detail", torch.zeros(4, 128, 128))):
        results[name] = np.full_like(grainy, 120)
        patch = paste.Patch.of(SIZE[::-1], originals[0], matrix, originals[0] - 0.5, kept)
        assert patch is not None
        patch.blend_into(results[name])
    assert fine(results["detail"]) > 1.1 * fine(results["plain"])


def test_a_smear_far_from_the_mouth_leaves_the_frame_as_it_is(grainy: np.ndarray) -> None:
    originals, _ = aligned(grainy, 128)
    faces, ear = soft(originals), (slice(None), slice(None), slice(70, 100), slice(2, 12))
    faces[ear] = -0.9
    detail = detail_of(faces, originals)
    assert detail[:, :1][ear].min() > 0.95 and detail[:, 1:][ear].abs().max() < 0.02


def test_light_that_flickers_from_frame_to_frame_is_averaged(grainy: np.ndarray) -> None:
    originals, _ = aligned(grainy, 128)
    faces = soft(originals) + 0.02 * (-1) ** torch.arange(FRAMES)[:, None, None, None]
    change = detail_of(faces, originals)[1:-1, 1:]
    assert change.diff(dim=0).abs().max() < 0.02 and change.mean() == pytest.approx(OFFSET, abs=0.01)


def test_an_equal_face_changes_nothing(grainy: np.ndarray) -> None:
    originals, _ = aligned(grainy, 128)
    detail = detail_of(originals, originals)
    assert (detail[:, 0] > 0.999).all() and (detail[:, 1:] == 0).all()
