"""Face tracks, crops and sync scores on known geometry, cuts as in PySceneDetect, and hand-made embeddings."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from latentsync.metrics.sync.box_detectors import DetectorBoxes, S3FDBoxes
from latentsync.metrics.sync.face_tracks import (
    PUBLISHED_RULES,
    FaceBoxTrack,
    TrackRules,
    crop_face,
    crop_track,
    find_tracks,
    is_cut,
    overlap,
    smooth_track,
)
from latentsync.metrics.sync.judge import score_pairs
from latentsync.metrics.sync.stable import embed_lips, embed_sound
from latentsync.models.syncnet import load_syncnet
from latentsync.weights import DEMO

FRAME = np.zeros((120, 160, 3), np.uint8)


class Scripted:
    """Returns the boxes of a list, frame by frame."""

    def __init__(self, boxes: list[list[tuple[float, ...]]]) -> None:
        self.boxes, self.at, self.resets = boxes, -1, 0

    def reset(self) -> None:
        self.resets += 1

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        self.at += 1
        return np.array(self.boxes[self.at], np.float64).reshape(-1, 4)


def test_tracks_bridge_gaps_and_keep_two_people_apart():
    left = [(10.0 + i, 20.0, 80.0 + i, 95.0) for i in range(60)]
    right = [(200.0, 30.0, 290.0 + i / 4, 120.0) for i in range(60)]
    boxes: list[list[tuple[float, ...]]] = [[right[i], left[i]] if i % 2 else [left[i], right[i]] for i in range(60)]
    for i in range(30, 40):
        boxes[i] = [right[i]]
    tracks = find_tracks([FRAME] * 60, Scripted(boxes))
    assert [(track.start_frame, len(track)) for track in tracks] == [(0, 60), (0, 60)]
    np.testing.assert_allclose(tracks[0].boxes, left)  # a straight line, so the gap is filled exactly
    np.testing.assert_allclose(tracks[1].boxes, right)
    assert find_tracks([FRAME] * 60, Scripted(boxes), PUBLISHED_RULES) == []  # 50 detections, and 72 pixels wide
    ended = find_tracks([FRAME] * 60, Scripted(boxes), TrackRules(max_missed=5))  # 20 frames after the gap are too few
    assert [(track.start_frame, len(track)) for track in ended] == [(0, 30), (0, 60)]


def test_tracks_end_at_a_cut_and_where_the_face_jumps():
    box = (10.0, 10.0, 110.0, 110.0)
    white = np.full_like(FRAME, 255)
    detector = Scripted([[box]] * 80)
    tracks = find_tracks([FRAME] * 40 + [white] * 40, detector)
    assert [(track.start_frame, len(track)) for track in tracks] == [(0, 40), (40, 40)] and detector.resets == 2
    far = (200.0, 10.0, 300.0, 110.0)
    jumped = find_tracks([FRAME] * 80, Scripted([[box]] * 40 + [[far]] * 40))
    assert [(track.start_frame, len(track)) for track in jumped] == [(0, 40), (40, 40)]
    assert find_tracks([FRAME] * 9, Scripted([[box]] * 9)) == []


def test_overlap_has_its_closed_form():
    box = np.array([0.0, 0.0, 10.0, 10.0])
    others = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    assert overlap(box, others) == pytest.approx([1, 50 / 150, 0])


def test_cuts_are_those_of_pyscenedetect():
    detectors = pytest.importorskip("scenedetect.detectors", reason="PySceneDetect gives the foreign values")
    rng = np.random.default_rng(0)
    base = cv2.resize(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    for share in (0.05, 0.2, 0.6, 1.0):
        other = cv2.addWeighted(base, 1 - share, 255 - base, share, 0)
        detector = detectors.ContentDetector(min_scene_len=1)
        hsv = [cv2.cvtColor(frame, cv2.COLOR_RGB2HSV) for frame in (base, other)]
        score = np.mean(
            [np.abs(a.astype(int) - b).mean() for a, b in zip(*[np.moveaxis(x, -1, 0) for x in hsv], strict=True)]
        )
        parts = [detector._calculate_frame_score(i, f[..., ::-1].copy()) for i, f in enumerate((base, other))]
        assert parts[1] == pytest.approx(score, abs=0.01)
        assert is_cut(*(x.astype(np.float32) for x in hsv)) == (parts[1] >= detectors.ContentDetector()._threshold)


def test_crop_reaches_from_a_half_size_above_to_1_8_below():
    frame = np.zeros((400, 400, 3), np.uint8)
    frame[150:330, 110:290] = 200  # x 200 -+ 90; y 200 - 50 ... 200 + 130
    frame[152:328, 112:288] = 90
    face = crop_face(frame, np.array([200.0, 200.0]), 50.0)
    # the crop is y 150 ... 290 and x 130 ... 270, so the pale frame shows at its top alone
    assert face.shape == (224, 224, 3) and face[0].mean() > 150 and face[10:, 10:-10].mean() == 90
    beyond = crop_face(frame, np.array([5.0, 5.0]), 50.0)
    assert (beyond[:40, :40] == 110).all() and beyond[-1, -1, 0] != 110
    assert (crop_face(frame, np.array([-900.0, 10.0]), 20.0) == 110).all()


def test_smoothing_takes_out_a_single_wrong_box():
    boxes = np.tile([100.0, 100.0, 200.0, 220.0], (40, 1))
    boxes[20] = [0, 0, 30, 30]
    centres, halves = smooth_track(boxes)
    np.testing.assert_allclose(centres[6:-6], [[150, 160]] * 28)
    np.testing.assert_allclose(halves[6:-6], 60)
    crops = list(crop_track([np.full((300, 300, 3), 7, np.uint8)] * 40, FaceBoxTrack(0, boxes)))
    assert len(crops) == 40 and crops[15].mean() == 7


class OneFace(torch.nn.Module):
    """Stand-in for S3FD: one face detected twice, and one with a low score."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert image.shape == (1, 3, 30, 40) and float(image.mean()) == pytest.approx(-(123 + 117 + 104) / 3)
        priors = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.55, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]])
        scores = torch.tensor([0.99, 0.95, 0.8])
        return torch.zeros(1, 3, 4), torch.stack([1 - scores, scores], dim=-1)[None], priors


def test_boxes_of_s3fd_are_scaled_to_the_frame():
    found = S3FDBoxes(OneFace())(FRAME)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [[40, 30, 120, 90]])


def test_detector_boxes_returns_all_faces():
    faces = [SimpleNamespace(box=(1.0, 2.0, 3.0, 4.0)), SimpleNamespace(box=(5.0, 6.0, 7.0, 8.0))]
    detector = SimpleNamespace(faces=lambda frame: faces, reset=lambda: None)
    assert DetectorBoxes(detector)(FRAME).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]  # type: ignore[arg-type]
    faces.clear()
    assert DetectorBoxes(detector)(FRAME).shape == (0, 4)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def syncnet() -> tuple[torch.nn.Module, int, int]:
    net, metadata = load_syncnet(DEMO / "syncnet.safetensors")
    return net, metadata["resolution"], metadata["num_frames"]


def test_embeddings_do_not_depend_on_the_batch_and_are_nan_without_a_face(syncnet):
    net, resolution, num_frames = syncnet
    faces: list[np.ndarray | None] = list(np.random.default_rng(0).integers(0, 256, (26, 64, 64, 3), np.uint8))
    whole, parts = (embed_lips(net, faces, resolution, num_frames, batch_size=size) for size in (16, 3))
    assert whole.shape[0] == 26 - num_frames + 1
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(len(whole)))
    faces[20] = None
    with_gap = embed_lips(net, faces, resolution, num_frames)
    assert with_gap.isnan().all(dim=1).tolist() == [i + num_frames > 20 for i in range(len(whole))]
    torch.testing.assert_close(with_gap[:4], whole[:4])
    waveform = np.random.default_rng(0).normal(0, 0.1, 26 * 640).astype(np.float32)
    sound = [embed_sound(net, waveform, num_frames, batch_size=size) for size in (64, 3)]
    torch.testing.assert_close(*sound, atol=1e-5, rtol=1e-5)
    assert len(embed_sound(net, waveform[:3000], num_frames)) == 0


def hand_made(shift: int, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Lips and sound of unit length, equal at one shift and orthogonal at all others."""
    basis = torch.eye(count + 40)
    return basis[20 : 20 + count], basis[20 + shift : 20 + shift + count]


def test_sync_score_at_offset_zero_and_at_the_best_offset():
    heard = score_pairs([hand_made(0)])
    assert heard.offset_frames == 0 and heard.distance == pytest.approx(0, abs=1e-3)
    assert heard.distance_as_heard == heard.distance and heard.confidence_as_heard == heard.confidence
    assert heard.confidence == pytest.approx(2**0.5, abs=1e-3)  # distance of orthogonal unit vectors
    early = score_pairs([hand_made(3)])
    assert early.offset_frames == 3 and early.confidence == pytest.approx(heard.confidence, abs=1e-3)
    assert early.distance_as_heard == pytest.approx(2**0.5, abs=1e-3) and early.confidence_as_heard == pytest.approx(
        0, abs=1e-3
    )


def test_one_wrong_track_of_three_does_not_move_the_score():
    tracks = [hand_made(1), hand_made(1), hand_made(-9)]
    assert score_pairs(tracks).offset_frames == 1 and score_pairs(tracks).tracks == 3
    assert score_pairs(tracks, published=True).offset_frames == -2  # int of the mean, -7/3
    assert score_pairs(tracks[::-1]) == score_pairs(tracks)


def test_windows_without_a_face_are_ignored():
    lips, sound = hand_made(2)
    lips = lips.clone()
    lips[10:20] = torch.nan
    found = score_pairs([(lips, sound)])
    assert found.offset_frames == 2 and found.distance == pytest.approx(0, abs=1e-3)
