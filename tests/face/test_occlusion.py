"""What is in front of a face is found in the face's own frames; what a face does by itself is not."""

import cv2
import numpy as np
import pytest
import torch

from latentsync.face import align, paste, pixels
from latentsync.face.occlusion import (
    LIPS_RADII,
    SIDE,
    ellipse,
    find_occluders,
    hidden_mouths,
    in_aligned_face,
    lower_face,
    patch_matrix,
    patch_of,
)

POINTS = np.array([[120.0, 80.0], [200.0, 80.0], [160.0, 120.0]], np.float32)
COUNT = 60
FACE = lower_face(None, 0)


def speaking_face(index: int, turn: float = 0.0) -> np.ndarray:
    """A patch of a face whose mouth opens and closes, and which is `turn` pixels aside."""
    patch = np.full((SIDE, SIDE, 3), (205, 160, 140), np.float32)
    patch += np.linspace(-12, 12, SIDE, dtype=np.float32)[None, :, None]
    middle = (round(32 + turn), 45)
    cv2.ellipse(patch, middle, (9, 2 + round(3 * abs(np.sin(index / 3)))), 0, 0, 360, (170, 70, 75), -1)
    cv2.ellipse(patch, middle, (6, round(3 * abs(np.sin(index / 3)))), 0, 0, 360, (40, 15, 15), -1)
    patch += np.random.default_rng(index).normal(0, 1.5, patch.shape)
    return patch.clip(0, 255).astype(np.uint8)


def searched(patches: np.ndarray, usual: np.ndarray) -> np.ndarray:
    everywhere = np.repeat(FACE[None], len(patches), axis=0)
    opening = np.abs(np.sin(np.arange(len(patches)) / 3)).astype(np.float32)
    return find_occluders(patches, usual, np.ones(len(patches), bool), opening, everywhere, everywhere)


def test_an_object_before_the_mouth_is_found_in_its_frames() -> None:
    patches, truth = np.stack([speaking_face(index) for index in range(COUNT)]), np.zeros((COUNT, SIDE, SIDE), bool)
    for index in range(25, 45):
        row, column = 34 + (index - 25) // 4, 24 + (index - 25) // 3  # it moves
        truth[index, row : row + 16, column : column + 18] = True
        patches[index][truth[index]] = (70, 90, 160)
    usual = np.ones(COUNT, bool)
    usual[20:50] = False
    found = searched(patches, usual)
    truth &= FACE
    assert not found[~truth.any(axis=(1, 2))].any()
    assert (found & truth).sum() / (found | truth).sum() > 0.8
    assert (found & truth).sum() / truth.sum() > 0.98


def test_speech_a_turned_head_and_another_light_are_no_objects() -> None:
    turns = np.where(np.arange(COUNT) >= 40, 2.0, 0.0)  # pixels
    light = np.linspace(1, 0.7, COUNT)
    pictures = [speaking_face(index, turns[index]) * light[index] for index in range(COUNT)]
    usual = np.arange(COUNT) < 30
    assert not searched(np.stack(pictures).astype(np.uint8), usual).any()


def test_without_usual_frames_nothing_is_found() -> None:
    assert not searched(np.stack([speaking_face(index) for index in range(8)]), np.zeros(8, bool)).any()


def test_a_mouth_is_hidden_until_much_less_of_it_is_covered() -> None:
    lips = ellipse(LIPS_RADII)
    shares = [0, 0.4, 0.6, 0.4, 0.35, 0.2, 0.4]
    masks = np.zeros((len(shares), SIDE, SIDE), np.float32)
    for mask, share in zip(masks, shares, strict=True):
        mask[lips] = share
    assert hidden_mouths(masks).tolist() == [False, False, True, True, True, False, False]


@pytest.mark.parametrize("resolution", [128, 256])
def test_a_mask_of_the_patch_is_at_the_same_place_in_the_aligned_face(resolution: int) -> None:
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[130:170, 140:190] = 255
    mask = patch_of(frame, POINTS)[..., 0].astype(np.float32) / 255
    matrix = align.align_matrix(POINTS + np.array([1.5, -1], np.float32), resolution)  # smoothed, so a little elsewhere
    seen = in_aligned_face(mask, POINTS, matrix, resolution) > 0.5
    true = align.warp_face(frame, matrix, resolution)[..., 0] > 127
    assert (seen & true).sum() / (seen | true).sum() > 0.93
    assert patch_matrix(POINTS).shape == (2, 3)


def test_where_something_is_in_front_the_frame_keeps_its_pixels() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    matrix = align.align_matrix(POINTS, 256)
    original = pixels.frames_to_pixels(align.warp_face(frame, matrix, 256))
    visible = np.ones((256, 256), np.float32)
    visible[:, 128:] = 0
    results = []
    for shown in (None, visible):
        patch = paste.Patch.of((240, 320), torch.full_like(original, 0.7), matrix, original, None, shown)
        assert patch is not None
        results.append(frame.copy())
        patch.blend_into(results[-1])
    left, right = (slice(100, 170), slice(110, 155)), (slice(100, 170), slice(165, 210))
    assert np.array_equal(results[1][right], frame[right]) and not np.array_equal(results[0][right], frame[right])
    assert np.array_equal(results[1][left], results[0][left])
