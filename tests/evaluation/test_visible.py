"""What the eye sees in a repainted face: planted errors on a drawn clip are reported with their size, no error as perfect."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from latentsync.face.align import Smoother, align_matrix, crop_size, warp_face
from latentsync.face.detection.cascade import face_from_eyes
from latentsync.face.detection.detector import make_detector
from latentsync.face.masks import GENERATED_ROWS, MASK_SIZE, load_mask
from latentsync.face.pixels import keep_surroundings, prepare_faces
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import Window
from latentsync.media.video.read import read_frames
from latentsync.metrics.pictures.border import bar_visibility, border_rings, border_steps
from latentsync.metrics.pictures.detail import flicker_ratio, sharpness_ratio, sharpness_to_face
from latentsync.metrics.pictures.lower_face import MOUTH, REACH, face_width, jaw_error, person_difference
from latentsync.metrics.pictures.visible import MEASURES, Measure, visible_scores
from latentsync.metrics.regions import face_region
from latentsync.models.vae import decode, encode
from latentsync.testing import (
    DEMO_VIDEO,
    AutoencoderPipeline,
    AutoencoderSampler,
    PictureScore,
    StubDetector,
    held_out_clips,
    lip_sync,
    score_pictures,
    stand_in_models,
)
from latentsync.timebase import MODEL_FPS
from scripts.score_demo import picture_summary, print_pictures

FRAMES = 12
Faces = np.ndarray  # uint8 [t, r, r, 3]


def points_of_eyes(landmarks: np.ndarray) -> np.ndarray:
    """The points that cascades give for these eyes, so that all detectors align the faces alike."""
    return face_from_eyes(np.stack([landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)])).points


@pytest.fixture(scope="module", params=[128, 256])
def faces(request: pytest.FixtureRequest) -> Faces:
    """Aligned faces of a drawn clip, at the resolutions of small and of full models."""
    detector, smoother, found = make_detector(), Smoother(), []
    for shown in islice(read_frames(DEMO_VIDEO), FRAMES):
        face = detector.points(shown.frame)
        assert face is not None
        points = face.points if face.landmarks is None else points_of_eyes(face.landmarks)
        found.append(warp_face(shown.frame, align_matrix(points, request.param, smoother), request.param))
    return np.stack(found)


def inside(faces: Faces, changed: np.ndarray, region: np.ndarray | None = None) -> Faces:
    """`faces` with `changed`, float levels, in the repainted region or another one [r, r]."""
    weight = (face_region(faces.shape[1]) if region is None else region)[..., None]
    return as_levels(weight * changed + (1 - weight) * faces)


def as_levels(values: np.ndarray) -> Faces:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noisy(faces: Faces, levels: float, seed: int) -> Faces:
    return as_levels(faces + np.random.default_rng(seed).normal(0, levels, faces.shape))


def each_frame(faces: Faces, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([change(face.astype(np.float32)) for face in faces])


def blurred(faces: Faces, sigma: float) -> np.ndarray:
    return each_frame(faces, lambda face: cv2.GaussianBlur(face, (0, 0), sigma))


def bars(side: int) -> np.ndarray:
    """The bars beside the nose, float [r, r]."""
    first, last, *columns = (round(value * side / MASK_SIZE) for value in GENERATED_ROWS[0])
    area = np.zeros((side, side))
    for start, end in zip(columns[::2], columns[1::2], strict=True):
        area[first : last + 1, start:end] = 1
    return area


def test_an_untouched_face_is_perfect(faces: Faces) -> None:
    scores = visible_scores(faces, faces.copy(), is_truth=True)
    ratios = {"sharpness_ratio", "sharpness_to_face", "flicker_ratio"}
    assert list(scores) == [measure.name for measure in MEASURES]
    assert scores == {name: pytest.approx(1 if name in ratios else 0, abs=0.01) for name in scores}
    assert all(measure.allows(scores[measure.name]) for measure in MEASURES)
    assert "jaw_error" not in visible_scores(faces, faces, is_truth=False)


def test_a_tint_of_the_region_is_the_step_of_its_colours(faces: Faces) -> None:
    tinted = inside(faces, faces * np.array([0.96, 1, 1]))
    rings = border_rings(faces.shape[1])
    flat = faces.reshape(FRAMES, -1, 3)
    colours = np.stack([flat[:, ring].mean(axis=(0, 1)) for ring in rings.inner])
    apart = np.linalg.norm(rgb2lab(colours * [0.96, 1, 1] / 255) - rgb2lab(colours / 255), axis=-1)
    found = border_steps(tinted, faces)
    assert found == pytest.approx((apart.mean(), apart[rings.is_upper].mean()), rel=0.1)
    assert found[1] > 1
    more = border_steps(inside(faces, faces * np.array([0.92, 1, 1])), faces)
    assert more[0] == pytest.approx(2 * found[0], rel=0.15)


def test_shading_and_noise_are_no_step(faces: Faces) -> None:
    ramp = np.linspace(0.6, 1.2, faces.shape[1])[:, None, None]
    shaded = as_levels(faces * ramp)
    assert border_steps(shaded, shaded) == (0, 0)
    assert max(border_steps(noisy(faces, 3, 0), noisy(faces, 3, 1))) < 0.5
    assert bar_visibility(noisy(faces, 3, 0), noisy(faces, 3, 1)) < 1


def test_a_local_step_counts_by_its_share_of_the_border(faces: Faces) -> None:
    side = faces.shape[1]
    left = np.where(np.arange(side) < side // 2, face_region(side), 0)
    half, whole = (border_steps(inside(faces, faces + 6.0, region), faces)[0] for region in (left, None))
    assert 0.35 < half / whole < 0.65


def test_pale_bars_are_visible_and_hidden_by_noise(faces: Faces) -> None:
    area = bars(faces.shape[1])
    found = [bar_visibility(inside(faces, faces + level, area), faces) for level in (0, 2.0, 6.0, 15.0)]
    assert found[0] == 0 and found == sorted(found) and found[3] > 2
    right_only = np.where(np.arange(faces.shape[1]) > faces.shape[1] // 2, area, 0)
    assert bar_visibility(inside(faces, faces + 15.0, right_only), faces) > 2
    rough = noisy(faces, 12, 2)
    assert bar_visibility(inside(rough, rough + 6.0, area), rough) < 0.8 * found[2]


def test_blur_lowers_the_sharpness_and_noise_does_not_raise_it(faces: Faces) -> None:
    unit = faces.shape[1] / 128
    found = [sharpness_ratio(inside(faces, blurred(faces, s * unit)), faces) for s in (0.3, 0.6, 1.0, 2.0)]
    assert found == sorted(found, reverse=True) and 0.3 < found[2] < 0.8 and found[3] < 0.5
    crisp = inside(faces, 1.5 * faces - 0.5 * blurred(faces, unit))
    assert sharpness_ratio(crisp, faces) > 1.1
    assert sharpness_ratio(noisy(faces, 2, 0), noisy(faces, 2, 1)) == pytest.approx(1, abs=0.03)
    assert sharpness_ratio(faces, noisy(faces, 2, 1)) == pytest.approx(1, abs=0.15)


def test_a_blur_of_the_whole_picture_is_not_that_of_the_region(faces: Faces) -> None:
    unit = faces.shape[1] / 128
    everywhere = as_levels(blurred(faces, unit))
    region_only = inside(faces, blurred(faces, unit))
    assert sharpness_to_face(everywhere, faces) == pytest.approx(1, abs=0.25)
    assert sharpness_to_face(region_only, faces) == pytest.approx(sharpness_ratio(region_only, faces), abs=0.05)
    assert sharpness_to_face(region_only, faces) < sharpness_to_face(everywhere, faces) - 0.1


def moved_jaw(faces: Faces, px: float) -> np.ndarray:
    """Everything that is not close to the mouth moved away from it by `px` pixels of the crop."""
    side = faces.shape[1]
    scale = np.array(crop_size(side)) / side  # pixels of the crop per pixel of the aligned face
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    away = np.stack([(x - MOUTH[0] * side) * scale[0], (y - MOUTH[1] * side) * scale[1]])
    distance = np.maximum(np.linalg.norm(away, axis=0), 1e-3)
    shift = px * np.clip(distance / (0.15 * side), 0, 1) * away / distance
    maps = (x - shift[0] / scale[0]).astype(np.float32), (y - shift[1] / scale[1]).astype(np.float32)
    return each_frame(faces, lambda face: cv2.remap(face, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def test_a_moved_jaw_is_measured_in_widths_of_the_face(faces: Faces) -> None:
    side = faces.shape[1]
    for px in (-3.0, 1.5, 3.0):
        error = jaw_error(as_levels(moved_jaw(faces, px)), faces)
        assert error == pytest.approx(abs(px) / face_width(side), rel=0.15)
    unit = side / 128
    assert jaw_error(inside(faces, blurred(faces, 1.5 * unit)), faces) < 0.3 * unit / face_width(side)
    assert jaw_error(as_levels(faces * 0.9), faces) < 0.2 * unit / face_width(side)


def test_a_jaw_that_is_gone_is_as_wrong_as_one_that_is_far_away(faces: Faces) -> None:
    side = faces.shape[1]
    noise = np.random.default_rng(0).integers(0, 256, faces.shape).astype(np.uint8)
    assert 0.5 * REACH * side / face_width(side) < jaw_error(noise, faces) <= 1.01 * REACH * side / face_width(side)
    plain = np.full_like(faces, 128)
    assert jaw_error(faces, plain) is None


def test_another_skin_or_beard_is_another_person_and_other_lips_are_not(faces: Faces) -> None:
    assert person_difference(faces[::-1], faces) == pytest.approx(0, abs=1e-3)
    assert person_difference(faces[: FRAMES // 2], faces[FRAMES // 2 :]) < 4  # a turning head
    side = faces.shape[1]
    beard = np.where(np.arange(side)[:, None] > 0.6 * side, face_region(side), 0)
    assert person_difference(inside(faces, faces * 0.6, beard), faces) > 5
    assert person_difference(inside(faces, faces[..., ::-1].astype(float)), faces) > 10


def test_brightness_that_changes_from_frame_to_frame_is_flicker(faces: Faces) -> None:
    change = np.random.default_rng(0).normal(0, 1, (FRAMES, 1, 1, 1))
    found = [flicker_ratio(inside(faces, faces + level * change), faces) for level in (0, 1.0, 2.0, 4.0)]
    assert found[0] == 1 and found == sorted(found) and found[1] > 1.04 and found[3] > 1.5
    steady = np.stack([faces[max(0, i - 1) : i + 2].mean(axis=0) for i in range(FRAMES)])
    assert flicker_ratio(inside(faces, steady), faces) < 0.8
    still = np.repeat(faces[:1], FRAMES, axis=0)
    assert flicker_ratio(still, faces) == 0 and flicker_ratio(inside(still, still + 2 * change), still) > 10
    assert flicker_ratio(faces[:2], faces[:2]) is None


def test_bounds_tell_the_worst_value() -> None:
    step, ratio = Measure("a", "a", "", high=1.0), Measure("b", "b", "", low=0.9, high=1.1)
    assert step.allows(1.0) and not step.allows(1.01) and step.worst([0.2, 3.0, 1.0]) == 3.0
    assert (
        ratio.allows(0.95) and not ratio.allows(0.8) and not ratio.allows(1.2) and ratio.worst([1.1, 0.7, 1.2]) == 0.7
    )
    assert (step.bounds, ratio.bounds) == ("<= 1.0", "0.9 ... 1.1")


def test_the_table_has_means_worst_clips_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        PictureScore(f"v{i}", "a", {"border_step": 1.0 + i, "flicker_ratio": 0.9}, {"border_step": 0.5}) for i in (0, 2)
    ]
    found = picture_summary(rows)
    assert found["output"]["border_step"] == {"mean": 2.0, "worst": 3.0}
    assert found["autoencoder"] == {"border_step": {"mean": 0.5, "worst": 0.5}}
    assert found["allowed"]["border_step"] == [None, 1.5] and len(found["clips"]) == 2
    print_pictures(rows)
    text = capsys.readouterr().out
    assert "3.00*" in text and "0.50*" not in text and "<= 1.5" in text


def test_the_auto_encoder_alone_encodes_and_decodes_and_keeps_the_surroundings() -> None:
    models = stand_in_models()
    settings = InferenceSettings(steps=1, guidance_scale=1.0)
    faces = np.random.default_rng(0).integers(0, 256, (4, models.resolution, models.resolution, 3)).astype(np.uint8)
    sampler = AutoencoderSampler(models, settings, Stopwatch())
    [new] = sampler.sample([Window(faces, torch.zeros(4, 1, 1))])
    mask = load_mask(models.resolution)
    with torch.inference_mode():
        pixels = prepare_faces(faces, mask).pixels
        wanted = keep_surroundings(decode(models.vae, encode(models.vae, pixels)), pixels, mask)
    torch.testing.assert_close(new.whole(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_drawn_clips_are_scored_beside_the_auto_encoder_alone(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="avatars speak with espeak-ng")
    video, audio = held_out_clips(2, tmp_path / "clips")
    pipeline = AutoencoderPipeline(stand_in_models(), StubDetector())  # keeps the old lips, which is all the same here
    settings = InferenceSettings(steps=1, guidance_scale=1.0)
    count = 12
    synced = lip_sync(pipeline, settings, video, audio, tmp_path / "outputs", JobOptions(limit_sec=count / MODEL_FPS))
    found = score_pictures(synced, pipeline, settings)
    assert {"border_step", "sharpness_ratio", "flicker_ratio"} <= set(found.output) & set(found.autoencoder)
    assert all(np.isfinite(value) for value in (*found.output.values(), *found.autoencoder.values()))
    assert len(list(read_frames(synced.output.with_stem(f"{synced.output.stem}_truth")))) == count
