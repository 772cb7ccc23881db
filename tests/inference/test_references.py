"""Which moments of a face are shown beside the frames that are repainted: free and usual ones, whoever speaks, whatever covers."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from latentsync.face.detection.detector import Face, make_detector
from latentsync.inference.faces.plan import FacePlan, FacePolicy, plan_faces
from latentsync.inference.faces.select import FaceChoice, choose_face
from latentsync.inference.faces.tracks import FaceTracks, track_faces
from latentsync.inference.model_files import DEMO_UNET, distilled_companion
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.inference.windows.references import ElsewhereReference, closed_reference, reference_choice, usual_runs
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from scripts.inference import DEMO_AUDIO, DEMO_VIDEO
from tests.support.torture import Place, draw_head, room

COUNT, WINDOW, RAMP = 60, 16, 4
PEOPLE = (2, 11, 27)
Frames = list[np.ndarray]
Cover = Callable[[np.ndarray, np.ndarray, float], None]  # picture, middle of the mouth, distance of the eyes


def hand(picture: np.ndarray, mouth: np.ndarray, unit: float) -> None:
    """Skin-coloured, with fingers."""
    x, y = (int(value) for value in mouth)
    cv2.ellipse(picture, (x, y), (int(0.95 * unit), int(0.5 * unit)), -15, 0, 360, (214, 164, 134), cv2.FILLED)
    for finger in range(4):
        at = int(x - 0.6 * unit), int(y + (0.26 * finger - 0.35) * unit)
        cv2.ellipse(picture, at, (int(0.65 * unit), int(0.15 * unit)), -8, 0, 360, (206, 154, 124), cv2.FILLED)
        cv2.ellipse(picture, at, (int(0.65 * unit), int(0.15 * unit)), -8, 0, 360, (150, 100, 80), 1)


def microphone(picture: np.ndarray, mouth: np.ndarray, unit: float) -> None:
    x, y = (int(value) for value in mouth)
    cv2.rectangle(picture, (x - int(0.12 * unit), y), (x + int(0.12 * unit), y + int(3 * unit)), (50, 50, 52), -1)
    cv2.circle(picture, (x, y), int(0.42 * unit), (35, 35, 38), cv2.FILLED)


def cup(picture: np.ndarray, mouth: np.ndarray, unit: float) -> None:
    low, high = mouth - unit * np.array([0.5, 0.45]), mouth + unit * np.array([0.5, 0.7])
    cv2.rectangle(picture, low.astype(int).tolist(), high.astype(int).tolist(), (236, 234, 230), cv2.FILLED)


def card(picture: np.ndarray, mouth: np.ndarray, unit: float) -> None:
    low, high = mouth - unit * np.array([0.9, 0.7]), mouth + unit * np.array([0.9, 0.7])
    cv2.rectangle(picture, low.astype(int).tolist(), high.astype(int).tolist(), (150, 190, 205), cv2.FILLED)


class KnownFaces:
    """A detector that returns the faces of the uncovered frames."""

    def __init__(self, faces: list[Face]):
        self.known = iter(faces)

    def faces(self, frame: np.ndarray) -> list[Face]:
        return [next(self.known)]

    def points(self, frame: np.ndarray) -> Face | None:
        return next(self.known)

    def reset(self) -> None:
        """There is nothing to forget."""


@lru_cache(maxsize=len(PEOPLE))
def speaker(seed: int, count: int = COUNT) -> tuple[Frames, list[Face]]:
    """A drawn person who speaks, and the detector's faces."""
    frames = []
    for index in range(count):
        picture = room(20).copy()
        draw_head(picture, seed, Place(220, 180, 0.8), index)
        frames.append(np.clip(picture + np.random.default_rng(index).normal(0, 1.5, picture.shape), 0, 255))
    pictures = [frame.astype(np.uint8)[:, 40:400] for frame in frames]
    detector = make_detector()
    faces = [detector.points(picture) for picture in pictures]
    assert all(face is not None for face in faces), "the person is seen throughout"
    return pictures, [face for face in faces if face is not None]


def times(*stretches: tuple[int, int], count: int = COUNT) -> np.ndarray:
    """How much of the mouth is covered [count], 0 ... 1: fully in these stretches, partly next to them."""
    frame = np.arange(count)
    shares = [1 - np.maximum(start - frame, frame - stop + 1).clip(0) / (RAMP + 1) for start, stop in stretches]
    return np.max([share.clip(0) for share in shares], axis=0)


def covered(frames: Frames, faces: list[Face], cover: Cover, share: np.ndarray) -> Frames:
    """The frames with something that rises from below in front of the mouth."""
    pictures = [frame.copy() for frame in frames]
    for picture, face, there in zip(pictures, faces, share, strict=True):
        unit = float(np.hypot(*(face.points[1] - face.points[0])))
        mouth = face.points[:2].mean(axis=0) + unit * np.array([0, 1.7 + 2.2 * (1 - there)])
        if there:
            cover(picture, mouth, unit)
    return pictures


def plan_of(seen: FaceTracks) -> FacePlan:
    shown_at = [index / 25 for index in range(seen.frame_count + 1)]
    return plan_faces(seen, choose_face(seen, FaceChoice(), shown_at), FacePolicy(), shown_at, 128)


def plan_of_frames(frames: Frames, faces: list[Face]) -> FacePlan:
    return plan_of(track_faces(frames, KnownFaces(faces)))


def references(plan: FacePlan, policy: str) -> list[range]:
    """What is chosen for every window of the video."""
    choose = reference_choice(policy, plan, WINDOW, 1)  # type: ignore[arg-type]
    assert choose is not None
    return [choose(range(start, min(start + WINDOW, len(plan)))) for start in range(0, len(plan), WINDOW)]


WHEN = {
    "start": times((-99, 19)),
    "middle": times((22, 36)),
    "twice": times((-99, 9), (40, 48)),
    "end": times((40, 99)),
    "mostly": times((-99, 32)),
}


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize(("cover", "seeds"), [(hand, PEOPLE), (microphone, (2,)), (cup, (27,)), (card, (11,))])
def test_what_covers_the_mouth_is_never_in_a_reference(cover: Cover, seeds: tuple[int, ...], when: str) -> None:
    for seed in seeds:
        frames, faces = speaker(seed)
        plan = plan_of_frames(covered(frames, faces, cover, WHEN[when]), faces)
        for chosen in (*references(plan, "elsewhere"), *references(plan, "closed")):
            assert len(chosen) >= WINDOW // 4 and WHEN[when][list(chosen)].max() == 0, (seed, chosen)


@pytest.mark.parametrize("cover", [card, microphone])
def test_a_mouth_covered_in_all_frames_still_has_references(cover: Cover) -> None:
    frames, faces = speaker(8)
    plan = plan_of_frames(covered(frames, faces, cover, np.ones(COUNT)), faces)
    for policy in ("elsewhere", "closed"):
        assert all(len(chosen) == WINDOW for chosen in references(plan, policy)[:2])


def test_a_change_of_light_makes_no_frame_unusual() -> None:
    frames, faces = speaker(8)
    dim = [(frame * (0.6 if index < 30 else 1.0)).astype(np.uint8) for index, frame in enumerate(frames)]
    chosen = references(plan_of_frames(dim, faces), "elsewhere")
    assert min(window.start for window in chosen) < 8 and all(len(window) == WINDOW for window in chosen)


def test_every_shot_has_its_own_usual_appearance() -> None:
    """In one shot, a third of the video, everything is lighter: its references are still its own."""
    frames, faces = speaker(8)
    plan = plan_of_frames(frames, faces)
    shot = np.repeat(np.array([0, 1], np.int32), [24, 36])
    plan.lower_face[:24, ::4] += 12
    choose = reference_choice("elsewhere", replace(plan, shot=shot, segment=shot), 8, 1)
    assert choose is not None
    assert choose(range(8)).stop <= 24 <= choose(range(24, 32)).start


def test_turned_and_bridged_frames_are_no_references() -> None:
    frames, faces = speaker(8)
    turned = [replace(face, yaw_deg=35.0 if index < 20 else 0.0) for index, face in enumerate(faces)]
    assert all(chosen.start >= 20 for chosen in references(plan_of_frames(frames, turned), "elsewhere"))
    plan = plan_of_frames(frames, faces)
    plan.action[:4] = "bridged"
    assert all(chosen.start >= 4 for chosen in references(plan, "elsewhere"))


def test_the_choice_survives_the_job_folder_and_older_ones_are_refused(tmp_path: Path) -> None:
    frames, faces = speaker(3)
    seen = track_faces(covered(frames, faces, hand, WHEN["start"]), KnownFaces(faces))
    seen.save(tmp_path / "faces.npz")
    again = FaceTracks.load(tmp_path / "faces.npz")
    for policy in ("elsewhere", "closed"):
        assert references(plan_of(again), policy) == references(plan_of(seen), policy)
    with np.load(tmp_path / "faces.npz") as stored:
        np.savez(tmp_path / "old.npz", **{name: stored[name] for name in stored.files if name != "lower_face"})
    with pytest.raises(ValueError, match="old.npz is not a file of face tracks .*lower_face.*detected again"):
        FaceTracks.load(tmp_path / "old.npz")


def test_the_reference_lies_elsewhere_and_changes_once() -> None:
    found = [range(20), range(23, 29)]
    choose = ElsewhereReference(found, found, num_frames=4, stride=1)
    assert [choose(range(start, start + 4)) for start in range(0, 17, 4)] == [range(4, 8)] + [range(0, 4)] * 4
    assert choose(range(23, 27)) == range(27, 29)  # half a window of the same segment
    assert choose(range(23, 29)) == range(0, 4)  # its own segment is too short
    assert choose(range(2, 6)) == range(8, 12)  # it overlaps two
    for length, stride, frames, expected in (
        (3, 1, range(3), range(0, 3)),  # nothing else to show
        (40, 2, range(8), range(8, 15, 2)),
        (7, 1, range(4), range(4, 7)),
        (5, 1, range(4), range(4, 5)),
    ):
        segments = [range(length)]
        assert ElsewhereReference(segments, segments, 4, stride)(frames) == expected


def test_references_lie_in_runs_of_usual_frames() -> None:
    segments, usual = [range(0, 30), range(30, 50)], np.ones(50, bool)
    usual[:6] = usual[20:23] = usual[33:] = False
    found = usual_runs(segments, usual)
    assert found == [range(6, 20), range(23, 30), range(30, 33)]
    choose = ElsewhereReference(segments, found, num_frames=4, stride=1)
    assert [choose(range(start, start + 4)) for start in (0, 4, 8, 12)] == [
        range(6, 10),
        range(10, 14),
        range(14, 18),
        range(6, 10),
    ]
    assert choose(range(34, 38)) == range(30, 33)  # all that is usual of the segment
    assert choose(range(6, 30)) == range(30, 33)
    assert usual_runs(segments, np.zeros(50, bool)) == segments  # nothing is better than anything else


def test_the_closed_reference_is_the_most_closed_window() -> None:
    opening = np.full(40, 0.5)
    opening[22:27] = 0.1
    opening[30] = np.nan
    assert closed_reference([range(20), range(21, 40)], opening, 4, 1)([0]) == range(22, 26)
    assert closed_reference([range(3)], np.full(3, np.nan), 4, 1)([0]) == range(0, 3)


LEFT_OF_THE_HAND = 6.0  # grey levels in the mouth's region, mean of a frame; with the hand as reference 20 and more


@pytest.mark.slow
def test_a_hand_at_the_start_leaves_no_trace_in_free_frames(tmp_path: Path) -> None:
    """The demo video, whole and with a hand in front of the mouth for 0.8 s: from then on both have the same result."""
    distilled = distilled_companion(DEMO_UNET)
    pipeline = LipsyncPipeline(LipsyncModels.load(distilled or DEMO_UNET, device=torch.device("cpu")), make_detector())
    clean = [shown.frame for _, shown in zip(range(52), read_frames(DEMO_VIDEO), strict=False)]
    detector, share = make_detector(), times((-99, 15), count=len(clean))
    faces = [face for frame in clean if (face := detector.points(frame)) is not None]
    results = []
    for name, frames in (("clean", clean), ("hand", covered(clean, faces, hand, share))):
        with VideoWriter(tmp_path / f"{name}.mp4", VideoFormat.constant(*clean[0].shape[1::-1], 25, crf=4)) as writer:
            for frame in frames:
                writer.write(frame)
        settings = pipeline.models.defaults.changed({"preset": "turbo"})
        output = tmp_path / f"{name}_lips.mp4"
        pipeline(tmp_path / f"{name}.mp4", DEMO_AUDIO, output, settings, JobOptions(length="cut", crf=4))
        results.append(np.stack([shown.frame for shown in read_frames(output)]).astype(np.float32))
    x, y = faces[0].points[:2].mean(axis=0)
    unit = float(np.hypot(*(faces[0].points[1] - faces[0].points[0])))
    rows, columns = slice(int(y + unit), int(y + 2.4 * unit)), slice(int(x - 0.9 * unit), int(x + 0.9 * unit))
    apart = np.abs(results[0] - results[1])[:, rows, columns].mean(axis=(1, 2, 3))
    assert apart[share == 0].max() < LEFT_OF_THE_HAND
