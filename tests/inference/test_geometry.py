"""Videos with non-square pixels, rotated or mirrored: faces are detected, aligned and pasted in the displayed picture."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.data.aligned import aligned_faces
from latentsync.face.align import (
    Smoother,
    align_matrix,
    crop_size,
    invert_matrix,
    rescaled,
    transform_points,
    warp_face,
)
from latentsync.face.detection.detector import Face, make_detector
from latentsync.face.paste import Patch
from latentsync.face.pixels import frames_to_pixels
from latentsync.inference.faces.select import choose_person, parse_face_choice
from latentsync.inference.faces.tracks import track_faces
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.inference.windows.stream import face_of, with_face
from latentsync.media.container import MediaError
from latentsync.media.index import packets
from latentsync.media.pixels.colour import rows_of
from latentsync.media.pixels.geometry import Orientation
from latentsync.media.pixels.picture import Picture, StoredPicture
from latentsync.media.probe import MediaInfo, probe
from latentsync.media.video.read import read_frames, read_pictures
from latentsync.media.video.strict_read import small_pictures
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.weights import DEFAULT_ALIGNMENT, Alignment
from tests.media.test_media import turn_track
from tests.support.tiny import make_audio, tiny_models
from tests.support.whole_runs import FAST, changed_region

DEMO_VIDEO = Path(__file__).parents[2] / "assets" / "demo_video.mp4"
ASPECTS = [Fraction(1), Fraction(4, 3), Fraction(64, 45), Fraction(2), Fraction(9, 16), Fraction(8, 9)]
UPRIGHT = Orientation()
ORIENTATIONS = {
    "upright": UPRIGHT,
    "turned by 90": Orientation(0, -1, 1, 0),
    "turned by 180": Orientation(-1, 0, 0, -1),
    "turned by 270": Orientation(0, 1, -1, 0),
    "mirrored": Orientation(-1, 0, 0, 1),
    "mirrored, by 90": Orientation(0, 1, 1, 0),
    "mirrored, by 180": Orientation(1, 0, 0, -1),
    "mirrored, by 270": Orientation(0, -1, -1, 0),
}
LOSSLESS_MP4 = JobOptions(codec="ffv1")

SIZE = np.array([288, 256])  # w, h of the drawn picture
POINTS = np.array([[116, 96], [178, 96], [147, 130]], np.float32)  # brows and nose in it
MOUTH = np.array([147.0, 165.0])
FACE_PX = 120
RESOLUTION = 128
MARK_PX = 7  # radius of the marks on the aligned face


def drawn() -> np.ndarray:
    """A frame of smooth colours with a blue mouth, uint8 h w 3."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    smooth = [128 + 60 * np.sin((x + 2 * y) / 23), 128 + 60 * np.cos((2 * x - y) / 29), 40 + 0 * x]
    picture = np.stack(smooth, -1).astype(np.uint8)
    return np.asarray(cv2.ellipse(picture, (147, 165), (24, 10), 0, 0, 360, (60, 60, 250), -1, cv2.LINE_AA), np.uint8)


def write_stored(
    path: Path, frames: Sequence[np.ndarray], aspect: Fraction, orientation: Orientation, crf: int = 2
) -> MediaInfo:
    """Write upright frames of square pixels with pixel aspect `aspect`, rotated so that `orientation` turns them upright."""
    stored = [squeezed(rotated_back(frame, orientation), aspect) for frame in frames]
    height, width = stored[0].shape[:2]
    with VideoWriter(path, VideoFormat.constant(width, height, 25, sample_aspect=aspect, crf=crf)) as writer:
        for frame in stored:
            writer.write(frame)
    turn_track(path, (orientation.a, orientation.b, orientation.c, orientation.d))
    return probe(path)


def rotated_back(frame: np.ndarray, orientation: Orientation) -> np.ndarray:
    """The stored frame that `orientation` turns into `frame`."""
    where = np.arange(frame.shape[0] * frame.shape[1]).reshape(*frame.shape[:2], 1)
    shape = frame.shape[1::-1] if orientation.turned else frame.shape[:2]
    start = np.arange(where.size).reshape(*shape, 1)
    stored = np.empty((where.size, 3), np.uint8)
    stored[orientation.apply(start).ravel()] = frame.reshape(-1, 3)
    return stored.reshape(*shape, 3)


def squeezed(frame: np.ndarray, aspect: Fraction) -> np.ndarray:
    height, width = frame.shape[:2]
    size = (2 * round(width / aspect / 2), height) if aspect > 1 else (width, 2 * round(height * aspect / 2))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


class DrawnFace:
    """A detector that returns the face of `drawn` at any size of the frame."""

    alignment: Alignment = DEFAULT_ALIGNMENT

    def faces(self, frame: np.ndarray) -> list[Face]:
        ratio = frame.shape[1::-1] / SIZE
        x, y = (MOUTH * ratio).tolist()
        half = FACE_PX / 2
        return [Face((POINTS * ratio).astype(np.float32), (x - half, y - 2 * half, x + half, y + half), 1.0)]

    def points(self, frame: np.ndarray) -> Face | None:
        return self.faces(frame)[0]

    def reset(self) -> None:
        """There is no state."""


def middle_of(weight: np.ndarray) -> np.ndarray:
    """The centre of mass x, y of a weight h w."""
    y, x = np.mgrid[0 : weight.shape[0], 0 : weight.shape[1]]
    return np.array([np.average(x, weights=weight), np.average(y, weights=weight)])


def blue_middle(frame: np.ndarray) -> np.ndarray:
    return middle_of(np.clip(frame[..., 2].astype(float) - 120, 0, None))


def all_stored(picture: Picture) -> list[np.ndarray]:
    """The stored planes of a picture, or its RGB values."""
    if isinstance(picture, StoredPicture):
        return [rows_of(plane)[:, : plane.width].copy() for plane in picture.stored.planes]
    return [picture.rgb()]


@pytest.mark.parametrize("aspect", ASPECTS, ids=str)
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=list(ORIENTATIONS))
def test_a_face_is_aligned_and_pasted_at_its_displayed_position(
    tmp_path: Path, aspect: Fraction, orientation: Orientation
) -> None:
    original, path = drawn(), tmp_path / "v.mp4"
    info = write_stored(path, [original], aspect, orientation)
    assert np.abs(np.array(info.square_size) - SIZE).max() <= 1
    assert (info.width, info.height) != tuple(SIZE) or aspect == 1

    (shown,) = read_frames(path)
    assert shown.frame.shape[1::-1] == info.square_size
    own, matrix = (align_matrix(DrawnFace().faces(frame)[0].points, RESOLUTION) for frame in (original, shown.frame))
    of_picture = rescaled(matrix, info.square_scale).astype(np.float32)
    (picture,) = read_pictures(path, VideoFormat.like(info).encoding(".mp4")[1])
    assert picture.height_width == (info.height, info.width)
    assert isinstance(picture, StoredPicture) == (orientation == UPRIGHT)

    # the aligned face equals that of the square original
    wanted = warp_face(original, own, RESOLUTION)
    face = face_of(picture, of_picture, RESOLUTION)
    one_percent = 0.01 * FACE_PX * own[0, 0] * RESOLUTION / np.array(crop_size(RESOLUTION))
    for found in (face, warp_face(shown.frame, matrix, RESOLUTION)):
        assert np.abs(found.astype(int) - wanted).mean() < 3
        assert (np.abs(blue_middle(found) - blue_middle(wanted)) < one_percent).all()

    # an edited mouth is pasted at the same place, and nothing else changes
    before = frames_to_pixels(face)
    after, (x, y) = before.clone(), blue_middle(wanted).round().astype(int)
    after[:, y - MARK_PX : y + MARK_PX + 1, x - MARK_PX : x + MARK_PX + 1] = 1.0
    pasted = with_face(picture, after, before, of_picture, 1.0)
    change = np.abs(pasted.rgb().astype(float) - picture.rgb())
    middle = (middle_of(change.sum(-1)) + 0.5) * info.square_scale / info.square_size * SIZE - 0.5
    assert np.abs(middle - MOUTH).max() < 0.01 * FACE_PX
    patch = Patch.of(picture.height_width, after, of_picture, before)
    assert patch is not None
    for old, new in zip(all_stored(picture), all_stored(pasted), strict=True):
        outside, cell = np.ones(old.shape, bool), info.height // old.shape[0]
        outside[tuple(slice(side.start // cell, -(-side.stop // cell)) for side in patch.region)] = False
        assert np.array_equal(old[outside], new[outside]) and not np.array_equal(old, new)


@pytest.mark.parametrize(
    ("aspect", "name"),
    [(Fraction(2), "upright"), (Fraction(9, 16), "upright"), (Fraction(64, 45), "mirrored, by 90")],
    ids=str,
)
def test_a_job_edits_the_same_place(tmp_path: Path, aspect: Fraction, name: str) -> None:
    """A whole lossless job: the changed pixels are those of the square original; all others equal the source."""
    pipeline, audio = LipsyncPipeline(tiny_models(), DrawnFace()), make_audio(tmp_path / "a.wav", 0.16)
    places = []
    for kind, orientation in ((Fraction(1), UPRIGHT), (aspect, ORIENTATIONS[name])):
        video, output = tmp_path / f"{kind.numerator}.mp4", tmp_path / f"o{kind.numerator}.mp4"
        info = write_stored(video, [drawn()] * 4, kind, orientation)
        report = pipeline(video, audio, output, FAST, LOSSLESS_MP4)
        made = probe(output)
        assert report.synced_frames == 4 and (report.width, report.height) == (info.width, info.height)
        assert (made.width, made.height, made.sample_aspect) == (info.width, info.height, info.sample_aspect)
        assert np.array_equal(report.per_frame[0].box, DrawnFace().faces(np.empty(info.square_size[::-1]))[0].box)
        for before, after in zip(*(stored_rgb(path) for path in (video, output)), strict=True):
            x0, y0, x1, y1 = changed_region(before, after) or (0, 0, 0, 0)
            scale = np.array([x1 - x0, y1 - y0, x0 + x1, y0 + y1]) * (2 * info.square_scale) / (2 * info.square_size)
            places.append(scale * [*SIZE, *SIZE])
    square, *others = places[0], *places[4:]
    assert square[0] > FACE_PX / 2
    assert all(np.abs(place - square).max() < 6 for place in others)  # a pixel on each side, which may be 2 wide


def stored_rgb(path: Path) -> list[np.ndarray]:
    """The frames of a file, upright, with their stored pixels."""
    form = VideoFormat.like(probe(path)).encoding(".mp4")[1]
    return [picture.rgb() for picture in read_pictures(path, form)]


@pytest.fixture(scope="module")
def demo() -> list[np.ndarray]:
    return [shown.frame for shown in read_frames(DEMO_VIDEO, 0, 8)]


def mouths(path: Path) -> np.ndarray:
    """Position of the mouth in each frame by a detector, relative to the size of the frame."""
    detector, smoother, found = make_detector(), Smoother(), []
    for shown in read_frames(path, exact=False):
        face = detector.points(shown.frame)
        assert face is not None
        crop = np.array([crop_size(256)]) * [0.5, 0.72]
        place = transform_points(invert_matrix(align_matrix(face.points, 256, smoother)), crop)[0]
        found.append(place / shown.frame.shape[1::-1])
    return np.array(found)


@pytest.mark.parametrize(
    ("aspect", "name"),
    [
        (Fraction(4, 3), "upright"),
        (Fraction(2), "turned by 90"),
        (Fraction(9, 16), "upright"),
        (Fraction(64, 45), "mirrored"),
    ],
    ids=str,
)
def test_a_detector_finds_the_mouth_at_the_same_place_as_with_square_pixels(
    tmp_path: Path, demo: list[np.ndarray], aspect: Fraction, name: str
) -> None:
    write_stored(tmp_path / "square.mp4", demo, Fraction(1), UPRIGHT)
    write_stored(tmp_path / "v.mp4", demo, aspect, ORIENTATIONS[name])
    away = np.linalg.norm(mouths(tmp_path / "v.mp4") - mouths(tmp_path / "square.mp4"), axis=1) * demo[0].shape[1]
    # of a face 140 px wide; the jitter of the detector, also with square pixels, is 1 to 3 %
    assert away.mean() < 0.05 * 140


def test_a_face_is_chosen_by_its_displayed_position(tmp_path: Path, demo: list[np.ndarray]) -> None:
    """Two people in a video of pixel aspect 2:1: the second is beyond the stored width."""
    pairs = [np.concatenate([frame, frame[:, ::-1]], axis=1) for frame in demo[:4]]
    info = write_stored(tmp_path / "v.mp4", pairs, Fraction(2), UPRIGHT)
    height, width = pairs[0].shape[:2]
    assert (info.width, info.square_size) == (width // 2, (width, height))
    face_tracks = track_faces((shown.frame for shown in read_frames(tmp_path / "v.mp4", exact=False)), make_detector())
    times = [index / 25 for index in range(5)]
    for x in (width / 4, 3 * width / 4):
        person = choose_person(face_tracks, parse_face_choice(f"{x:g},{0.55 * height:g}@0.08"), times)
        assert person is not None
        boxes = face_tracks.box[np.isin(face_tracks.track, person.tracks)]
        assert np.abs(boxes[:, [0, 2]].mean(axis=1) - x).max() < 30
    with pytest.raises(ValueError, match=f"{width} x {height}"):
        choose_person(face_tracks, parse_face_choice(f"{width + 20},180@0.08"), times)


def test_aligned_training_faces_have_the_right_proportions(tmp_path: Path, demo: list[np.ndarray]) -> None:
    write_stored(tmp_path / "square.mp4", demo[:3], Fraction(1), UPRIGHT)
    write_stored(tmp_path / "v.mp4", demo[:3], Fraction(4, 3), ORIENTATIONS["turned by 270"])
    pairs = zip(
        *(aligned_faces(tmp_path / f"{name}.mp4", make_detector(), 128) for name in ("square", "v")), strict=True
    )
    assert np.mean([np.abs(one.astype(int) - other).mean() for one, other in pairs]) < 12
    (small, *_) = small_pictures(tmp_path / "v.mp4", 25, 80)
    assert small.pixels.shape == (80, 80, 3)


@pytest.mark.parametrize(("stated", "taken"), [(Fraction(1, 1000), 1), (Fraction(1000), 1), (Fraction(32, 11), None)])
def test_implausible_pixel_aspects_are_ignored(tmp_path: Path, stated: Fraction, taken: int | None) -> None:
    with VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(64, 48, 25, sample_aspect=stated)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    info = probe(tmp_path / "v.mp4")
    assert info.sample_aspect == (taken or stated)
    assert info.square_size == ((64, 48) if taken else (186, 48))
    assert next(read_frames(tmp_path / "v.mp4")).frame.shape[1::-1] == info.square_size


def test_nearly_square_pixels_are_not_resampled(tmp_path: Path) -> None:
    """Ratios like 1215:1216 come from cropping."""
    for aspect in (Fraction(1215, 1216), Fraction(1216, 1215)):
        with VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(64, 48, 25, sample_aspect=aspect)) as writer:
            writer.write(drawn()[:48, :64])
        info = probe(tmp_path / "v.mp4")
        assert info.sample_aspect == aspect and info.square_size == (64, 48) and info.square_scale == (1, 1)


def test_frames_that_are_too_large_when_displayed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "MAX_PIXELS", 2 * 64 * 48)
    with VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(64, 48, 25, sample_aspect=Fraction(5, 2))) as writer:
        writer.write(drawn()[:48, :64])
    with pytest.raises(MediaError, match="megapixels as shown"):
        probe(tmp_path / "v.mp4")
