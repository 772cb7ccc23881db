"""Pictures edited in parts: unedited pixels stay as stored, edited ones equal those of an edit of the whole picture."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.media.index.frame_index import frame_index
from latentsync.media.pixels.colour import ColourTags, rows_of, stored_frame, upright_rgb
from latentsync.media.pixels.geometry import Orientation
from latentsync.media.pixels.picture import Part, Picture, RgbPicture, StoredForm, StoredPicture, picture_of
from latentsync.media.probe import probe
from latentsync.media.video.read import read_frames, read_pictures, stored_pictures
from latentsync.media.video.write import VideoFormat, VideoWriter

UPRIGHT = Orientation()
LIMITED, FULL = ColourTags(), ColourTags(full_range=True)
CHROMA = {"yuv420p": 2, "yuv444p": 1}  # side of a cell of pixels that share a sample


def scene(width: int, height: int, shift: float = 0.0) -> np.ndarray:
    """A smooth, colourful picture."""
    y, x = np.mgrid[0:height, 0:width]
    colours = [128 + 90 * np.sin((x + shift) / 7), 128 + 90 * np.cos(y / 9), 128 + 60 * np.sin((x + y) / 11)]
    return np.stack(colours, -1).astype(np.uint8)


def stored(width: int, height: int, pixel_format: str = "yuv420p", colour: ColourTags = LIMITED) -> VideoFrame:
    return stored_frame(scene(width, height), pixel_format, colour)


def planes_of(frame: VideoFrame) -> list[np.ndarray]:
    return [rows_of(plane)[:, : plane.width].copy() for plane in frame.planes]


def as_stored(picture: Picture) -> VideoFrame:
    assert isinstance(picture, StoredPicture)
    return picture.stored


@st.composite
def sizes_and_parts(draw: st.DrawFn) -> tuple[int, int, Part]:
    width, height = 2 * draw(st.integers(4, 150)), 2 * draw(st.integers(4, 100))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    rows = slice(top, draw(st.integers(top + 1, height)))
    return width, height, (rows, slice(left, draw(st.integers(left + 1, width))))


@settings(max_examples=60, deadline=None)
@given(sizes_and_parts(), st.sampled_from(list(CHROMA)), st.sampled_from([LIMITED, FULL]))
def test_a_part_equals_that_of_the_whole_and_is_edited_alone(
    drawn: tuple[int, int, Part], pixel_format: str, colour: ColourTags
) -> None:
    width, height, part = drawn
    picture = picture_of(
        stored(width, height, pixel_format, colour), UPRIGHT, (width, height), StoredForm(pixel_format, colour)
    )
    whole, before = picture.rgb(), planes_of(as_stored(picture))
    assert np.array_equal(picture.rgb_part(part)[part], whole[part])

    def darken(frame: np.ndarray) -> None:
        assert np.array_equal(frame[part], whole[part])
        frame[part] = frame[part] // 2

    changed = picture.edited(part, darken)
    wanted = whole.copy()
    darken(wanted)
    own = planes_of(stored_frame(wanted, pixel_format, colour))
    side = CHROMA[pixel_format]
    for before_plane, after, whole_plane, cell in zip(
        before, planes_of(as_stored(changed)), own, (1, side, side), strict=True
    ):
        inside = np.zeros(after.shape, bool)
        rows, columns = (
            slice(each.start // side * side // cell, -(-each.stop // side) * side // cell) for each in part
        )
        inside[rows, columns] = True
        assert np.array_equal(after[~inside], before_plane[~inside])
        assert np.abs(after.astype(int) - whole_plane)[inside].max() <= 1
    assert all(map(np.array_equal, planes_of(as_stored(picture)), before))  # it may be shared


def test_a_part_has_the_tags_of_the_whole() -> None:
    """A small part of an untagged HD picture has the assumed matrix of HD."""
    frame = stored(1280, 720)
    frame.colorspace = 2  # unspecified
    picture = picture_of(frame, UPRIGHT, (1280, 720), StoredForm("yuv420p", LIMITED))
    part = (slice(300, 340), slice(600, 640))
    assert np.array_equal(picture.rgb_part(part)[part], picture.rgb()[part])
    same = picture.edited(part, lambda frame: None)
    assert all(
        np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(planes_of(as_stored(same)), planes_of(frame), strict=True)
    )


@pytest.mark.parametrize(
    ("pixel_format", "orientation", "size"),
    [
        ("nv12", UPRIGHT, (64, 48)),
        ("yuv420p", Orientation(0, 1, -1, 0), (64, 48)),
        ("yuv420p", UPRIGHT, (80, 60)),
    ],
)
def test_other_forms_are_edited_in_rgb(pixel_format: str, orientation: Orientation, size: tuple[int, int]) -> None:
    frame = stored(64, 48, pixel_format)
    picture = picture_of(frame, orientation, size, StoredForm(pixel_format, LIMITED))
    assert isinstance(picture, RgbPicture)
    before = upright_rgb(frame, orientation, size)
    part = (slice(3, 9), slice(5, 8))

    def blacken(frame: np.ndarray) -> None:
        frame[part] = 0

    after = picture.edited(part, blacken).rgb()
    assert np.array_equal(picture.rgb(), before)
    blacken(before)
    assert np.array_equal(after, before)


def lossless(path: Path, colour: ColourTags = LIMITED, codec: str = "auto") -> VideoFormat:
    form = VideoFormat.constant(64, 48, 25, colour=colour, codec=codec, crf=0)
    with VideoWriter(path, form) as writer:
        for shift in range(3):
            writer.write(scene(64, 48, 5.0 * shift))
    return form


@pytest.mark.parametrize("colour", [LIMITED, ColourTags(6, 6, 6)])
def test_unedited_pixels_are_written_without_a_change(tmp_path: Path, colour: ColourTags) -> None:
    lossless(tmp_path / "in.mp4", colour)
    with VideoWriter(tmp_path / "out.mp4", VideoFormat.like(probe(tmp_path / "in.mp4"), crf=0)) as writer:
        for picture in read_pictures(tmp_path / "in.mp4", writer.form):
            assert isinstance(picture, StoredPicture)
            writer.write_picture(picture)
    for one, other in zip(*(pictures(tmp_path / name) for name in ("in.mp4", "out.mp4")), strict=True):
        assert all(map(np.array_equal, one, other))


def pictures(path: Path) -> list[list[np.ndarray]]:
    index = frame_index(path)
    return [planes_of(frame) for _, frame in stored_pictures(path, index, 0, index.frame_count)]


@pytest.mark.parametrize("codec", ["ffv1", "h264"])
def test_pictures_of_another_form_are_converted(tmp_path: Path, codec: str) -> None:
    """To a lossless RGB file, and to the matrix of SD."""
    lossless(tmp_path / "in.mp4")
    form = VideoFormat.constant(64, 48, 25, colour=ColourTags(6, 6, 6), codec=codec, crf=0)
    with VideoWriter(tmp_path / "out.mp4", form) as writer:
        for kept_as in (writer.form, StoredForm("yuv420p", LIMITED)):
            for picture in read_pictures(tmp_path / "in.mp4", kept_as):
                assert picture.stored_as(writer.form) is None
                writer.write_picture(picture)
    pairs = zip(2 * list(read_frames(tmp_path / "in.mp4")), read_frames(tmp_path / "out.mp4"), strict=True)
    limit = 0 if codec == "ffv1" else 2.0
    assert all(np.abs(a.frame.astype(int) - b.frame).mean() <= limit for a, b in pairs)


def test_pictures_equal_frames(tmp_path: Path) -> None:
    lossless(tmp_path / "in.mp4")
    own, form = [shown.frame for shown in read_frames(tmp_path / "in.mp4")], StoredForm("yuv420p", LIMITED)
    assert all(map(np.array_equal, (picture.rgb() for picture in read_pictures(tmp_path / "in.mp4", form)), own))
    twice = [picture.rgb() for picture in read_pictures(tmp_path / "in.mp4", form, Fraction(50), 1, 5)]
    assert len(twice) == 4
    assert all(any(np.array_equal(picture, frame) for frame in own) for picture in twice)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_chroma_is_not_shifted(tmp_path: Path, codec: str) -> None:
    """A coloured column that is written and read again is not shifted, as it would be with a wrong chroma location."""
    frame = np.full((64, 128, 3), 120, np.uint8)
    frame[:, 60:68] = (120, 100, 250)
    with VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(128, 64, 25, codec=codec, crf=1)) as writer:
        writer.write(frame)
    (shown,) = read_frames(tmp_path / "v.mp4")

    def middle(picture: np.ndarray) -> float:
        blue = picture[32, :, 2].astype(float) - picture[32, :, 1]
        return float(np.average(np.arange(128), weights=np.clip(blue, 0, None)))

    assert abs(middle(shown.frame) - middle(frame)) < 0.1
