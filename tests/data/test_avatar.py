"""Avatars: a clip is determined by its seed, its truth agrees with its pixels, and detectors for people detect it."""

import json
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="avatars need the optional espeak-ng")

from latentsync.avatar import OCCLUDERS, OccluderKind
from latentsync.avatar.clip import (
    HELD_OUT_FIRST_SEED,
    LANDMARKS,
    AvatarClip,
    make_clip,
    random_clip,
    random_part,
    read_masks,
)
from latentsync.avatar.head import Expression
from latentsync.avatar.identity import Identity, random_identity
from latentsync.avatar.mesh import bump
from latentsync.avatar.mouth import mouth_track, targets_of
from latentsync.avatar.occluders import surface
from latentsync.avatar.raster import to_srgb
from latentsync.avatar.render import Pose, Renderer
from latentsync.avatar.sound.sentences import is_held_out
from latentsync.avatar.sound.speech import Phoneme
from latentsync.face.align import align_matrix, warp_face
from latentsync.face.detection.detector import detector_problems, make_detector
from latentsync.face.detection.landmarks import points_from_landmarks
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.timebase import samples_of_frames
from latentsync.weights import DEFAULT_ALIGNMENT

needs_mesh = pytest.mark.skipif(
    any(problem for _, problem in detector_problems("mesh")), reason="the set `faces` is not downloaded"
)
needs_cascades = pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="OpenCV 5 has no cascades")

JAW, BROWS, NOSE, EYES, LIPS, INNER = (
    slice(0, 17),
    slice(17, 27),
    slice(27, 36),
    slice(36, 48),
    slice(48, 60),
    slice(60, 68),
)
REST = Expression(aperture=0.0, width=0.0, teeth=0.3, tongue=0.2, tuck=0.0)
OPEN = replace(REST, aperture=1.0)


def frames_of(clip: AvatarClip, count: int) -> list[np.ndarray]:
    return list(islice(clip.frames(), count))


def person(**changes: object) -> Identity:
    """A bald person in even light, without beard, glasses and make-up unless they are among the changes."""
    plain = {"hair_style": "bald", "beard": "none", "glasses": False, "make_up": 0.0, "light_angle": 0.3, "age": 0.2}
    return replace(random_identity(np.random.default_rng(4)), **(plain | changes))  # type: ignore[arg-type]


@lru_cache(maxsize=2)
def renderer_of(identity: Identity) -> Renderer:
    return Renderer(identity)


def drawn(identity: Identity, expression: Expression = REST, pose: Pose = Pose()) -> np.ndarray:  # noqa: B008
    """A picture of a person in front of grey, float32 [256, 256, 3]."""
    colour, alpha, _ = renderer_of(identity).draw(expression, pose)
    return to_srgb(colour + 0.2 * (1 - alpha[..., None]))


def marks(identity: Identity, expression: Expression = REST, pose: Pose = Pose()) -> np.ndarray:  # noqa: B008
    """The 68 landmarks of the same picture."""
    head = renderer_of(identity).head
    skin, cells = head.pose(expression), head.landmark_cells()
    rows, columns = np.concatenate([cells[name] for name in LANDMARKS]).T
    return pose.project(pose.place(skin[rows, columns]))[:, :2]


def level(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Grey level at points [n, 2] in px."""
    grey = picture.mean(axis=2).astype(np.float32)
    x, y = points.astype(np.float32).T
    return cv2.remap(grey, x[None], y[None], cv2.INTER_LINEAR)[0]


# --- clips -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [11, 2])  # the second has a breathy voice
def test_a_clip_is_determined_by_its_seed(seed: int) -> None:
    first, second, other = random_clip(seed), random_clip(seed), random_clip(12)
    assert first.sentence == second.sentence and np.array_equal(first.waveform, second.waveform)
    assert all(np.array_equal(a, b) for a, b in zip(frames_of(first, 2), frames_of(second, 2), strict=True))
    assert first.truth() == second.truth()
    assert first.identity != other.identity


def test_held_out_sentences_never_occur_in_training() -> None:
    assert not any(is_held_out(random_clip(seed).sentence) for seed in range(5))
    assert all(is_held_out(random_clip(HELD_OUT_FIRST_SEED + seed).sentence) for seed in range(5))


def test_audio_and_video_have_the_same_duration() -> None:
    clip = random_clip(3)
    assert len(clip.waveform) == samples_of_frames(len(clip))
    assert abs(len(clip) / 25 - clip.speech.duration_sec) <= 0.02 + 1e-6


def test_a_part_of_a_clip_is_what_the_whole_clip_shows_and_says_there() -> None:
    clip = random_clip(3)
    part = random_part(clip, 20)
    start = next(n for n in range(len(clip)) if np.array_equal(part.mouth.aperture, clip.mouth.aperture[n : n + 20]))
    samples = slice(samples_of_frames(start), samples_of_frames(start + 20))
    assert len(part) == 20 and np.array_equal(part.waveform, clip.waveform[samples])
    assert np.allclose(part.landmarks(7), clip.landmarks(start + 7))
    spoken = [p.symbol for p in clip.speech.phonemes if p.end_sec > start / 25 and p.start_sec < (start + 20) / 25]
    assert [p.symbol for p in part.speech.phonemes] == spoken
    assert part.speech.phonemes[0].start_sec >= 0 and part.speech.phonemes[-1].end_sec <= 20 / 25 + 1e-9
    assert random_part(clip, len(clip)) is clip
    assert random_part(clip, 20).truth() == part.truth()


def test_the_truth_has_a_value_for_every_frame() -> None:
    clip = random_clip(3)
    truth = json.loads(json.dumps(clip.truth()))
    assert np.array(truth["landmarks"]).shape == (len(clip), 68, 2)
    assert all(len(values) == len(clip) for values in (truth["aperture_px"], truth["width"], *truth["pose"].values()))
    inner = np.array(truth["landmarks"])[:, [62, 66]]
    assert np.allclose(np.linalg.norm(inner[:, 0] - inner[:, 1], axis=1), truth["aperture_px"], atol=0.02)
    assert clip.opening_px(7) == pytest.approx(truth["aperture_px"][7], abs=1e-3)
    assert "occluder" not in truth and replace(clip, occluder="cup").truth()["occluder"] == "cup"


def test_a_larger_clip_shows_the_same() -> None:
    clip = random_clip(3)
    small, large = next(clip.frames()), next(replace(clip, size=512).frames())
    shrunk = cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)
    assert (
        large.shape == (512, 512, 3) and np.abs(shrunk[64:224, 64:192].astype(float) - small[64:224, 64:192]).mean() < 8
    )


# --- mouth -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["p", "b", "m"])
def test_bilabials_close_the_lips_between_open_vowels(symbol: str) -> None:
    phonemes = [Phoneme("a", 0.0, 0.3), Phoneme(symbol, 0.3, 0.42), Phoneme("a", 0.42, 0.8)]
    track = mouth_track(phonemes, 20)
    assert track.aperture[8:10].min() < 0.05 < 0.5 < track.aperture[4] and track.aperture[14] > 0.5


def test_rounded_vowels_narrow_the_mouth_and_stress_marks_change_nothing() -> None:
    rounded, spread = (mouth_track([Phoneme(symbol, 0.0, 0.6)], 15).width[7] for symbol in ("u:", "i:"))
    assert rounded < -0.5 < 0.5 < spread
    assert targets_of("'aI") == targets_of("aI")


@pytest.mark.slow
@needs_mesh
def test_mouth_openings_that_are_read_agree_with_the_truth() -> None:
    scores = []
    for seed in range(200, 206):
        clip = random_clip(seed)
        marked = (points_from_landmarks(clip.landmarks(i), 1.0, DEFAULT_ALIGNMENT) for i in range(len(clip)))
        faces = [
            warp_face(f, align_matrix(p, 128), 128)
            for f, p in zip(clip.frames(), (m.points for m in marked), strict=True)
        ]
        truth = np.array([clip.opening_px(index) for index in range(len(clip))])
        scores.append(correlation(read_lips(np.stack(faces)), truth))
    assert np.mean(scores) >= 0.93 and min(scores) >= 0.86, scores


def test_the_dark_mouth_opens_between_the_inner_lips() -> None:
    points, picture = marks(person(), OPEN), drawn(person(), OPEN)
    upper, lower = points[INNER][2], points[INNER][6]
    opening = np.linalg.norm(lower - upper)
    inside = level(picture, upper + np.linspace(0.35, 0.6, 5)[:, None] * (lower - upper))  # below are teeth and tongue
    outside = level(picture, np.stack([upper - [0, 2], lower + [0, 2]]))
    assert opening > 10 and inside.max() < 0.5 * outside.min()
    closed = marks(person(), REST)[INNER]
    assert np.linalg.norm(closed[2] - closed[6]) < 0.01


def test_the_jaw_goes_down_with_the_mouth_and_the_forehead_does_not() -> None:
    moved = marks(person(), OPEN) - marks(person(), REST)
    chin, opening = moved[JAW][8], moved[INNER][6] - moved[INNER][2]
    assert chin[1] > 0.35 * opening[1] > 0 and moved[LIPS][9][1] > moved[LIPS][3][1]
    assert max(np.abs(moved[part]).max() for part in (BROWS, NOSE, EYES)) < 0.5
    change = np.abs(drawn(person(), OPEN) - drawn(person(), REST)).max(axis=2)
    assert change[: int(marks(person())[27, 1])].max() < 1 and change[180:].max() > 20


# --- faces -------------------------------------------------------------------------------------------------------------


def test_the_corners_of_the_eyes_lie_at_the_slit_between_the_lids() -> None:
    """The white of the eye is seen between the lids' landmarks, and only skin when the eye is shut."""
    points, open_eye, shut_eye = marks(person()), drawn(person()), drawn(person(), replace(REST, blink=1.0))
    for first in (36, 42):
        lids = points[first : first + 6]
        box = np.ceil(lids.min(axis=0)).astype(int), np.floor(lids.max(axis=0)).astype(int)
        changed = np.abs(open_eye - shut_eye).max(axis=2) > 12
        rows, columns = np.nonzero(changed[box[0][1] - 12 : box[1][1] + 12, box[0][0] - 12 : box[1][0] + 12])
        found = columns.min() + box[0][0] - 12, columns.max() + box[0][0] - 12
        assert abs(found[0] - lids[:, 0].min()) < 4 and abs(found[1] - lids[:, 0].max()) < 4
        assert rows.max() - rows.min() > 3


def test_the_68_points_are_in_the_usual_order() -> None:
    points = marks(person())
    assert (np.diff(points[JAW][:, 0]) > 0).all() and (np.diff(points[BROWS][:, 0]) > 0).all()
    assert points[JAW][8, 1] == pytest.approx(points[:, 1].max(), abs=1) and (np.diff(points[NOSE][:4, 1]) > 0).all()
    left, right = points[EYES][:6], points[EYES][6:]
    for eye in (left, right):
        assert eye[0, 0] < eye[1, 0] < eye[2, 0] < eye[3, 0] and eye[[1, 2], 1].max() < eye[[4, 5], 1].min()
    assert left[:, 0].max() < points[NOSE][0, 0] < right[:, 0].min()
    assert points[LIPS][0, 0] <= points[INNER][0, 0] < points[INNER][4, 0] <= points[LIPS][6, 0]
    assert points[LIPS][3, 1] < points[INNER][2, 1] <= points[INNER][6, 1] < points[LIPS][9, 1]


def test_a_head_turned_to_the_right_shows_its_nose_further_right() -> None:
    def nose_right_of_eyes(yaw: float) -> float:
        points = marks(person(), pose=Pose(yaw=yaw))
        return float(points[30, 0] - points[EYES][:, 0].mean())

    assert nose_right_of_eyes(-0.3) < -5 < abs(nose_right_of_eyes(0.0)) + 4 < 9 < nose_right_of_eyes(0.3) + 4
    down = marks(person(), pose=Pose(pitch=0.2))[30, 1] - marks(person())[30, 1]
    clockwise = marks(person(), pose=Pose(roll=0.2))
    assert down > 3 and clockwise[45, 1] > clockwise[36, 1] + 5


def test_glasses_and_beard_appear_only_when_set() -> None:
    plain = drawn(person())
    lower, upper = np.s_[150:200, 100:156], np.s_[90:125, 80:176]
    for changes, here, elsewhere in (({"glasses": True}, upper, lower), ({"beard": "full"}, lower, upper)):
        change = np.abs(drawn(person(**changes)) - plain).max(axis=2)
        assert (change[here] > 15).mean() > 0.05 and (change[elsewhere] > 15).mean() < 0.01, changes


def test_light_comes_from_its_side() -> None:
    from_right, from_left = (drawn(person(light_angle=angle, light_strength=1.0)) for angle in (1.0, -1.0))
    left, right = np.s_[130:170, 85:110], np.s_[130:170, 146:171]
    assert from_right[right].mean() > 1.15 * from_right[left].mean()
    assert from_left[left].mean() > 1.15 * from_left[right].mean()


@pytest.fixture(scope="module")
def detected() -> list[tuple[AvatarClip, int, np.ndarray | None]]:
    """Sampled frames of several people, and the three points that the cascade finds in them."""
    found: list[tuple[AvatarClip, int, np.ndarray | None]] = []
    for seed in range(500, 520):
        clip = random_clip(seed)
        for index in range(0, 60, 20):
            face = make_detector("cascade").points(picture_of(clip, index))
            found.append((clip, index, None if face is None else face.points))
    return found


def picture_of(clip: AvatarClip, index: int) -> np.ndarray:
    """One frame of a clip in front of grey."""
    colour, alpha, _ = clip.renderer.draw(clip.expression(index), clip.pose(index))
    return to_srgb(colour + 0.3 * (1 - alpha[..., None])).clip(0, 255).astype(np.uint8)


@needs_cascades
def test_a_detector_for_people_finds_the_face_and_both_eyes(
    detected: list[tuple[AvatarClip, int, np.ndarray | None]],
) -> None:
    assert np.mean([points is not None for _, _, points in detected]) >= 0.98


@needs_cascades
def test_detected_brows_lie_where_the_truth_has_them(detected: list[tuple[AvatarClip, int, np.ndarray | None]]) -> None:
    """The cascade derives them from the eyes by average proportions."""
    errors = []
    for clip, index, points in detected:
        if points is not None:
            truth = clip.landmarks(index)
            known = points_from_landmarks(truth, 1.0).points
            off = (points - known)[:2] / np.ptp(truth[JAW][:, 0])
            errors.append([*np.linalg.norm(off, axis=1), np.linalg.norm(off.mean(axis=0))])
    left, right, middle = np.median(errors, axis=0)
    assert middle < 0.03 and max(left, right) < 0.05, (left, right, middle)


# --- occluders ---------------------------------------------------------------------------------------------------------


def shortened(clip: AvatarClip, count: int) -> AvatarClip:
    """The first frames of a clip."""
    return replace(clip, mouth=replace(clip.mouth, **{name: track[:count] for name, track in vars(clip.mouth).items()}))


@pytest.mark.parametrize("kind", OCCLUDERS)
def test_an_occluder_comes_to_the_mouth_and_its_mask_is_exact(kind: OccluderKind) -> None:
    clip = shortened(random_clip(3), 26)
    covered = []
    for index, (plain, (frame, mask)) in enumerate(
        zip(clip.frames(), replace(clip, occluder=kind).frames_and_masks(), strict=True)
    ):
        assert mask.shape == frame.shape[:2] and set(np.unique(mask)) <= {0, 0.25, 0.5, 0.75, 1}
        changed = (plain != frame).any(axis=2)
        assert not changed[mask == 0].any()
        assert mask.max() == 0 or changed[mask == 1].mean() > 0.85  # the rest has its colour by chance
        lips = cv2.convexHull(clip.landmarks(index)[LIPS].astype(np.float32)).astype(np.int32)
        covered.append(mask[cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), lips, 1) > 0].mean())
    assert min(covered) < 0.05 and max(covered) > 0.3, covered


def test_the_masks_are_written_beside_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentsync.avatar import clip as clips

    short = shortened(random_clip(3), 4)
    monkeypatch.setattr(clips, "random_clip", lambda seed: short)
    video = make_clip(3, tmp_path, "hand")
    drawn_masks = np.stack([mask for _, mask in replace(short, occluder="hand").frames_and_masks()])
    assert np.array_equal(read_masks(video), drawn_masks)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".mp4", ".npz"]
    assert make_clip(3, tmp_path, "hand") == video
    with pytest.raises(ValueError, match="another occluder"):
        make_clip(3, tmp_path)


def test_a_surface_encloses_the_inside() -> None:
    """Of a ball: its volume and its area, from triangles that all look outwards."""
    points, triangles = surface(lambda at: np.linalg.norm(at, axis=1) - 2.0, np.full(3, -2.5), np.full(3, 2.5), 0.2)
    a, b, c = points[triangles].transpose(1, 0, 2).astype(np.float64)
    cross = np.cross(b - a, c - a)
    assert (a * cross).sum() / 6 == pytest.approx(4 / 3 * np.pi * 8, rel=0.03)
    assert np.linalg.norm(cross, axis=1).sum() / 2 == pytest.approx(4 * np.pi * 4, rel=0.03)
    assert ((a * cross).sum(axis=1) > 0).all()


def test_a_bump_is_one_in_its_middle() -> None:
    x = np.array([0.0, 1.5])
    assert np.allclose(bump(x, np.zeros(2), 1.5, 1.0), [1.0, np.exp(-1)])
