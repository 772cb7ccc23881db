"""Pasting a face back: equal to the simple whole-frame computation, only in its region, seams, fades, errors."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.paste import FILL, draw_frame, plain_align, plain_paste, plain_warp
from benchmarks.table import format_table, report
from latentsync.face import align, feather, masks, paste, pixels

RESOLUTION = 64
SIZE = (320, 240)  # w, h of the frame
POINTS = np.array([[210.0, 130.0], [270.0, 134.0], [238.0, 182.0]], dtype=np.float32)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return draw_frame(SIZE)


def smooth_frame() -> np.ndarray:
    """A smooth coloured frame, 480 x 360."""
    y, x = np.mgrid[0:360, 0:480]
    return np.stack([127 + 100 * np.sin(x / 31 + y / 47 + phase) for phase in (0, 1, 2)], axis=-1).astype(np.uint8)


def matrix_at(x: float, y: float, height: float, turn_deg: float, resolution: int = RESOLUTION) -> np.ndarray:
    """Matrix of a crop `height` pixels high around (x, y), turned by `turn_deg`."""
    crop = np.array(align.crop_size(resolution))
    scale, turn = crop[1] / height, math.radians(turn_deg)
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return np.column_stack([linear, (crop - 1) / 2 - linear @ [x, y]]).astype(np.float32)


def some_face(seed: int = 0, resolution: int = RESOLUTION) -> torch.Tensor:
    return torch.rand(3, resolution, resolution, generator=torch.Generator().manual_seed(seed)) * 2.2 - 1.1


def outside(region: align.Region | None) -> np.ndarray:
    mask = np.ones(SIZE[::-1], dtype=bool)
    if region is not None:
        mask[region] = False
    return mask


def pasted(
    frame: np.ndarray, face: paste.Face, matrix: np.ndarray, opacity: float = 1.0, original: paste.Face | None = None
) -> np.ndarray:
    """A copy of the frame with the face pasted in."""
    patch, result = paste.Patch.of((frame.shape[0], frame.shape[1]), face, matrix, original), frame.copy()
    if patch is not None:
        patch.blend_into(result, opacity)
    return result


matrices = st.builds(matrix_at, st.floats(-80, 400), st.floats(-80, 320), st.floats(3, 900), st.floats(-180, 180))


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(0, 9))
def test_pasting_equals_the_whole_frame_computation_and_changes_only_the_region(matrix: np.ndarray, seed: int) -> None:
    frame = draw_frame(SIZE)
    face = some_face(seed)
    result, region = pasted(frame, face, matrix), feather.pasted_region(matrix, align.crop_size(RESOLUTION), SIZE[::-1])
    assert np.array_equal(result[outside(region)], frame[outside(region)])
    difference = np.abs(result.astype(int) - plain_paste(frame, face, matrix))
    assert difference.max() <= 2 and difference.mean() <= 0.05


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_feather_widths_from_the_outline_equal_those_of_the_mask(matrix: np.ndarray) -> None:
    placement = feather.Placement.of(matrix, align.crop_size(RESOLUTION), SIZE[::-1])
    if placement is not None:
        inner, soft = feather.feather(feather.coverage(matrix, placement.size, placement.region))
        assert placement.widths == feather.edge_widths(float(inner.sum(dtype=np.float64)))
        rows, columns = placement.region
        part = (slice((rows.start + rows.stop) // 2, rows.stop), columns)
        of_part = placement.weights(part)[1]
        assert np.abs(of_part - soft[part[0].start - rows.start :]).max() <= 2e-4


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-30, 30), st.floats(150, 400), st.sampled_from([(2.0, 1.0), (1.0, 16 / 9), (64 / 45, 1.0), (1.0, 1.0)])
)
def test_with_non_square_pixels_the_displayed_blend_weights_are_the_same(
    turn_deg: float, height: float, pixel: tuple[float, float]
) -> None:
    """The blend weights of a squeezed frame equal the squeezed weights of the square one, up to the rounding of widths."""
    matrix = matrix_at(300, 280, height, turn_deg)
    squeezed = align.rescaled(matrix, pixel).astype(np.float32)
    size = round(600 / pixel[0]), round(560 / pixel[1])
    found, square = (
        feather.Placement.of(each, align.crop_size(RESOLUTION), hw[::-1])
        for each, hw in ((squeezed, size), (matrix, (600, 560)))
    )
    assert found is not None and square is not None
    assert np.abs(np.array(found.widths) * pixel - square.widths).max() <= 1 + max(pixel) / 2
    everywhere = (slice(0, 560), slice(0, 600)), (slice(0, size[1]), slice(0, size[0]))
    wanted, weight = (
        feather.feather(feather.coverage(each, align.crop_size(RESOLUTION), part), widths)[1]
        for each, part, widths in zip((matrix, squeezed), everywhere, (square.widths, found.widths), strict=True)
    )
    shown = cv2.resize(weight, (600, 560), interpolation=cv2.INTER_LINEAR)
    assert np.abs(shown - wanted).mean() < 0.01 and np.abs(cv2.blur(shown - wanted, (9, 9))).max() < 0.5


def test_a_large_face_in_narrow_pixels_is_pasted_in_parts_without_a_seam() -> None:
    frame, face = draw_frame((480, 720)), some_face()
    matrix = align.rescaled(matrix_at(480, 360, 700, 12), (2.0, 1.0)).astype(np.float32)
    placement = feather.Placement.of(matrix, align.crop_size(RESOLUTION), (720, 480))
    assert placement is not None and placement.solid is not None and placement.widths[1] > 1.5 * placement.widths[0]
    in_parts = pasted(frame, face, matrix)
    whole = replace(placement, solid=None)
    at_once = frame.copy()
    paste.Patch(whole.region, whole, paste.as_levels(face)).blend_into(at_once)
    assert np.abs(in_parts.astype(int) - at_once).max() <= 1


@pytest.mark.parametrize("turn_deg", [0.0, 4.0, -17.0, 40.0])
def test_a_large_face_is_pasted_in_parts_without_a_seam(turn_deg: float) -> None:
    frame = draw_frame((720, 540))
    matrix, face = matrix_at(350.3, 260.6, 620, turn_deg), some_face()
    placement = feather.Placement.of(matrix, align.crop_size(RESOLUTION), (540, 720))
    assert placement is not None and (placement.solid is not None) == (abs(turn_deg) < 20)
    difference = np.abs(pasted(frame, face, matrix).astype(int) - plain_paste(frame, face, matrix))
    assert difference.max() <= 2 and difference.mean() <= 0.05


@settings(max_examples=25, deadline=None)
@given(st.floats(40, 280), st.floats(40, 200), st.floats(30, 200), st.floats(-60, 60))
@example(x=40.0, y=40.0, height=56.0, turn_deg=0.0)  # the crop's pixels are whole pixels of the frame
def test_aligning_equals_the_whole_frame_computation(x: float, y: float, height: float, turn_deg: float) -> None:
    frame, matrix = draw_frame(SIZE), matrix_at(x, y, height, turn_deg)
    crop = align.crop_size(RESOLUTION)
    levels = align.warp_levels(frame, matrix, crop).numpy()
    wanted = plain_warp(torch.from_numpy(frame).permute(2, 0, 1).float(), torch.from_numpy(matrix), crop, FILL)
    assert np.abs(levels - wanted.clamp(0, 255).numpy()).max() <= 0.02
    got, want = align.warp_face(frame, matrix, RESOLUTION), plain_align(frame, matrix, RESOLUTION)
    assert np.abs(got.astype(int) - want).max() <= 2  # levels are truncated, and a whole one may lie a little below


def test_a_face_pasted_back_unchanged_leaves_no_seam() -> None:
    y, x = np.mgrid[0:240, 0:320]
    smooth = np.stack([127 + 90 * np.sin(x / 41 + y / 57 + phase) for phase in (0, 1, 2)], axis=-1).astype(np.uint8)
    matrix = matrix_at(160, 120, 150, 7, 256)
    face = pixels.frames_to_pixels(align.warp_face(smooth, matrix, 256))
    change = pasted(smooth, face, matrix).astype(int) - smooth
    assert np.abs(change).max() <= 2
    assert np.array_equal(pasted(smooth, face, matrix, original=face), smooth)


def test_only_what_differs_from_the_original_is_pasted(frame: np.ndarray) -> None:
    matrix = matrix_at(160, 120, 150, 7)
    original = pixels.frames_to_pixels(align.warp_face(frame, matrix, RESOLUTION))
    mask = masks.load_mask(RESOLUTION)
    face = pixels.keep_surroundings(-torch.ones_like(original), original, mask)
    patch = paste.Patch.of(SIZE[::-1], face, matrix, original)
    whole = feather.pasted_region(matrix, align.crop_size(RESOLUTION), SIZE[::-1])
    assert patch is not None and whole is not None
    work, region = pasted(frame, face, matrix, original=original), patch.region
    assert feather.pixel_count(region) < 0.8 * feather.pixel_count(whole)
    assert np.array_equal(work[outside(region)], frame[outside(region)])
    mouth = align.transform_points(align.invert_matrix(matrix), np.array([[26.0, 52.0]]))[0].astype(int)
    assert (work[mouth[1], mouth[0]] == 0).all()
    forehead = align.transform_points(align.invert_matrix(matrix), np.array([[26.0, 12.0]]))[0].astype(int)
    assert np.array_equal(work[forehead[1], forehead[0]], frame[forehead[1], forehead[0]])


def test_opacity_fades_between_the_frame_and_the_face(frame: np.ndarray) -> None:
    matrix, face = matrix_at(160, 120, 150, -12), some_face()
    full, half = pasted(frame, face, matrix), pasted(frame, face, matrix, 0.5)
    assert np.array_equal(pasted(frame, face, matrix, 0.0), frame)
    assert np.abs(half - (full.astype(float) + frame) / 2).max() <= 1
    assert paste.Patch.of(SIZE[::-1], face, matrix_at(5000, 120, 150, 0)) is None


def test_a_view_of_a_larger_frame_can_be_pasted_into(frame: np.ndarray) -> None:
    matrix, face = matrix_at(160, 120, 150, 5), some_face()
    wide = np.full((300, 400, 3), 9, np.uint8)
    view = wide[30:270, 40:360]
    view[:] = frame
    patch = paste.Patch.of(SIZE[::-1], face.numpy().astype(np.float64), matrix)
    assert patch is not None
    patch.blend_into(view)
    assert np.array_equal(view, pasted(frame, face.double(), matrix))
    assert (wide[:30] == 9).all() and (wide[:, :40] == 9).all() and (wide[:, 360:] == 9).all()


def test_a_face_in_bytes_is_pasted_like_the_same_face_in_floats(frame: np.ndarray) -> None:
    matrix, rng = matrix_at(160, 120, 150, 10), np.random.default_rng(0)
    faces = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    faces[0][:32] = faces[1][:32]  # half of it is the original
    in_floats = [pixels.frames_to_pixels(face) for face in faces]
    results = []
    for new, old in (faces, in_floats):
        patch, result = paste.Patch.of(SIZE[::-1], new, matrix, old), frame.copy()
        assert patch is not None
        patch.blend_into(result)
        results.append(result.astype(int))
    assert np.abs(results[0] - results[1]).max() <= 1 and np.abs(results[0] - frame).max() > 50


def test_invalid_arguments_are_refused(frame: np.ndarray) -> None:
    matrix, face = matrix_at(160, 120, 150, 0), some_face()
    wrong: list[tuple[str, tuple]] = [
        ("uint8 \\[h, w, 3\\]", (frame.astype(np.float32), face, matrix)),
        ("uint8 \\[h, w, 3\\]", (frame[..., 0], face, matrix)),
        ("\\[3, r, r\\]", (frame, face[None], matrix)),
        ("\\[3, r, r\\]", (frame, face[:, :32], matrix)),
        ("\\[r, r, 3\\]", (frame, face.to(torch.uint8), matrix)),
        ("float in .* or uint8", (frame, face.long(), matrix)),
        ("align_matrix", (frame, face, np.zeros((2, 3), np.float32))),
        ("align_matrix", (frame, face, matrix * np.nan)),
        ("opacity", (frame, face, matrix, 1.5)),
        ("opacity", (frame, face, matrix, math.nan)),
        ("same shape", (frame, face, matrix, 1.0, face[:, :32, :32])),
        ("at least 8 pixels", (frame, face[:, :4, :4], matrix)),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            pasted(*arguments)


@pytest.mark.parametrize("resolution", [128, 256])
@pytest.mark.parametrize("shift", [(0, 0), (-200, -120), (215, 200)], ids=["inside", "upper left", "lower right"])
def test_pasting_the_unchanged_face_changes_little_and_nothing_outside(resolution: int, shift: tuple[int, int]) -> None:
    frame = smooth_frame()
    matrix = align.align_matrix(POINTS + shift, resolution)
    face = pixels.frames_to_pixels(align.warp_face(frame, matrix, resolution))
    result = pasted(frame, face, matrix)
    region = feather.pasted_region(matrix, align.crop_size(resolution), (360, 480))
    assert region is not None
    change = np.abs(result.astype(int) - frame)
    assert change[6:-6, 6:-6].max() <= 4  # the grey outside the frame bleeds into faces that leave it
    change[region] = 0
    assert not change.any()


def test_pasting_fades_with_opacity_and_ignores_faces_outside_the_frame() -> None:
    frame, matrix = smooth_frame(), align.align_matrix(POINTS, 128)
    black = -torch.ones(3, 128, 128)
    x, y = POINTS.mean(axis=0).astype(int)
    levels = [int(pasted(frame, black, matrix, opacity)[y, x, 0]) for opacity in (0.0, 0.5, 1.0)]
    assert levels[0] == frame[y, x, 0] and levels[2] == 0
    assert abs(levels[1] - levels[0] / 2) <= 1
    assert np.array_equal(pasted(frame, black, align.align_matrix(POINTS + 5000, 128)), frame)


def test_benchmarks_report_a_table_and_json(tmp_path, capsys) -> None:
    rows = [{"frame": "720p", "ms": 1.23456}, {"frame": "4K", "ms": 12345.6}]
    assert format_table(rows).splitlines() == ["frame     ms", " 720p  1.235", "   4K  12346"]
    report("paste", rows, tmp_path / "new" / "paste.json", repeats=3)
    assert '"processor"' in (tmp_path / "new" / "paste.json").read_text() and "720p" in capsys.readouterr().out
