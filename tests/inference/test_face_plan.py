"""The plan of the frames to edit: bridged gaps, segments, locality in time; and the choice of a face."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.face.align import Smoother, align_matrix
from latentsync.face.lower_face import LENGTH
from latentsync.inference.faces.people import find_people
from latentsync.inference.faces.plan import FacePlan, FacePolicy, plan_faces
from latentsync.inference.faces.select import FaceChoice, choose_face, parse_face_choice
from latentsync.inference.faces.tracks import PER_FACE, FaceTracks

ANGLES = np.linspace(np.pi, 0, 17)
JAW = np.stack([0.5 * np.cos(ANGLES), 0.5 * np.sin(ANGLES)], axis=1).astype(np.float32)  # of a face of width 1


def tracks_of(rows: list[tuple[int, int, float, float]], count: int, cuts: tuple[int, ...] = ()) -> FaceTracks:
    """Face tracks from (frame, track, x of the face's middle, width of the face) in pictures of 640 x 360."""
    rows = sorted(rows)
    x, width = np.array([row[2] for row in rows], np.float32), np.array([row[3] for row in rows], np.float32)
    box = np.stack([x - width / 2, 180 - width / 2, x + width / 2, 180 + width / 2], axis=1).reshape(-1, 4)
    points = np.array([[-0.25, -0.3], [0.25, -0.3], [0, 0.05]], np.float32) * width[:, None, None]
    tracks = sorted({row[1] for row in rows})
    return FaceTracks(
        frame_count=count,
        size=(640, 360),
        cuts=np.array(cuts, np.int32),
        frame=np.array([row[0] for row in rows], np.int32),
        track=np.array([row[1] for row in rows], np.int32),
        points=points + np.stack([x, np.full_like(x, 180)], axis=1)[:, None],
        box=box.astype(np.float32),
        score=np.ones(len(rows), np.float32),
        yaw=np.zeros(len(rows), np.float32),
        pitch=np.zeros(len(rows), np.float32),
        opening=np.zeros(len(rows), np.float32),
        jaw=np.stack([x, np.full_like(x, 180)], axis=1)[:, None] + JAW * width[:, None, None],
        lower_face=np.zeros((len(rows), LENGTH), np.int8),
        descriptors=np.zeros((len(tracks), 420), np.float16),
        descriptor_track=np.array(tracks, np.int32),
        thumbnails=np.zeros((0, 96, 96, 3), np.uint8),
        thumbnail_track=np.zeros(0, np.int32),
    )


def still_face(visible: list[bool], cuts: tuple[int, ...] = ()) -> FaceTracks:
    rows = [(frame, 0, 300.0 + frame % 3, 100.0) for frame, here in enumerate(visible) if here]
    return tracks_of(rows, len(visible), cuts)


def plan_of(face_tracks: FaceTracks, fps: float = 25.0, **limits: float) -> FacePlan:
    times = [frame / fps for frame in range(face_tracks.frame_count + 1)]
    return plan_faces(face_tracks, [0], FacePolicy(**limits), times, 128)


@pytest.mark.parametrize("fps", [12, 23.976, 25, 29.97, 30, 50, 59.94, 60])
def test_gaps_up_to_the_limit_are_bridged_at_every_frame_rate(fps: float) -> None:
    most = int(0.4 * fps + 1e-6)
    edge = round(fps)
    short = plan_of(still_face([True] * edge + [False] * most + [True] * edge), fps)
    assert len(short.segments) == 1 and (short.weight == 1).all()
    assert (short.action[edge : edge + most] == "bridged").all() and np.isfinite(short.matrices).all()
    long = plan_of(still_face([True] * edge + [False] * (most + 1) + [True] * edge), fps)
    assert [(segment.start, segment.stop) for segment in long.segments] == [
        (0, edge),
        (edge + most + 1, 2 * edge + most + 1),
    ]
    assert long.passed == [(edge, edge + most + 1, "no face")]
    fading = int(((long.weight > 0) & (long.weight < 1)).sum())
    assert 2 <= fading <= 2 * np.ceil(0.16 * fps)
    assert long.weight[0] == long.weight[-1] == 1


def test_points_of_bridged_frames_are_interpolated() -> None:
    plan = plan_of(tracks_of([(f, 0, 300.0 + 2 * f, 100.0) for f in range(20) if not 8 <= f < 14], 20))
    middles = (plan.box[:, 0] + plan.box[:, 2]) / 2
    assert np.allclose(middles, 300 + 2 * np.arange(20), atol=1e-3)
    smoother = Smoother()
    whole = tracks_of([(f, 0, 300.0 + 2 * f, 100.0) for f in range(20)], 20)
    expected = [align_matrix(points, 128, smoother) for points in whole.points]
    assert np.allclose(plan.matrices, expected, atol=1e-3)


def test_the_outline_is_steady_goes_with_the_head_and_spans_bridged_frames() -> None:
    rows = [(f, 0, 300.0 + 2 * f, 100.0) for f in range(20) if not 8 <= f < 14]
    exact, trembling = tracks_of(rows, 20, cuts=(16,)), tracks_of(rows, 20, cuts=(16,))
    trembling.jaw[:] += np.random.default_rng(0).normal(0, 1, trembling.jaw.shape)
    plan, shaken = plan_of(exact), plan_of(trembling)
    assert np.allclose(
        plan.jaw, np.stack([300 + 2 * np.arange(20), np.full(20, 180)], 1)[:, None] + 100 * JAW, atol=1e-3
    )
    assert (shaken.jaw - plan.jaw)[[2, 3, 4, 5]].std() < 0.6
    assert np.isfinite(shaken.jaw).all()
    exact.jaw[exact.frame == 18] = np.nan  # a detector without landmarks
    plan = plan_of(exact)
    outlines = [plan.outline(frame, plan.matrices[frame], 128) for frame in range(20)]
    assert [frame for frame, each in enumerate(outlines) if each is None] == [16, 17, 18, 19]
    assert outlines[15] is not None and np.allclose(outlines[15], outlines[3], atol=2e-3)


def test_gaps_with_a_cut_a_jump_or_another_face_are_not_bridged() -> None:
    around = [True] * 20 + [False] * 4 + [True] * 20
    assert (plan_of(still_face(around)).action[20:24] == "bridged").all()
    assert (plan_of(still_face(around, cuts=(22,))).segment[20:24] == -1).all()
    elsewhere = [(f, 0, 300.0 if f < 20 else 480.0, 100.0) for f in range(44) if around[f]]
    assert (plan_of(tracks_of(elsewhere, 44)).segment[20:24] == -1).all()
    passing = [(f, 0, 300.0, 100.0) for f in range(44) if around[f]] + [(f, 1, 310.0, 100.0) for f in range(20, 24)]
    plan = plan_of(tracks_of(passing, 44))
    assert (plan.action[20:24] == "other person").all() and (plan.weight[20:24] == 0).all()


def test_a_face_covered_by_another_is_not_edited() -> None:
    rows = [(f, 0, 300.0, 100.0) for f in range(60)] + [(f, 1, 600.0 - 6 * f, 100.0) for f in range(60)]
    plan = plan_of(tracks_of(rows, 60))
    apart = np.abs(300 - 6 * np.arange(60))
    assert (plan.edited == (apart >= 80)).all()
    assert (plan.action[apart < 80] == "other person").all()


def test_faces_that_are_too_small_turned_or_brief_are_passed_through_with_a_reason() -> None:
    face_tracks = tracks_of([(f, 0, 300.0, 20.0 if f < 15 else 100.0) for f in range(60)], 60)
    face_tracks.yaw[30:37], face_tracks.pitch[37:45] = 75, -75  # to the side, then upwards
    plan = plan_of(face_tracks)
    assert plan.passed == [(0, 15, "too small"), (30, 45, "turned away")]
    assert np.isfinite(plan.box[0]).all() and np.isnan(plan.matrices[0]).all()
    flicker = plan_of(still_face([True] * 20 + [False] * 15 + [True] * 3 + [False] * 15 + [True] * 20))
    assert (flicker.action[35:38] == "too short").all()
    assert plan_of(still_face([True])).action.tolist() == ["edit"]
    assert plan_of(still_face([False, False])).passed == [(0, 2, "no face")]


visibility = st.lists(st.tuples(st.booleans(), st.integers(1, 30)), min_size=1, max_size=12).map(
    lambda parts: [here for here, length in parts for _ in range(length)]
)
rates = st.sampled_from([12.0, 24.0, 25.0, 29.97, 60.0])


@settings(max_examples=60, deadline=None)
@given(visibility, rates, st.lists(st.integers(1, 300), max_size=4))
def test_every_plan_follows_the_policy(visible: list[bool], fps: float, wished: list[int]) -> None:
    cuts = tuple(sorted({cut for cut in wished if cut < len(visible)}))
    plan = plan_of(still_face(visible, cuts), fps)
    here, shot = np.array(visible), still_face(visible, cuts).shot
    assert len(plan) == len(visible) and (plan.edited == (plan.weight > 0)).all()
    assert (np.isfinite(plan.matrices).all(axis=(1, 2)) == plan.edited).all()
    assert (plan.edited == np.isin(plan.action, ["edit", "bridged"])).all()
    assert (here[plan.action == "edit"]).all() and not here[plan.action == "no face"].any()
    for segment in plan.segments:
        assert not any(segment.start < cut < segment.stop for cut in cuts)
        missing = ~here[segment.start : segment.stop]
        longest = max((len(run) for run in "".join("x" if m else " " for m in missing).split()), default=0)
        assert longest / fps <= 0.4 + 1e-6
        borders = ((segment.start, segment.start - 1), (segment.stop - 1, segment.stop))
        fades = [0 <= beyond < len(visible) and shot[beyond] == shot[border] for border, beyond in borders]
        assert all(plan.weight[border] < 1 for (border, _), fading in zip(borders, fades, strict=True) if fading)
        assert any(fades) or (plan.weight[segment.start : segment.stop] == 1).all()


@settings(max_examples=40, deadline=None)
@given(visibility.filter(lambda visible: len(visible) > 60), rates, st.data())
def test_the_plan_of_a_frame_depends_only_on_frames_nearby(
    visible: list[bool], fps: float, data: st.DataObject
) -> None:
    whole_tracks = still_face(visible, cuts=(len(visible) // 3,))
    start = data.draw(st.integers(0, len(visible) - 41))
    stop = data.draw(st.integers(start + 40, len(visible)))
    reach = int(1.0 * fps) + 12  # the longest gap beside a short run, and the smoother's memory
    whole = plan_of(whole_tracks, fps)
    times = [frame / fps for frame in range(start, stop + 1)]
    piece = plan_faces(piece_of(whole_tracks, start, stop), [0], FacePolicy(), times, 128)
    inside = slice(0 if start == 0 else reach, stop - start if stop == len(visible) else max(0, stop - start - reach))
    part = slice(start + inside.start, start + max(inside.start, inside.stop))
    inside = slice(inside.start, max(inside.start, inside.stop))
    assert (piece.action[inside] == whole.action[part]).all()
    assert np.array_equal(piece.weight[inside], whole.weight[part])
    assert np.allclose(piece.matrices[inside], whole.matrices[part], atol=1e-2, equal_nan=True)
    assert ((np.diff(piece.segment[inside]) != 0) == (np.diff(whole.segment[part]) != 0)).all()


def piece_of(face_tracks: FaceTracks, start: int, stop: int) -> FaceTracks:
    """Frames start ... stop - 1, renumbered from 0; tracks keep their numbers."""
    inside = (face_tracks.frame >= start) & (face_tracks.frame < stop)
    kept = {name: getattr(face_tracks, name)[inside] for name in PER_FACE}
    kept["frame"] = kept["frame"] - np.int32(start)
    cuts = face_tracks.cuts[(face_tracks.cuts > start) & (face_tracks.cuts < stop)] - np.int32(start)
    return replace(face_tracks, frame_count=stop - start, cuts=cuts, **kept)


def people_like(
    tracks: list[tuple[int, int, float, str]], count: int, cuts: tuple[int, ...], between: float = 0.0
) -> FaceTracks:
    """Tracks of (first frame, frames, x, person); `between` is the similarity of the gradients of different people."""
    rows = [(start + f, n, x, 100.0) for n, (start, frames, x, _) in enumerate(tracks) for f in range(frames)]
    face_tracks = tracks_of(rows, count, cuts)
    shared = np.sqrt(np.float32(between))
    for index, (_, _, _, name) in enumerate(tracks):
        own = np.zeros(420, np.float32)
        own[24], own[25 + "ABC".index(name)] = shared, np.sqrt(1 - between)
        face_tracks.descriptors[index] = own
    return face_tracks


def chosen_of(face_tracks: FaceTracks, choice: Callable[[], FaceChoice] = FaceChoice) -> list[int]:
    return choose_face(face_tracks, choice(), [frame / 25 for frame in range(face_tracks.frame_count)])


ALONE = [(0, 50, 300.0, "A"), (50, 30, 320.0, "B")]


def test_a_person_alone_in_a_shot_is_the_known_one_unless_clearly_different() -> None:
    uncertain, other = ((similarity - 0.35) / 0.65 for similarity in (0.7, 0.62))  # the colours are equal: 0.35
    assert chosen_of(people_like(ALONE, 80, (50,), uncertain)) == [0, 1]
    assert chosen_of(people_like(ALONE, 80, (50,), other)) == [0], "people in single shots reach this similarity"
    with_another = [*ALONE, (50, 30, 500.0, "C")]
    assert chosen_of(people_like(with_another, 80, (50,), uncertain)) == [0]  # not certain enough in a shot with others


def test_a_video_without_faces_has_no_people() -> None:
    nobody = still_face([False] * 5)
    assert find_people(nobody) == [] and chosen_of(nobody) == []
    assert plan_of(nobody).passed == [(0, 5, "no face")]


def test_people_visible_together_are_different_and_numbered_from_left_to_right() -> None:
    tracks = [(0, 50, 500.0, "A"), (5, 40, 100.0, "A"), (60, 20, 300.0, "C")]
    people = find_people(people_like(tracks, 80, (55,), 0.1))
    assert [(person.number, person.tracks) for person in people] == [(1, (1,)), (2, (0,)), (3, (2,))]


def test_a_track_that_is_briefly_lost_continues_as_the_same_person() -> None:
    face_tracks = people_like([(0, 20, 300.0, "A"), (26, 30, 305.0, "A"), (0, 56, 520.0, "B")], 56, ())
    assert chosen_of(face_tracks) == [2]  # visible longer
    assert chosen_of(face_tracks, lambda: parse_face_choice("1")) == [0, 1]


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("largest", FaceChoice("largest")),
        (" Center ", FaceChoice("center")),
        ("2", FaceChoice("number", number=2)),
        ("320,180@1.5", FaceChoice("place", x=320, y=180, time_sec=1.5)),
        ("320.5, 180 @ 12s", FaceChoice("place", x=320.5, y=180, time_sec=12)),
    ],
)
def test_face_choices_are_parsed(text: str, choice: FaceChoice) -> None:
    assert parse_face_choice(text) == choice


def test_invalid_face_choices_are_refused(tmp_path: Path) -> None:
    for text, words in (
        ("0", "numbered from 1"),
        ("who.jpg", "not an existing picture"),
        ("left", "'left' is unknown"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_face_choice(text)
    (tmp_path / "7").write_bytes(b"x")
    assert parse_face_choice(str(tmp_path / "7")).kind == "picture"


def test_an_invalid_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="max_gap_sec is -1"):
        FacePolicy(max_gap_sec=-1)
