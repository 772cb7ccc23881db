"""Beside the face and below its chin the frame keeps its own pixels; the new mouth has room to open."""

import numpy as np
import pytest
import torch

from latentsync.face import align, paste, pixels
from latentsync.face.outline import CHIN, face_region, in_face, kept_around, lowered

SIZE = (320, 240)  # w, h of a frame
POINTS = np.array([[120.0, 80.0], [200.0, 80.0], [160.0, 120.0]], np.float32)
ANGLES = np.linspace(np.pi, 0, 17)
JAW = np.stack([160 + 55 * np.cos(ANGLES), 100 + 90 * np.sin(ANGLES)], axis=1).astype(np.float32)  # ear to ear
BESIDE = (slice(150, 180), slice(92, 104))  # rows, columns left of the jaw, inside of the aligned face


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return ((points - 160) @ rotation.T + 160).astype(np.float32)


@pytest.mark.parametrize("side", [128, 256])
def test_the_frame_is_unchanged_beside_the_face_whatever_the_networks_paint(side: int) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    matrix = align.align_matrix(POINTS, side)
    original = pixels.frames_to_pixels(align.warp_face(frame, matrix, side))
    repainted = torch.full_like(original, 0.7)
    nothing_kept = torch.zeros(4, 128, 128)
    results = {}
    for name, detail in (
        ("all", nothing_kept),
        ("face", kept_around(nothing_kept, in_face(lowered(JAW, 0.3), matrix, side))),
    ):
        results[name] = frame.copy()
        patch = paste.Patch.of(SIZE[::-1], repainted, matrix, original, detail)
        assert patch is not None
        patch.blend_into(results[name])
    mouth = (slice(140, 170), slice(140, 180))
    assert (results["all"][BESIDE] != frame[BESIDE]).mean() > 0.9
    assert np.abs(results["face"][BESIDE].astype(int) - frame[BESIDE]).max() <= 1
    assert np.array_equal(results["face"][mouth], results["all"][mouth])


def test_a_closed_mouth_has_room_to_open_and_an_open_one_less() -> None:
    closed, unknown, wide = (lowered(JAW, opening) for opening in (0.0, float("nan"), 0.5))
    lower = [float(line[CHIN, 1] - JAW[CHIN, 1]) / 110 for line in (closed, wide)]  # of the width of the jaw
    assert np.array_equal(closed, unknown) and lower[0] == pytest.approx(lower[1] + 0.35 * 0.42, abs=1e-4)
    assert 0.02 < lower[1] < 0.1
    assert np.allclose(closed[[0, -1]], JAW[[0, -1]], atol=1e-3)  # the ears stay


@pytest.mark.parametrize("degrees", [-40, 0, 90])
def test_the_outline_goes_with_the_head(degrees: float) -> None:
    upright, matrix = (
        in_face(lowered(JAW, 0.1), align.align_matrix(POINTS, 256), 256),
        align.align_matrix(turned(POINTS, degrees), 256),
    )
    assert np.allclose(in_face(lowered(turned(JAW, degrees), 0.1), matrix, 256), upright, atol=2e-3)


def test_the_region_is_whole_up_to_the_top_and_fades_outside() -> None:
    outline = in_face(JAW, align.align_matrix(POINTS, 256), 256)
    region = face_region(outline, 128)
    row = int(outline[0, 1] * 128)
    left, right = (round(float(outline[end, 0]) * 128) for end in (0, -1))
    assert (region[:row, left + 1 : right - 1] == 1).all() and (region[:, : left - 6] == 0).all()
    assert region[-1, 64] == 0 and ((region > 0) & (region < 1)).any()
