"""The mesh detector: steadiness on made-up measurements, the flow's fit, points of the mesh, and drawn people with the weights."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.face_twins import TWINS, KnownFace
from latentsync.avatar.clip import random_clip
from latentsync.face.align import transform_points
from latentsync.face.detection.detector import FaceDetector, detector_problems, make_detector
from latentsync.face.detection.finders import Candidate, brightened, merged, reduced
from latentsync.face.detection.landmarks import points_from_landmarks
from latentsync.face.detection.mesh import (
    MESH_FILE,
    PATCH,
    TURNED,
    MeshDetector,
    Settled,
    chained,
    correction,
    in_frame,
    in_patch,
    is_plausible,
    patch_matrix,
    placement,
)
from latentsync.face.detection.mesh_points import (
    LANDMARKS,
    landmarks_of_mesh,
    truth_of_mesh,
)
from latentsync.face.detection.motion import MAX_STEP, UNCONFIRMED, fitted, steadied
from latentsync.inference.faces.tracks import track_faces
from latentsync.media.video.read import read_frames
from latentsync.places import DEMO_VIDEO
from latentsync.weights.table import CHECKPOINTS, FACES
from tests.support.torture import Place as HeadPlace
from tests.support.torture import draw_head, room

HAS_WEIGHTS = all(not problem for _, problem in detector_problems("mesh"))
needs_weights = pytest.mark.skipif(not HAS_WEIGHTS, reason="the set `faces` of the checkpoints is not downloaded")
AT = np.array([[60, 60], [120, 60], [90, 90]], np.float32)


def test_no_single_wrong_look_moves_the_points() -> None:
    points, pending = AT, np.zeros((3, 2), np.float32)
    rng = np.random.default_rng(0)
    for index in range(60):
        measured = AT + rng.normal(0, 0.3, (3, 2)).astype(np.float32)
        if index == 30:
            measured = measured + 20
        before = points
        points, pending = steadied(points, measured, pending)
        assert np.hypot(*(points - before).T).max() <= UNCONFIRMED + 0.5
    assert np.abs(points - AT).max() < 0.4


def test_a_confirmed_change_is_followed_within_a_few_frames() -> None:
    points, pending = AT, np.zeros((3, 2), np.float32)
    steps = []
    for _ in range(16):
        before = points
        points, pending = steadied(points, AT + 10, pending)
        steps.append(float(np.hypot(*(points - before).T).max()))
    assert max(steps) <= MAX_STEP + 1e-3 and np.abs(points - AT - 10).max() < 1


def test_the_motion_of_most_features_is_found() -> None:
    rng = np.random.default_rng(1)
    start = rng.uniform(20, 170, (60, 2)).astype(np.float32)
    turn = np.array([[1.02, -0.05, 3.0], [0.05, 1.02, -7.0]], np.float32)
    end = transform_points(turn, start) + rng.normal(0, 0.05, (60, 2)).astype(np.float32)
    end[:15] += rng.uniform(5, 20, (15, 2)).astype(np.float32)
    motion, weights = fitted(start, end)
    assert np.abs(transform_points(motion, start) - transform_points(turn, start)).max() < 0.15
    assert weights[:15].max() == 0 and weights[15:].min() > 0


def drawn_mesh() -> np.ndarray:
    """A made-up mesh: 468 points on a disc of 128 pixels, upright in the patch."""
    rng = np.random.default_rng(2)
    angle, radius = rng.uniform(0, 2 * np.pi, 468), 64 * np.sqrt(rng.uniform(0, 1, 468))
    mesh = np.stack([96 + radius * np.cos(angle), 96 + radius * np.sin(angle), 0 * radius], axis=1)
    for index, x in zip((33, 133, 362, 263), (60, 80, 110, 130), strict=True):
        mesh[index] = [x, 80, 0]
    return mesh.astype(np.float32)


def test_patches_stay_on_the_face() -> None:
    matrix = patch_matrix(np.array([300.0, 200.0], np.float32), 250.0, 0.4)
    mesh = drawn_mesh()
    frame = in_frame(mesh, matrix)
    assert np.allclose(in_patch(frame, matrix), mesh, atol=1e-2) and is_plausible(mesh)
    assert not is_plausible(mesh + 80) and not is_plausible(mesh * 0.3)
    off = chained(patch_matrix(np.array([100.0, 90.0], np.float32), PATCH * 1.05, 0.05), matrix)
    for _ in range(40):
        off = chained(correction(in_patch(frame, off)), off)
    centre, side, roll = placement(in_patch(frame, off))
    assert np.abs(centre - (PATCH - 1) / 2).max() < 0.5 and abs(roll) < 0.01
    assert side == pytest.approx(PATCH / 1.5, rel=0.01)


def test_the_parts_of_the_mesh() -> None:
    assert len(LANDMARKS) == 68 == len(set(LANDMARKS)) and max(max(group) for group in LANDMARKS) < 468
    mesh = drawn_mesh()
    assert landmarks_of_mesh(mesh).shape == (68, 2)
    brows = (mesh[[70, 63, 105, 66, 107], :2].mean(axis=0) + mesh[[46, 53, 52, 65, 55], :2].mean(axis=0)) / 2
    assert np.allclose(points_from_landmarks(landmarks_of_mesh(mesh), 1.0).points[0], brows, atol=1e-3)
    mesh[[81, 13, 311]] = [[80, 130, 0], [96, 130, 0], [110, 130, 0]]
    mesh[[178, 14, 402]] = [[80, 150, 0], [96, 150, 0], [110, 150, 0]]
    truth = truth_of_mesh(mesh)
    assert truth.opening == pytest.approx(20 / (70 * 0.69)) and truth.roll_deg == pytest.approx(0, abs=20)


def test_dark_pictures_are_brightened_and_others_are_not() -> None:
    picture = np.random.default_rng(3).integers(0, 255, (60, 60, 3)).astype(np.uint8)
    assert brightened(picture) is picture
    dark = (picture * 0.12).astype(np.uint8)
    assert 80 < brightened(dark).mean() < 150
    assert not brightened(np.zeros_like(picture)).any()


def test_reduced_copies_know_where_they_come_from() -> None:
    frame = np.zeros((300, 500, 3), np.uint8)
    frame[100:110, 400:410] = 255
    for square, turn in ((True, 0.0), (False, 0.0), (False, 90.0), (True, 45.0)):
        copy, matrix = reduced(frame, 250, turn, square)
        y, x = np.argwhere(copy[..., 0] > 180).mean(axis=0)
        assert np.abs(transform_points(matrix, np.array([[404.5, 104.5]])) - [x, y]).max() < 1.5


def test_overlapping_boxes_are_one_face() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)
    groups = merged(boxes, np.array([0.7, 0.9, 0.8]))
    assert [sorted(group.tolist()) for group, _ in groups] == [[0, 1], [2]]


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{MESH_FILE}.*download_checkpoints faces"):
        make_detector("mesh", weights_dir=tmp_path)


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return make_detector("mesh", CHECKPOINTS / FACES)


def head_frames(count: int) -> list[np.ndarray]:
    frames = []
    for index in range(count):
        picture = room(40).copy()
        draw_head(picture, 3, HeadPlace(320 + 2 * index, 190, 0.8), index)
        frames.append(np.clip(picture, 0, 255).astype(np.uint8))
    return frames


@needs_weights
def test_a_drawn_head_is_followed(detector: FaceDetector) -> None:
    detector.reset()
    found = [detector.points(frame) for frame in head_frames(12)]
    assert all(face is not None and face.track == 0 and face.landmarks is not None for face in found)
    x = np.array([face.points[:2, 0].mean() for face in found if face])
    assert np.abs(np.diff(x) - 2).max() < 0.8


def with_raised_brows(frame: np.ndarray, landmarks: np.ndarray, by_px: float) -> np.ndarray:
    """A frame in which only the brows and the skin around them are `by_px` higher; landmarks [68, 2]."""
    brows, eyes_top = landmarks[17:27], landmarks[36:48, 1].min()
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
    away = (y - brows[:, 1].mean()) / (eyes_top - brows[:, 1].mean())
    edge = 0.05 * np.ptp(landmarks[:17, 0])
    inside = np.minimum(brows[:, 0].max() + edge - x, x - brows[:, 0].min() + edge) / edge
    share = np.exp(-0.75 * away**2) * np.clip(inside, 0, 1) * (y < eyes_top)
    return cv2.remap(frame, x, y + np.float32(by_px) * share.astype(np.float32), cv2.INTER_LINEAR)


@needs_weights
@pytest.mark.parametrize("seed", [0, 4])
def test_raised_brows_do_not_move_the_head(detector: FaceDetector, seed: int) -> None:
    frame = cv2.resize(next(random_clip(seed).frames()), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    detector.reset()
    face = detector.points(frame)
    assert face is not None and face.landmarks is not None
    raised = with_raised_brows(frame, face.landmarks, 0.05 * face.face_px)
    detector.reset()
    found = [detector.points(each) for each in [*[frame] * 4, raised, *[frame] * 3]]
    points = np.array([each.points for each in found if each is not None])
    steps = np.hypot(*np.moveaxis(np.diff(points, axis=0), 2, 0)).max(axis=1)
    assert len(points) == 8 and steps.max() < 0.01 * face.face_px


@needs_weights
@pytest.mark.parametrize(
    "twin", ["tilted 15", "tilted -25", "tilted 45", "on its side", "upside down", "dark 20 %", "mask"]
)
def test_a_drawn_head_is_found_in_the_first_frame(detector: FaceDetector, twin: str) -> None:
    (frame,) = head_frames(1)
    detector.reset()
    upright = detector.points(frame)
    assert upright is not None and upright.landmarks is not None
    known = KnownFace(upright.points, upright.landmarks, upright.face_px)
    changed, matrix = TWINS[twin](frame, known, np.random.default_rng(0))
    detector.reset()
    found = detector.points(changed)
    assert found is not None
    distance = np.hypot(*(found.points - transform_points(matrix, known.points)).T).max()
    assert distance < 0.15 * known.face_px


@needs_weights
def test_a_doubtful_face_does_not_touch_another(detector: MeshDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    (frame,) = head_frames(1)
    detector.reset()
    face = detector.points(frame)
    assert face is not None
    doubtful = Settled(replace(detector.tracks[0].state, score=0.32), spread=1.3)
    monkeypatch.setattr(MeshDetector, "settled", lambda self, frame, matrix: doubtful)
    monkeypatch.setattr(MeshDetector, "is_confirmed", lambda self, frame, track: True)
    candidate = Candidate(face.points.mean(axis=0), face.face_px, face.points[:2], 0.9)
    x0, y0, x1, y1 = face.box
    forehead = (x0, y0 - 0.7 * (y1 - y0), x1, y0 + 0.3 * (y1 - y0))
    assert detector.settle(frame, candidate, TURNED, [forehead]) is None
    assert detector.settle(frame, candidate, TURNED, []) is doubtful.track


@needs_weights
def test_a_turning_head_is_one_track_in_each_shot(detector: MeshDetector) -> None:
    found = track_faces((shown.frame for shown in read_frames(DEMO_VIDEO)), detector)
    assert len(found.cuts) == 1 and len(set(found.track.tolist())) == 2
    assert found.frame.tolist() == list(range(found.frame_count))


@needs_weights
def test_two_people_are_found(detector: FaceDetector) -> None:
    picture = room(41).copy()
    draw_head(picture, 3, HeadPlace(180, 190, 0.7), 0)
    draw_head(picture, 8, HeadPlace(460, 190, 0.7), 0)
    detector.reset()
    assert len(detector.faces(np.clip(picture, 0, 255).astype(np.uint8))) == 2
