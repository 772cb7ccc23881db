"""Interlaced videos: deinterlaced wherever they are read, or kept with their flags."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.inference.jobs import render
from latentsync.inference.jobs.job import check_job
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.media.index.frame_index import frame_index
from latentsync.media.pixels.filters import fields_flagged
from latentsync.media.pixels.interlace import field_order
from latentsync.media.probe import probe
from latentsync.media.video.read import frames_between, read_frames, read_pictures, stored_pictures
from latentsync.media.video.strict_read import small_pictures
from latentsync.media.video.write import VideoFormat
from tests.media.test_media import turn_track
from tests.support.tiny import StubDetector, make_audio, scene, tiny_models
from tests.support.whole_runs import FAST

COUNT = 20
FLAGS = {"flags": "+ildct+ilme"}
KINDS: dict[str, dict] = {
    "h264.mp4": {"options": {**FLAGS, "crf": "4"}},
    "h264.ts": {"options": {**FLAGS, "crf": "4"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {**FLAGS, "b": "8M"}},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le", "options": FLAGS},
    "dv.avi": {"codec": "ffv1", "pixels": "yuv411p"},
}


def moment(index: int) -> np.ndarray:
    """A moving scene with edges, at one of the two moments of a frame."""
    picture = scene(index // 2)
    picture[::, 90 + index % 12 :: 24] = 220
    return np.roll(picture, round(6 * np.sin(index / 2)), 1)


def woven(index: int, order: str = "tff") -> np.ndarray:
    first, second = moment(2 * index), moment(2 * index + 1)
    picture = first.copy()
    odd = 1 if order == "tff" else 0
    picture[odd::2] = second[odd::2]
    return picture


def store(
    path: Path,
    pictures: Sequence[np.ndarray],
    flags: Sequence[str],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Pictures at 25 a second, each flagged by its entry of `flags`: `tff`, `bff` or nothing."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        for index, (picture, flag) in enumerate(zip(pictures, flags, strict=True)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame = fields_flagged(frame, flag) if flag else frame
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def interlaced(path: Path, order: str = "tff", **kind: object) -> Path:
    return store(path, [woven(index, order) for index in range(COUNT)], COUNT * [order], **kind)  # type: ignore[arg-type]


def combs(frame: np.ndarray) -> float:
    """Difference of lines from their neighbours over that from the next lines of their field."""
    luma = frame.astype(int).sum(-1)
    near, far = (luma[4:-4] * 2 - np.roll(luma, step, 0)[4:-4] - np.roll(luma, -step, 0)[4:-4] for step in (1, 2))
    return float(np.abs(near).mean() / np.abs(far).mean())


LIMIT = 1.6 * max(combs(moment(index)) for index in range(2 * COUNT))  # of progressive pictures, coded by any codec


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_frames_show_no_combing_and_do_not_depend_on_where_reading_begins(tmp_path: Path, kind: str) -> None:
    path = interlaced(tmp_path / kind, **KINDS[kind])
    assert combs(woven(7)) > 5 * LIMIT
    assert probe(path).fields == "flagged" and probe(path).frame_count == COUNT
    whole = [shown.frame for shown in read_frames(path)]
    assert len(whole) == COUNT and max(map(combs, whole)) < LIMIT
    assert np.mean([combs(shown.frame) for shown in read_frames(path, interlaced="keep")]) > 2 * LIMIT
    for start, stop in ((0, 1), (1, 3), (7, 12), (12, 13), (COUNT - 2, COUNT), (COUNT - 1, COUNT)):
        part = [shown.frame for shown in read_frames(path, start, stop)]
        assert len(part) == stop - start and all(map(np.array_equal, part, whole[start:stop]))
    (clocked,) = frames_between(path, 25, 9, 10)
    assert np.array_equal(clocked.frame, whole[9])
    _, form = VideoFormat.like(probe(path)).encoding(".mkv")
    (picture,) = read_pictures(path, form, start_frame=5, stop_frame=6)
    assert combs(picture.rgb()) < LIMIT


def test_the_strict_reader_deinterlaces_too(tmp_path: Path) -> None:
    path = interlaced(tmp_path / "v.mp4", **KINDS["h264.mp4"])
    small = [picture.pixels for picture in small_pictures(path, 25, 128)]
    assert all(map(np.array_equal, small, (shown.frame for shown in read_frames(path))))


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_the_first_field_is_shown(tmp_path: Path, order: str) -> None:
    """The frame shows the earlier of both fields, whether it is the top or the bottom one."""
    path = interlaced(tmp_path / "v.mp4", order, options={**FLAGS, "crf": "4"})
    assert probe(path).field_order == order
    for index, shown in enumerate(read_frames(path)):
        if 0 < index < COUNT - 1:
            first, second = (np.abs(shown.frame.astype(int) - moment(2 * index + late)).mean() for late in (0, 1))
            assert first < second


@pytest.mark.parametrize("first_interlaced", [0, 8])
def test_only_flagged_frames_change(tmp_path: Path, first_interlaced: int) -> None:
    is_woven = [first_interlaced <= index < 14 for index in range(COUNT)]
    pictures = [woven(index) if flag else moment(2 * index) for index, flag in enumerate(is_woven)]
    flags = ["tff" if flag else "" for flag in is_woven]
    path = store(tmp_path / "v.mkv", pictures, flags, "ffv1", "yuv420p")
    assert probe(path).fields == "flagged"
    kept = [shown.frame for shown in read_frames(path, interlaced="keep")]
    whole = [shown.frame for shown in read_frames(path)]
    assert [np.array_equal(*pair) for pair in zip(kept, whole, strict=True)] == [not flag for flag in is_woven]
    for start in range(COUNT):
        (part,) = read_frames(path, start, start + 1)
        assert np.array_equal(part.frame, whole[start])


@pytest.mark.skipif(
    not hasattr(av.VideoCodecContext, "field_order"), reason="this PyAV does not expose the field order"
)
@pytest.mark.parametrize(
    ("ending", "codec"), [("mkv", "libx264"), ("mkv", "ffv1"), ("mp4", "mpeg2video"), ("mov", "mjpeg")]
)
def test_a_stated_field_order_counts_if_pictures_show_combing(tmp_path: Path, ending: str, codec: str) -> None:
    """Pictures without flags in a container with a field order: combing decides."""
    kind = {"codec": codec, "options": {"field_order": "tt"}, "pixels": "yuvj420p" if codec == "mjpeg" else "yuv420p"}
    if codec == "mpeg2video":
        kind["options"] = {"field_order": "tt", "b": "8M"}
    combed = store(tmp_path / f"c.{ending}", [woven(index) for index in range(COUNT)], COUNT * [""], **kind)  # type: ignore[arg-type]
    plain = store(tmp_path / f"p.{ending}", [moment(2 * index) for index in range(COUNT)], COUNT * [""], **kind)  # type: ignore[arg-type]
    assert (probe(combed).fields, probe(plain).fields) == ("tff", "")
    whole = [shown.frame for shown in read_frames(combed)]
    assert len(whole) == COUNT and max(map(combs, whole)) < LIMIT
    (part,) = read_frames(combed, 11, 12)
    assert np.array_equal(part.frame, whole[11])


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return LipsyncPipeline(tiny_models(), StubDetector())


def stored_of(path: Path) -> list[av.VideoFrame]:
    index = frame_index(path)
    return [stored for _, stored in stored_pictures(path, index, 0, index.frame_count, "keep")]


@pytest.mark.parametrize("kind", ["h264.mp4", "prores.mov"])
def test_a_job_deinterlaces_with_a_warning(tmp_path: Path, pipeline: LipsyncPipeline, kind: str) -> None:
    video, audio = interlaced(tmp_path / kind, **KINDS[kind]), make_audio(tmp_path / "a.wav", COUNT / 25)
    output = tmp_path / f"o{Path(kind).suffix}"
    (warning,) = check_job(video, audio, output).warnings[:1]
    report = pipeline(video, audio, output, FAST, JobOptions(crf=4))
    assert "deinterlaced" in warning and warning in report.warnings and report.frames == COUNT
    assert not any(stored.interlaced_frame for stored in stored_of(output))
    assert max(combs(shown.frame) for shown in read_frames(output)) < LIMIT


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("codec", ["auto", "ffv1", "prores"])
def test_a_job_keeps_fields_and_flags(tmp_path: Path, pipeline: LipsyncPipeline, codec: str, order: str) -> None:
    video = interlaced(tmp_path / "v.mp4", order, **KINDS["h264.mp4"])
    audio, output = make_audio(tmp_path / "a.wav", COUNT / 25), tmp_path / ("o.mov" if codec == "prores" else "o.mp4")
    options = JobOptions(crf=4, codec=codec, interlaced="keep")  # type: ignore[arg-type]
    report = pipeline(video, audio, output, FAST, options)
    assert not any("interlaced" in warning for warning in report.warnings)
    assert {field_order(stored) for stored in stored_of(output)} == {order}
    for old, new in zip(*(read_frames(path, interlaced="keep") for path in (video, output)), strict=True):
        assert np.abs(old.frame.astype(int) - new.frame)[:, :16].mean() < 2.5  # left of the face
    assert np.mean([combs(shown.frame) for shown in read_frames(output, interlaced="keep")]) > 2 * LIMIT


def test_warnings_about_fields_that_cannot_be_kept(tmp_path: Path) -> None:
    video, audio = interlaced(tmp_path / "v.mp4", **KINDS["h264.mp4"]), make_audio(tmp_path / "a.wav", 0.5)
    (warning,) = check_job(video, audio, tmp_path / "o.mp4", JobOptions(codec="hevc", interlaced="keep")).warnings
    assert "libx265 cannot flag" in warning
    turn_track(video, (0, 1, -1, 0))
    job = check_job(video, audio, tmp_path / "o.mp4", JobOptions(interlaced="keep"))
    assert any("rotated" in warning for warning in job.warnings) and job.source.interlaced == "deinterlace"


def test_a_resumed_job_writes_the_same_bytes(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "OUTPUT_SEGMENT_SEC", 0.2)
    video, audio = interlaced(tmp_path / "v.mp4", **KINDS["h264.mp4"]), make_audio(tmp_path / "a.wav", 1.5)
    pipeline(video, audio, tmp_path / "whole.mp4", FAST)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "Generate lips" and done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(video, audio, tmp_path / "o.mp4", FAST, progress=stop)
    assert list((tmp_path / "o.mp4.job").glob("part_*.mp4"))
    pipeline(video, audio, tmp_path / "o.mp4", FAST)
    assert (tmp_path / "o.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
