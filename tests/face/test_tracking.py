"""Pass 1 on difficult footage: several faces are tracked, cuts detected, people distinguished, only the speaker is planned."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from latentsync.face.align import FloatArray, FrameArray
from latentsync.face.appearance import appearance_descriptor, similarity, thumbnail
from latentsync.face.detection import landmarks
from latentsync.face.detection.detector import Box, Face, detector_problems, make_detector
from latentsync.face.detection.landmarks import LandmarkDetector
from latentsync.face.detection.pose import opening_of_landmarks, yaw_of_landmarks
from latentsync.face.detection.scenes import SceneCuts
from latentsync.face.detection.tracking import LOOK_BACK, Effort, LookBack, TrackingDetector, overlap
from latentsync.inference.faces.people import Person, find_people
from latentsync.inference.faces.plan import FacePlan, FacePolicy, plan_faces
from latentsync.inference.faces.select import FaceChoice, by_appearance, choose_face, choose_person, frame_descriptor
from latentsync.inference.faces.tracks import FaceTracks, track_faces
from tests.support.torture import (
    CUTS,
    FPS,
    FRAMES,
    SECOND_SEED,
    TortureFrame,
    draw_head,
    make_frame,
    room,
    torture_frames,
)
from tests.support.torture import Place as HeadPlace

TIMES = [index / FPS for index in range(FRAMES + 1)]


@pytest.fixture(scope="module")
def clip() -> list[TortureFrame]:
    return list(torture_frames())


@pytest.fixture(scope="module", params=["cascade", "mesh"])
def face_tracks(request: pytest.FixtureRequest, clip: list[TortureFrame]) -> FaceTracks:
    if any(problem for _, problem in detector_problems(request.param)):
        pytest.skip(f"the detector {request.param} cannot run here")
    return track_faces((shown.frame for shown in clip), make_detector(request.param))


@pytest.fixture(scope="module")
def plan(face_tracks: FaceTracks) -> FacePlan:
    return plan_faces(face_tracks, choose_face(face_tracks, FaceChoice(), TIMES), FacePolicy(), TIMES, 128)


@pytest.fixture(scope="module")
def people(face_tracks: FaceTracks) -> list[Person]:
    return find_people(face_tracks)


def test_exactly_the_cuts_are_detected(face_tracks: FaceTracks) -> None:
    assert tuple(face_tracks.cuts.tolist()) == CUTS


def test_two_people_are_found_and_every_track_shows_one_of_them(
    face_tracks: FaceTracks, people: list[Person], clip: list[TortureFrame]
) -> None:
    assert len(people) == 2
    for person, name in zip(people, ("speaker", "second"), strict=True):
        for row in np.flatnonzero(np.isin(face_tracks.track, person.tracks)):
            truth = getattr(clip[face_tracks.frame[row]], name)
            assert truth is not None and overlap(truth, tuple(face_tracks.box[row])) > 0.5


def test_only_the_speaker_is_planned_and_only_where_nobody_is_in_front(
    plan: FacePlan, clip: list[TortureFrame]
) -> None:
    for index in np.flatnonzero(plan.weight > 0):
        truth = clip[index].speaker
        assert truth is not None and overlap(truth, tuple(plan.box[index])) > 0.5
    missed = [index for index, shown in enumerate(clip) if shown.speaker_is_free and not plan.edited[index]]
    assert len(missed) <= 14  # the dark beginning, and until the speaker is found again behind the second person


def test_gaps_have_reasons_and_end_segments(plan: FacePlan, clip: list[TortureFrame]) -> None:
    actions: dict[str, set[str]] = {}
    for action, shown in zip(plan.action.tolist(), clip, strict=True):
        actions.setdefault(shown.event, set()).add(action)
    assert actions["hidden briefly"] == {"bridged"}
    assert actions["away"] == actions["cutaway"] == {"no face"}
    assert actions["second person"] == {"edit", "other person"}
    assert actions["talk"] == actions["hand"] == actions["other room"] == {"edit"}
    for segment in plan.segments:
        assert not any(segment.start < cut < segment.stop for cut in CUTS)
    assert plan.weight[89] < 1 and plan.weight[140] < 1  # fades beside the gap
    assert (
        plan.weight[154] == plan.weight[175] == plan.weight[232] == plan.weight[249] == 1
    )  # no fades at cuts and ends


def test_people_are_chosen_by_number_place_and_picture(face_tracks: FaceTracks, people: list[Person]) -> None:
    speaker, second = people
    chosen = {
        1: FaceChoice("number", number=1),
        2: FaceChoice("place", x=500, y=180, time_sec=7.2),
    }
    for person, choice in zip(people, chosen.values(), strict=True):
        assert choose_person(face_tracks, choice, TIMES).number == person.number
    assert choose_person(face_tracks, FaceChoice("center"), TIMES).number == speaker.number
    other = room(30).copy()
    draw_head(other, SECOND_SEED, HeadPlace(320, 190, 0.9), 3)
    descriptor = frame_descriptor(np.clip(other * 0.9, 0, 255).astype(np.uint8), make_detector(), "a picture")
    assert by_appearance(people, descriptor, "a picture").number == second.number
    stranger = room(31).copy()
    draw_head(stranger, 7, HeadPlace(320, 190, 0.9), 3)
    descriptor = frame_descriptor(np.clip(stranger, 0, 255).astype(np.uint8), make_detector(), "a stranger")
    with pytest.raises(ValueError, match="nobody in the video is similar to a stranger"):
        by_appearance([second], descriptor, "a stranger")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (FaceChoice("number", number=3), "the video shows 2 people"),
        (FaceChoice("place", x=30, y=30, time_sec=1.0), "no face is at 30,30 around 1 s; faces at that time: 2"),
        (FaceChoice("place", x=900, y=30, time_sec=1.0), "outside of the picture, which has 640 x 360"),
        (FaceChoice("place", x=220, y=200, time_sec=4.5), "faces at that time: none"),
    ],
)
def test_choices_that_match_nobody_are_refused(face_tracks: FaceTracks, choice: FaceChoice, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        choose_face(face_tracks, choice, TIMES)


def test_face_tracks_are_saved_and_loaded_without_loss(face_tracks: FaceTracks, tmp_path: Path) -> None:
    path = tmp_path / "faces.npz"
    face_tracks.save(path)
    again = FaceTracks.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["faces.npz"]
    with np.load(path) as stored:
        assert {"looks", "look_track"} <= set(stored)  # names in the job folders of earlier versions
    assert all(
        np.array_equal(getattr(face_tracks, n), getattr(again, n), equal_nan=n in ("opening", "jaw"))
        for n in vars(face_tracks)
    )
    again.save(tmp_path / "twice.npz")
    assert path.read_bytes() == (tmp_path / "twice.npz").read_bytes()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="faces.npz is not a file of face tracks"):
        FaceTracks.load(path)


def test_flashes_and_fades_are_not_cuts() -> None:
    cuts = SceneCuts()
    picture = make_frame(40).frame
    for index in range(30):
        flash = index in (10, 11)
        light = 0.5 + 0.5 * abs(15 - index) / 15
        cuts.update(np.full_like(picture, 250) if flash else (picture * light).astype(np.uint8))
    assert cuts.cuts == []
    assert cuts.update(make_frame(160).frame) and cuts.cuts == [30]


class SquareDetector(TrackingDetector[np.ndarray]):
    """Tracks bright squares of 20 pixels; the state of a face is its middle."""

    def search(self, frame: FrameArray, effort: Effort, known: list[Box]) -> list[np.ndarray]:
        self.searched = effort
        count, _, _, middles = cv2.connectedComponentsWithStats((frame[..., 0] > 100).astype(np.uint8))
        return [middles[index] for index in range(1, count)]

    def follow(self, frame: FrameArray, states: list[np.ndarray]) -> list[np.ndarray | None]:
        found = self.search(frame, Effort.QUICK, [])
        near = [[middle for middle in found if np.abs(middle - state).max() < 15] for state in states]
        return [middles[0] if middles else None for middles in near]

    def face(self, state: np.ndarray) -> Face:
        x, y = (float(value) for value in state)
        points = np.array([[x - 5, y - 5], [x + 5, y - 5], [x, y + 2]], np.float32)
        return Face(points, (x - 10, y - 10, x + 10, y + 10), 1.0)


def squares(*middles: int) -> FrameArray:
    frame = np.zeros((60, 300, 3), np.uint8)
    for x in middles:
        frame[20:40, x - 10 : x + 10] = 200
    return frame


def test_tracks_keep_their_numbers_and_new_faces_get_new_ones() -> None:
    detector = SquareDetector()
    first = [face.track for face in detector.faces(squares(40, 200))]
    seen = [{face.track: face.box[0] for face in detector.faces(squares(40 + 3 * i, 200 - 3 * i))} for i in range(1, 9)]
    assert sorted(first) == [0, 1] and all(set(faces) == {0, 1} for faces in seen)
    assert seen[-1][first[0]] > seen[0][first[0]]
    for _ in range(12):
        later = detector.faces(squares(64, 176, 270))
    assert [face.track for face in later] == [0, 1, 2]
    assert detector.points(squares(64, 176, 270)).track == detector.points(squares(64, 176, 270)).track
    assert detector.faces(squares()) == []
    assert sorted(face.track for face in detector.faces(squares(64, 176))) == [
        3,
        4,
    ]  # a face that returns gets a new track
    detector.reset()
    assert [face.track for face in detector.faces(squares(64))] == [0]


class LateDetector(SquareDetector):
    """Finds new faces only where it searches hard, so some frames after they appear."""

    def search(self, frame: FrameArray, effort: Effort, known: list[Box]) -> list[np.ndarray]:
        return super().search(frame, effort, known) if effort is Effort.HARD else []

    def follow(self, frame: FrameArray, states: list[np.ndarray]) -> list[np.ndarray | None]:
        found = SquareDetector.search(self, frame, Effort.HARD, [])
        near = [[middle for middle in found if np.abs(middle - state).max() < 15] for state in states]
        return [middles[0] if middles else None for middles in near]


def test_a_face_is_followed_back_to_where_it_appears() -> None:
    frames = [squares()] * 3 + [squares(40 + 4 * i) for i in range(20)]
    found = track_faces(frames, LateDetector())
    assert found.frame.tolist() == list(range(3, 23)) and set(found.track.tolist()) == {0}
    assert np.allclose(found.points[:, 2, 0], 40 + 4 * np.arange(20), atol=1)
    hidden = [squares(), squares(40), *[squares()] * 4, *[squares(40)] * 20]
    assert track_faces(hidden, LateDetector()).frame.tolist() == list(range(6, 26))  # not through frames without it
    assert track_faces([squares(40)] * 30, LateDetector()).frame.tolist() == list(range(30))


def test_faces_are_not_followed_back_over_others_or_far() -> None:
    detector = LateDetector()
    look_back = LookBack(detector)
    frames = [squares()] + [squares(40)] * 12
    (found,) = [list(look_back.add(frame)) for frame in frames][-1:]
    assert [back for back, _, faces in found if faces] == list(range(LOOK_BACK))
    assert all(face.track == 0 for _, _, faces in found for face in faces)
    assert len(look_back.held) == LOOK_BACK
    box = found[0][2][0].box
    detector.tracks[0].age = 0
    assert detector.rewind([squares(40)] * 2, [[], [box]])[-1] == []
    for _ in range(3):
        list(look_back.add(np.zeros((6000, 6000, 3), np.uint8)))
    assert len(look_back.held) == 0  # frames too large to keep


def landmarks_at(x: float, y: float, size: float = 60.0) -> FloatArray:
    """68 landmarks of a frontal face with closed lips, whose box begins at x, y."""
    spots = {17: (0.1, 0), 21: (0.4, 0), 22: (0.6, 0), 26: (0.9, 0), 30: (0.5, 0.5), 36: (0.15, 0.15), 45: (0.85, 0.15)}
    points = np.full((68, 2), 0.5)
    points[0], points[16], points[8] = (0, 0.3), (1, 0.3), (0.5, 1)
    points[17:22], points[22:27] = (0.25, 0), (0.75, 0)
    points[36:42], points[42:48] = (0.25, 0.15), (0.75, 0.15)
    points[60:68] = (0.5, 0.75)
    for index, spot in spots.items():
        points[index] = spot
    return (points * size + [x, y]).astype(np.float32)


class StubLibrary:
    """Replaces `face_alignment.FaceAlignment`: `faces` are corners of boxes; thresholds of the searches are recorded."""

    def __init__(self) -> None:
        self.faces: list[tuple[float, float]] = []
        self.least_score = 0.5
        self.searches: list[float] = []
        self.face_detector = SimpleNamespace(filter_threshold=0.5, detect_from_image=self.detect)

    def detect(self, frame: FrameArray) -> list[list[float]]:
        self.searches.append(self.face_detector.filter_threshold)
        if self.face_detector.filter_threshold > self.least_score:
            return []
        scale = frame.shape[1] / 400
        return [[scale * v for v in (x, y - 15, x + 60, y + 60)] + [0.9] for x, y in self.faces]

    def get_landmarks_from_image(self, frame: FrameArray, detected_faces: list, **_: object) -> tuple:
        found, scores = [], []
        for box in detected_faces:
            near = [face for face in self.faces if abs(face[0] - box[0]) < 30]
            found.append(landmarks_at(*(near[0] if near else box[:2])))
            scores.append(np.full(68, 0.8 if near else 0.1))
        return found, scores, detected_faces


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> StubLibrary:
    stub = StubLibrary()
    monkeypatch.setattr(landmarks, "find_weights", lambda folder: folder)
    monkeypatch.setattr(landmarks, "load_library", lambda folder, device: stub)
    return stub


def test_the_landmark_detector_tracks_several_faces_and_rarely_searches(library: StubLibrary) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (200, 400, 3), np.uint8)
    library.faces = [(40, 60), (240, 60)]
    detector = LandmarkDetector()
    for step in range(8):
        library.faces = [(40 + step, 60), (240 - step, 60)]
        faces = detector.faces(frame)
        assert [face.track for face in faces] == [0, 1]
        assert np.abs([face.points[0, 0] - face.box[0] for face in faces]).max() < 60
    assert len(library.searches) == 1
    library.faces = library.faces[1:]
    assert [face.track for face in detector.faces(frame)] == [1]


@pytest.mark.parametrize(("effort", "side"), [(Effort.QUICK, 640), (Effort.FULL, 1280), (Effort.HARD, 1920)])
def test_large_frames_are_searched_in_a_smaller_copy(library: StubLibrary, effort: Effort, side: int) -> None:
    library.faces, sides, detect = [(40, 60)], [], library.detect

    def watched(frame: FrameArray) -> list[list[float]]:
        sides.append(max(frame.shape))
        return detect(frame)

    library.face_detector.detect_from_image = watched
    library.least_score = 0.5 if effort is not Effort.HARD else 0.2
    (box,) = LandmarkDetector().boxes(np.zeros((1080, 1920, 3), np.uint8), effort)
    assert sides == [side]
    assert np.allclose(box[:4], 4.8 * np.array([40, 45, 100, 120]))  # in the frame's own pixels


def test_without_a_face_the_search_becomes_more_thorough(library: StubLibrary) -> None:
    library.faces, library.least_score = [(100, 60)], 0.3
    (face,) = LandmarkDetector().faces(np.zeros((200, 400, 3), np.uint8))
    assert library.searches == [0.5, 0.2] and library.face_detector.filter_threshold == 0.5
    assert np.allclose(face.box, (100, 60, 160, 120), atol=1)


def test_turned_heads_and_open_mouths_are_measured_from_landmarks() -> None:
    face = landmarks_at(100, 100)
    assert yaw_of_landmarks(face) == pytest.approx(0, abs=1) and opening_of_landmarks(face) == pytest.approx(0)
    turned = face.copy()
    turned[30, 0] += 15
    assert 25 < yaw_of_landmarks(turned) < 60 and yaw_of_landmarks(turned[:, :] * [1, 1]) > 0
    opened = face.copy()
    opened[[67, 66, 65], 1] += 9
    assert opening_of_landmarks(opened) == pytest.approx(9 / 32, rel=0.05)


def descriptors_of(seed: int, room_seed: int, place: HeadPlace, light: float) -> FloatArray:
    """Appearance descriptors of an avatar in some frames of one shot."""
    detector, descriptors = make_detector(), []
    for index in range(0, 9, 4):
        picture = room(room_seed).copy()
        draw_head(picture, seed, place, index)
        frame = np.clip(picture * light, 0, 255).astype(np.uint8)
        found = detector.points(frame)
        assert found is not None
        descriptors.append(appearance_descriptor(thumbnail(frame, found.points)))
    return np.stack(descriptors)


def test_a_person_is_recognised_in_another_room_size_and_light() -> None:
    seeds = (6, 9, 12, 17)  # people who look different
    first = [descriptors_of(seed, 40, HeadPlace(320, 190, 0.7), 1.0) for seed in seeds]
    again = [descriptors_of(seed, 41, HeadPlace(250, 200, 0.95), 0.8) for seed in seeds]
    table = np.array([[similarity(a, b) for b in again] for a in first])
    assert (np.argmax(table, axis=1) == np.arange(len(seeds))).all()
    assert np.diag(table).min() > 0.72
