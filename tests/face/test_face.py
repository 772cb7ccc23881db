"""Faces: alignment, warp, masks, conversions, detection."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.face import align, colour, masks, pixels
from latentsync.face.detection.detector import BACKENDS, HAS_CASCADES, detector_problems, make_detector
from latentsync.face.detection.landmarks import points_from_landmarks
from latentsync.processing.config import StageSettings
from latentsync.weights import ALIGNMENTS
from scripts.inference_arguments import parse

CPU = torch.device("cpu")
SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"
POINTS = np.array([[210.0, 130.0], [270.0, 134.0], [238.0, 182.0]], dtype=np.float32)
needs_cascades = pytest.mark.skipif(not HAS_CASCADES, reason="OpenCV 5 has no cascades")


@pytest.fixture
def frame() -> np.ndarray:
    """A smooth coloured frame, 480 x 360."""
    y, x = np.mgrid[0:360, 0:480]
    planes = [127 + 100 * np.sin(x / 31 + y / 47 + phase) for phase in (0.0, 1.0, 2.0)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def matched_at_border(faces: torch.Tensor, originals: torch.Tensor, band: torch.Tensor) -> torch.Tensor:
    return colour.with_colours(faces, colour.border_error(faces, originals, band, (32, 32)))


def distance(matrix: np.ndarray, points: np.ndarray, resolution: int) -> float:
    target = align.TEMPLATE * align.template_ratio(resolution)
    return float(np.square(align.transform_points(matrix, points) - target).sum())


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 16])
def test_values_between_measured_frames_are_interpolated_linearly(count: int) -> None:
    values = torch.arange(count)[:, None] * torch.tensor([2.0, -1.0]) + 3
    measured = colour.measured_frames(count)
    assert measured[-1] == count - 1 and (measured.diff() <= 4).all()
    assert torch.allclose(colour.between_measured(count, CPU) @ values[measured], values)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_colours_are_interpolated_bilinearly(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    decoded = torch.randn(2, 3, 64, 72, generator=generator).to(memory_format=layout)
    cells = torch.randn(2, 3, 8, 9, generator=generator)
    added = torch.nn.functional.interpolate(cells, scale_factor=8, mode="bilinear", align_corners=False)
    assert torch.allclose(colour.with_colours(decoded, cells), decoded + added, atol=1e-5)
    assert torch.allclose(colour.enlarged(cells, (64, 72)), added, atol=1e-5)


def test_the_generated_part_is_the_smallest_rectangle_of_cells_around_the_mask() -> None:
    for resolution in (40, 128, 192, 256, 512):
        mask = masks.load_mask(resolution)
        part, inside = masks.generated_part(mask), torch.zeros_like(mask)
        inside[part] = 1
        assert (mask[inside == 0] == 1).all()
        for side, lines in zip(part, (mask, mask.T), strict=True):
            assert side.start % 8 == side.stop % 8 == 0
            assert (lines[side.start : side.start + 8] < 1).any() and (lines[side.stop - 8 : side.stop] < 1).any()


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_alignment_follows_a_moved_scaled_turned_face(resolution: int) -> None:
    turn = np.float32(0.3)
    rotation = 1.7 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = POINTS @ rotation.T + [31, -12]
    first = align.transform_points(align.align_matrix(POINTS, resolution), POINTS)
    second = align.transform_points(align.align_matrix(moved, resolution), moved)
    assert np.abs(first - second).max() < 1e-2
    assert distance(align.align_matrix(POINTS, resolution), POINTS, resolution) < (0.15 * resolution) ** 2


def test_a_reset_smoother_forgets_the_previous_stream() -> None:
    smoother = align.Smoother()
    fresh = align.align_matrix(POINTS, 256, smoother)
    align.align_matrix(POINTS * [1.0, 1.4], 256, smoother)
    assert np.abs(align.align_matrix(POINTS, 256, smoother) - fresh).max() > 1e-4
    smoother.reset()
    assert np.array_equal(align.align_matrix(POINTS, 256, smoother), fresh)


@pytest.mark.parametrize("points", [np.zeros((3, 2)), np.full((3, 2), np.nan), np.zeros((68, 2))])
def test_points_that_span_no_face_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="alignment points"):
        align.align_matrix(points, 256)


def test_warp_reads_only_the_face_and_fills_outside_with_grey(frame: np.ndarray) -> None:
    matrix = align.align_matrix(POINTS, 128)
    face = align.warp_face(frame, matrix, 128)
    assert face.shape == (128, 128, 3)
    rows, columns = align.sampled_region(align.invert_matrix(matrix), align.crop_size(128), (360, 480))
    elsewhere = np.zeros_like(frame)
    elsewhere[rows, columns] = frame[rows, columns]
    assert np.array_equal(align.warp_face(elsewhere, matrix, 128), face)
    outside = align.warp_face(frame, align.align_matrix(POINTS + 2000, 128), 128)
    assert (outside == align.FILL).all()


def test_mask_hides_the_mouth_and_keeps_eyes_and_border() -> None:
    for resolution in (128, 256, 512):
        mask = masks.load_mask(resolution)
        centre = resolution // 2
        assert mask.shape == (resolution, resolution) and mask.min() >= 0 and mask.max() <= 1
        assert mask[int(0.62 * resolution), centre] == 0  # mouth
        assert (mask[: int(0.36 * resolution)] == 1).all() and (mask[-1] == 1).all()
        assert mask[int(0.45 * resolution), centre] == 1  # nose
        assert masks.latent_mask(mask).shape == (resolution // 8, resolution // 8)


def test_masks_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        masks.load_mask(100)
    (tmp_path / "mask.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="mask.png is not a readable image"):
        masks.load_mask(256, tmp_path / "mask.png")


def test_pixels_and_frames_are_inverse_and_masking_greys_the_generated_part() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    back = pixels.pixels_to_frames(pixels.frames_to_pixels(frames)).numpy()
    assert np.abs(back.astype(int) - frames).max() <= 1  # truncated, not rounded
    mask = masks.load_mask(64)
    inputs = pixels.prepare_faces(frames, mask)
    assert (inputs.masked_pixels[:, :, mask == 0] == 0).all()
    merged = pixels.keep_surroundings(torch.zeros_like(inputs.pixels), inputs.pixels, mask)
    assert torch.equal(merged, inputs.masked_pixels)
    assert pixels.prepare_faces(frames, masks.load_mask(32)).latent_masks.shape == (2, 1, 4, 4)


def test_matching_the_border_removes_a_colour_cast_and_ignores_the_mouth(frame: np.ndarray) -> None:
    one = pixels.frames_to_pixels(align.warp_face(frame, align.align_matrix(POINTS, 128), 128))
    original, mask = one.repeat(4, 1, 1, 1), masks.load_mask(128)
    band = masks.border_band(mask)
    assert (band[mask == 1] == 0).all() and (band[mask == 0].max(), band[90, 64]) == (1, 0)
    assert torch.allclose(matched_at_border(original, original, band), original, atol=1e-6)
    cast = original * 0.9 + torch.tensor([0.1, -0.05, 0.08])[:, None, None]
    matched = matched_at_border(cast, original, band)
    generated = mask == 0
    assert (matched - original)[..., generated].abs().mean() < (cast - original)[..., generated].abs().mean() / 3
    with_mouth, mouth = cast.clone(), (slice(None), slice(None), slice(80, 100), slice(40, 88))
    with_mouth[mouth] = -1
    correction = matched_at_border(with_mouth, original, band) - with_mouth
    assert torch.allclose(correction, matched - cast, atol=1e-5)


def test_something_in_front_of_the_border_does_not_colour_the_face() -> None:
    mask = masks.load_mask(128)
    face, band = torch.zeros(3, 3, 128, 128), masks.border_band(mask)
    original = face + 0.02
    original[:, :, 60:90, :24] = 1.0  # a white cup beside the mouth
    correction = matched_at_border(face, original, band) - face
    assert correction[..., 64:80, 40:90].max() < 0.05


@needs_cascades
def test_detectors_find_no_face_in_empty_frames_and_name_missing_files(tmp_path: Path) -> None:
    detector = make_detector("cascade")
    ramp = np.tile(np.linspace(0, 255, 320, dtype=np.uint8)[None, :, None], (240, 1, 3))
    assert detector.points(ramp) is None
    assert detector.points(np.zeros((16, 16, 3), np.uint8)) is None
    with pytest.raises(ValueError, match="s3fd-619a316812.pth"):
        make_detector("face_alignment", tmp_path)
    with pytest.raises(ValueError, match="unknown"):
        make_detector("magic")


TOY_BACKEND = """
import numpy as np
from latentsync.face.detection.detector import Face
from latentsync.face.detection.tracking import TrackingDetector


def make_backend(weights_dir, device, alignment):
    return BrightSpot(alignment)


def file_problems(weights_dir):
    return []


class BrightSpot(TrackingDetector):
    def search(self, frame, effort, known):
        return [np.argwhere(frame[..., 0] > 200).mean(axis=0)] if not known else []

    def follow(self, frame, states):
        return self.search(frame, None, []) * len(states)

    def face(self, state):
        y, x = state
        points = np.array([[x - 5, y], [x + 5, y], [x, y + 8]], np.float32)
        return Face(points, (x - 5, y, x + 5, y + 8), 1.0)
"""


def test_a_detector_backend_is_one_file_and_one_line_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bright_spot.py").write_text(TOY_BACKEND)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BACKENDS, "bright_spot", "bright_spot")
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[30, 40] = 255
    assert detector_problems("bright_spot") == []
    assert make_detector("bright_spot").faces(frame)[0].box == (35, 30, 45, 38)
    assert parse(["--detector", "bright_spot"], None).detector == "bright_spot"
    StageSettings(detector="bright_spot").check()


def test_landmarks_give_brow_and_nose_centres() -> None:
    landmarks = np.zeros((68, 2), dtype=np.float32)
    landmarks[17:22], landmarks[22:27] = [10, 5], [30, 5]
    landmarks[[29, 30, 31, 35]] = [[20, 18], [20, 22], [17, 24], [23, 24]]
    found = points_from_landmarks(landmarks, 0.8)
    assert np.allclose(found.points, [[10, 5], [30, 5], [20, 22]])
    assert found.score == 0.8
    landmarks[27:36, 1] = [9, 12, 15, 18, 20, 22, 24, 22, 20]
    assert np.allclose(points_from_landmarks(landmarks, 0.8, "whole_nose").points[2], landmarks[27:36].mean(axis=0))
    assert np.allclose(points_from_landmarks(landmarks, 0.8, "whole_nose").points[:2], found.points[:2])


AVERAGE_NOSE = np.array([-0.02, 0.17, 0.37, 0.57, 0.70, 0.74, 0.78, 0.74, 0.70])  # landmarks 27 to 35 below the eyes


def with_average_nose(landmarks: np.ndarray) -> np.ndarray:
    """The landmarks [68, 2] of a drawn head with the proportions of an average nose, whose tip lies where the drawn one does."""
    eyes, tip = landmarks[36:48].mean(axis=0), landmarks[[29, 30, 31, 35]].mean(axis=0)
    heights = AVERAGE_NOSE / AVERAGE_NOSE[[2, 3, 4, 8]].mean()
    return np.concatenate([landmarks[:27], eyes + heights[:, None] * (tip - eyes), landmarks[36:]])


@needs_cascades
@pytest.mark.parametrize("seed", range(4))
def test_both_detectors_move_the_mouth_alike_with_the_alignment(seed: int) -> None:
    """By about 4 px at 256 px, as release 1.0 lies beside the later ones."""
    pytest.importorskip("espeakng_loader", reason="avatars need the optional espeak-ng")
    from latentsync.avatar.clip import random_clip

    clip = random_clip(seed)
    landmarks, picture = clip.landmarks(0), next(clip.frames())
    mouth = landmarks[[48, 54]].mean(axis=0)[None]
    heights: dict[str, list[float]] = {"landmarks": [], "cascade": []}
    for alignment in ALIGNMENTS:
        found = make_detector("cascade", alignment=alignment).points(picture)
        assert found is not None
        known = points_from_landmarks(with_average_nose(landmarks), 1.0, alignment)
        for name, points in (("landmarks", known.points), ("cascade", found.points)):
            crop_y = align.transform_points(align.align_matrix(points, 256), mouth)[0, 1]
            heights[name].append(crop_y * 256 / align.crop_size(256)[1])
    moved = {name: whole - tip for name, (tip, whole) in heights.items()}
    assert 3.5 < moved["cascade"] < 5, moved
    assert 1 < moved["landmarks"] / moved["cascade"] < 1.5, moved  # the drawn noses are longer than the average one


def sample_frames(name: str, step: int, count: int) -> Iterator[np.ndarray]:
    """Every `step`-th frame of a clip of real people, at half size."""
    av = pytest.importorskip("av")
    if not (SAMPLES / name).is_file():
        pytest.skip("the sample footage is not here")
    with av.open(str(SAMPLES / name)) as container:
        for index, picture in enumerate(container.decode(video=0)):
            if index >= step * count:
                return
            if index % step == 0:
                yield picture.reformat(width=picture.width // 2, height=picture.height // 2).to_ndarray(format="rgb24")


@needs_cascades
@pytest.mark.parametrize("name", ["demo1_video.mp4", "demo2_video.mp4"])
def test_cascade_follows_a_real_face(name: str) -> None:
    detector = make_detector("cascade")
    centres, spans = [], []
    for picture in sample_frames(name, step=1, count=30):
        found = detector.points(picture)
        assert found is not None
        left, right, nose = found.points
        assert left[0] < nose[0] < right[0] and nose[1] > max(left[1], right[1])
        assert found.box[0] < left[0] and right[0] < found.box[2] and found.face_px > 60
        centres.append(found.points.mean(axis=0))
        spans.append(float(np.hypot(*(right - left))))
    assert np.std(spans) < 0.08 * np.mean(spans)
    assert np.abs(np.diff(centres, axis=0)).max() < 0.25 * np.mean(spans)


@needs_cascades
def test_cascade_notices_a_cut_to_another_person() -> None:
    detector = make_detector("cascade")
    before = [detector.points(picture) for picture in sample_frames("demo1_video.mp4", step=1, count=3)][-1]
    picture = next(sample_frames("demo2_video.mp4", step=1, count=1))
    after = detector.points(picture)
    detector.reset()
    alone = detector.points(picture)
    assert before is not None and after is not None and alone is not None
    assert np.array_equal(after.points, alone.points)
