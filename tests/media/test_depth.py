"""Bits, chroma, alpha and HDR metadata beyond 8-bit 4:2:0 are kept in the output, or a warning lists what is lost."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from latentsync.inference.jobs import render
from latentsync.inference.jobs.job import check_job
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.media.index.frame_index import frame_index
from latentsync.media.index.hdr import HdrMetadata
from latentsync.media.pixels.colour import ColourTags, rows_of, upright_rgb
from latentsync.media.pixels.geometry import Orientation
from latentsync.media.pixels.picture import Part, StoredForm, StoredPicture, picture_of, samples_of
from latentsync.media.pixels.pixel_format import pixel_format, turned_format
from latentsync.media.probe import probe
from latentsync.media.video.encode import choose_encoder, is_installed, usual_scheduling
from latentsync.media.video.read import read_frames, stored_pictures
from scripts import inference
from tests.media.test_media import turn_track
from tests.support.tiny import StubDetector, make_audio, scene, tiny_models
from tests.support.whole_runs import FAST, command

LEVELS = 40  # of 10 bits, in the rows of
RAMP = slice(120, 180)  # below the face, seen at the columns
SEEN = slice(224, 256)  # which no face covers, however the picture is turned
SIZE = (192, 256)  # h, w
MOST = 36  # levels that any encode leaves, with noise of the networks in the same picture; 8 bits leave 11
OF_12_BITS = 32  # the same where two bits are rounded away first
DEMO = Path(__file__).parents[2] / "assets/demo_video.mp4"
FINE = JobOptions(crf=4)
SDR, HLG, PQ = ColourTags(1, 1, 1), ColourTags(9, 9, 18), ColourTags(9, 9, 16)
FULL_HLG = ColourTags(9, 9, 18, full_range=True)
QUIET = {"x265-params": "log-level=error", "crf": "4"}
MASTERING = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
STATED = HdrMetadata((0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000.0), (1000, 400))
DEEP: dict[str, dict] = {
    "hlg.mov": {"colour": HLG},
    "full.mp4": {"colour": FULL_HLG},
    "pq.mp4": {"colour": PQ, "options": {**QUIET, "x265-params": f"log-level=error:{MASTERING}"}},
    "twelve.mp4": {"colour": PQ, "pixels": "yuv420p12le"},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le", "options": {}},
    "dnxhr.mov": {
        "codec": "dnxhd",
        "pixels": "yuv422p10le",
        "options": {"profile": "dnxhr_hqx"},
    },
    "h264.mp4": {"codec": "libx264", "options": {"crf": "1"}},
    "av1.mkv": {"codec": "libsvtav1", "colour": HLG, "options": {"crf": "4", "preset": "8"}},
    "whole.mkv": {"codec": "ffv1", "pixels": "yuv444p10le", "options": {}},
    "odd.mkv": {"codec": "ffv1", "options": {}, "size": (193, 255)},
}
ALPHA = {"codec": "prores_ks", "pixels": "yuva444p10le", "options": {}}


def planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    bits = pixel_format(frame.format.name).bits
    return [samples_of(plane, bits)[:, : plane.width].astype(int) for plane in frame.planes]


def scenes(size: tuple[int, int], count: int = 12) -> list[np.ndarray]:
    return [cv2.resize(scene(index), size[::-1]) for index in range(count)]


def deep_picture(pixels: str, colour: ColourTags = SDR, picture: np.ndarray | None = None) -> av.VideoFrame:
    """A picture in that format with a ramp of `LEVELS` steps of 10 bits, and alpha from top to bottom where there is some."""
    picture = scenes(SIZE, 1)[0] if picture is None else picture
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels, dst_colorspace=1)
    facts = pixel_format(pixels)
    ramp = np.linspace(300, 300 + LEVELS - 1, RAMP.stop - RAMP.start).round() * 2.0 ** (facts.bits - 10)
    samples_of(frame.planes[0], facts.bits)[RAMP, : frame.width] = ramp.round()[:, None]
    if facts.has_alpha:
        rows = samples_of(frame.planes[3], facts.bits)
        rows[:] = np.linspace(0, (1 << facts.bits) - 1, len(rows))[:, None]
    frame.colorspace, frame.color_range = colour.matrix, 2 if colour.full_range else 1
    frame.color_primaries, frame.color_trc = colour.primaries, colour.transfer
    return frame


def store(
    path: Path,
    codec: str = "libx265",
    pixels: str = "yuv420p10le",
    colour: ColourTags = SDR,
    size: tuple[int, int] = SIZE,
    options: dict[str, str] | None = None,
    pictures: list[np.ndarray] | None = None,
) -> Path:
    pictures = pictures or scenes(size)
    with usual_scheduling(), av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=QUIET if options is None else options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        context = stream.codec_context
        context.colorspace, context.color_range = colour.matrix, 2 if colour.full_range else 1
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        for index, picture in enumerate(pictures):
            frame = deep_picture(pixels, colour, picture)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def stored_of(path: Path) -> Iterator[av.VideoFrame]:
    index = frame_index(path)
    return (stored for _, stored in stored_pictures(path, index, 0, index.frame_count))


def levels(frame: av.VideoFrame, turns: int = 0) -> int:
    """How many levels the ramp has, after quarter turns of the picture."""
    luma = np.rot90(planes_of(frame)[0], turns)
    return len(np.unique(np.median(luma[RAMP, SEEN], axis=1).round()))


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    return LipsyncPipeline(tiny_models(), StubDetector())


@pytest.mark.parametrize("name", sorted(DEEP))
def test_bits_and_tags_of_the_source_are_kept(tmp_path: Path, pipeline: LipsyncPipeline, name: str) -> None:
    if not is_installed(DEEP[name].get("codec", "libx265")):
        pytest.skip("this PyAV cannot write the source")
    video, audio = store(tmp_path / name, **DEEP[name]), make_audio(tmp_path / "a.wav", 0.48)
    output = tmp_path / ("o.mov" if name.endswith("mov") else "o.mp4")
    report = pipeline(video, audio, output, FAST, FINE)
    before, after = probe(video), probe(output)
    assert report.encoder == "libx265" and report.synced_frames == report.frames == 12
    assert after.codec == "hevc" and b"hvc1" in output.read_bytes()
    assert after.bits == 10 and after.colour == before.colour and after.hdr == before.hdr
    assert (after.width, after.height) == (before.width, before.height)
    is_whole = before.bits == 10
    assert min(map(levels, stored_of(output))) >= min(MOST if is_whole else OF_12_BITS, *map(levels, stored_of(video)))
    assert [("12 bits become 10" in warning) for warning in check_job(video, audio, output).warnings] == (
        [] if is_whole else [True]
    )


@pytest.mark.parametrize("colour", [HLG, PQ, SDR], ids=str)
def test_the_usual_quality_leaves_38_of_40_levels(
    tmp_path: Path, pipeline: LipsyncPipeline, colour: ColourTags
) -> None:
    """Of a source that has more: the best quality in place of the other tests'."""
    drawn = [shown.frame for shown in read_frames(DEMO, 0, 20)]
    video = store(tmp_path / "v.mov", colour=colour, pictures=drawn, options={**QUIET, "crf": "0"})
    audio = make_audio(tmp_path / "a.wav", 0.8)
    pipeline(video, audio, tmp_path / "o.mov", FAST)
    assert probe(tmp_path / "o.mov").colour == colour
    assert min(map(levels, stored_of(tmp_path / "o.mov"))) >= 38


@pytest.mark.parametrize("codec", ["av1", "ffv1", "prores", "hevc"])
def test_other_codecs_keep_bits_too(tmp_path: Path, pipeline: LipsyncPipeline, codec: str) -> None:
    video, audio = store(tmp_path / "v.mov", colour=HLG), make_audio(tmp_path / "a.wav", 0.48)
    output = tmp_path / ("o.mov" if codec == "prores" else "o.mkv")
    pipeline(video, audio, output, FAST, JobOptions(codec=codec, crf=4))  # type: ignore[arg-type]
    assert (probe(output).bits, probe(output).colour, probe(output).codec) == (10, HLG, codec)
    left = min(map(levels, stored_of(output)))
    assert left >= (min(map(levels, stored_of(video))) if codec == "ffv1" else MOST)  # ffv1 is lossless


@pytest.mark.parametrize("codec", ["auto", "av1"])
def test_hdr_metadata_is_kept(tmp_path: Path, pipeline: LipsyncPipeline, codec: str) -> None:
    video, audio = store(tmp_path / "v.mp4", **DEEP["pq.mp4"]), make_audio(tmp_path / "a.wav", 0.2)
    pipeline(video, audio, tmp_path / "o.mp4", FAST, JobOptions(codec=codec))  # type: ignore[arg-type]
    found = probe(tmp_path / "o.mp4").hdr
    assert found.light == STATED.light and found.mastering == pytest.approx(STATED.mastering, rel=1e-3, abs=1e-4)


ORIENTATIONS = [Orientation(a, 0, 0, d) for a, d in product((1, -1), repeat=2)]
ORIENTATIONS += [Orientation(0, b, c, 0) for b, c in product((1, -1), repeat=2)]


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p10le", "yuva444p12le"])
def test_pictures_keep_their_bits_when_turned(pixels: str, orientation: Orientation) -> None:
    stored, size = deep_picture(pixels, HLG), SIZE[::-1]
    form = StoredForm(turned_format(pixels) if orientation.turned else pixels, HLG)
    picture = picture_of(stored, orientation, size, form)
    assert isinstance(picture, StoredPicture)
    upright, turned = planes_of(picture.stored), planes_of(stored)
    for plane in (0, 3) if pixel_format(pixels).has_alpha else (0,):
        assert np.array_equal(upright[plane][..., None], orientation.apply(turned[plane][..., None]))
    rgb = upright_rgb(stored, orientation, size)
    assert np.abs(picture.rgb().astype(int) - rgb).mean() < 1


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)], ids=str)
def test_a_turned_phone_clip_keeps_its_bits(
    tmp_path: Path, pipeline: LipsyncPipeline, matrix: tuple[int, int, int, int]
) -> None:
    video, audio = store(tmp_path / "v.mov", colour=HLG), make_audio(tmp_path / "a.wav", 0.4)
    turn_track(video, matrix)
    turns = probe(video).rotation // 90
    pipeline(video, audio, tmp_path / "o.mov", FAST, FINE)
    after = probe(tmp_path / "o.mov")
    assert (after.bits, after.colour, after.rotation) == (10, HLG, 0)
    assert (after.width, after.height) == (probe(video).width, probe(video).height)
    assert min(levels(frame, -turns) for frame in stored_of(tmp_path / "o.mov")) >= MOST


PART: Part = (slice(20, 61), slice(31, 70))


@pytest.mark.parametrize(
    "pixels", ["yuv420p10le", "yuv422p12le", "yuv444p10le", "gbrp10le", "yuva420p", "yuva444p16le", "gbrap12le"]
)
@pytest.mark.parametrize("colour", [SDR, FULL_HLG])
def test_an_edit_keeps_the_bits_of_unedited_pixels(pixels: str, colour: ColourTags) -> None:
    is_rgb = pixel_format(pixels).is_rgb
    tags = ColourTags(0, colour.primaries, colour.transfer, full_range=True) if is_rgb else colour
    stored = deep_picture(pixels, tags)
    picture = picture_of(stored, Orientation(), SIZE[::-1], StoredForm(pixels, tags))
    before = planes_of(stored)
    same = picture.edited(PART, lambda frame: None)
    assert isinstance(same, StoredPicture) and all(map(np.array_equal, planes_of(same.stored), before))

    def paint(frame: np.ndarray) -> None:
        frame[30:50, 40:60] = frame[30:50, 40:60] // 2 + 60
        frame[30:50, 50:60, 0] = 200

    changed = picture.edited(PART, paint)
    assert isinstance(changed, StoredPicture)
    wanted = picture.rgb().copy()
    paint(wanted)
    assert np.abs(changed.rgb().astype(int) - wanted)[32:48, 42:58].mean() < 4
    for old, new in zip(before, planes_of(changed.stored), strict=True):
        inside = np.zeros(SIZE, bool)
        inside[24:56, 34:66] = True  # chroma is interpolated from pixels around
        assert np.array_equal(
            old[~inside[:: SIZE[0] // len(old), :: SIZE[1] // old.shape[1]]],
            new[~inside[:: SIZE[0] // len(old), :: SIZE[1] // old.shape[1]]],
        )
    if pixel_format(pixels).has_alpha:
        assert np.array_equal(planes_of(changed.stored)[3], before[3])
    assert all(map(np.array_equal, planes_of(stored), before))  # it may be shared


def test_a_slight_edit_of_a_gradient_makes_no_steps() -> None:
    """A ramp that is brightened by one 8-bit level still has three times as many levels as 8 bits have."""
    stored = deep_picture("yuv420p10le", HLG)
    picture = picture_of(stored, Orientation(), SIZE[::-1], StoredForm("yuv420p10le", HLG))

    def brighten(frame: np.ndarray) -> None:
        frame[RAMP, 200:] += 1

    edited = picture.edited((RAMP, slice(200, 256)), brighten)
    assert isinstance(edited, StoredPicture) and levels(edited.stored) >= 30


@pytest.mark.parametrize(("codec", "ending"), [("auto", "mov"), ("prores", "mov"), ("ffv1", "mkv")])
def test_transparency_is_kept(tmp_path: Path, pipeline: LipsyncPipeline, codec: str, ending: str) -> None:
    video, audio = store(tmp_path / "v.mov", **ALPHA), make_audio(tmp_path / "a.wav", 0.4)
    output = tmp_path / f"o.{ending}"
    report = pipeline(video, audio, output, FAST, JobOptions(codec=codec))  # type: ignore[arg-type]
    assert not any("transparency" in warning for warning in report.warnings)
    for old, new in zip(stored_of(video), stored_of(output), strict=False):
        scale = 2.0 ** (pixel_format(old.format.name).bits - pixel_format(new.format.name).bits)
        assert np.abs(planes_of(old)[3] - planes_of(new)[3] * scale).max() < 2.0**4
    assert probe(output).has_alpha


@pytest.mark.parametrize(
    ("name", "kind", "codec", "parts"),
    [
        ("v.mov", {"colour": HLG}, "h264", ["10 bits become 8", "codec hevc keeps more"]),
        ("v.mov", ALPHA, "hevc", ["transparency is lost", "12 bits become 10"]),
        ("v.mp4", DEEP["pq.mp4"], "ffv1", ["mastering data", "light levels"]),
        ("v.mov", DEEP["prores.mov"], "av1", ["4:2:2 chroma becomes 4:2:0"]),
        ("v.mkv", {"codec": "ffv1", "pixels": "yuva420p", "options": {}}, "auto", ["transparency is lost"]),
    ],
)
def test_losses_are_one_warning(tmp_path: Path, name: str, kind: dict, codec: str, parts: list[str]) -> None:
    video, audio = store(tmp_path / name, **kind), make_audio(tmp_path / "a.wav", 0.4)
    (warning,) = check_job(video, audio, tmp_path / "o.mp4", JobOptions(codec=codec)).warnings  # type: ignore[arg-type]
    assert all(words in warning for words in parts)


def test_8_bits_are_written_as_h264(tmp_path: Path) -> None:
    video, audio = store(tmp_path / "v.mp4", "libx264", "yuv420p", options={}), make_audio(tmp_path / "a.wav", 0.4)
    job = check_job(video, audio, tmp_path / "o.mp4")
    assert (job.encoder, job.format.codec, job.warnings) == ("libx264", "auto", ())
    assert job.format.encoding(".mp4")[1].pixel_format == "yuv420p"


@pytest.mark.parametrize(
    ("source", "suffix", "encoder", "stored"),
    [
        ("yuv420p", ".mp4", "libx264", "yuv420p"),
        ("yuv444p", ".mp4", "libx264", "yuv420p"),
        ("yuva420p", ".mov", "libx264", "yuv420p"),
        ("yuv420p10le", ".mkv", "libx265", "yuv420p10le"),
        ("yuv422p10le", ".mov", "libx265", "yuv422p10le"),
        ("gray10le", ".mp4", "libx265", "yuv420p10le"),
        ("gbrp10le", ".mp4", "libx265", "yuv444p10le"),
        ("yuva444p12le", ".mp4", "libx265", "yuv444p10le"),
        ("yuva444p12le", ".mov", "prores_ks", "yuva444p10le"),
    ],
)
def test_the_encoder_of_codec_auto(source: str, suffix: str, encoder: str, stored: str) -> None:
    chosen = choose_encoder("auto", 640, 480, suffix, source=source)
    assert (chosen.name, chosen.format_for(640, 480, source)) == (encoder, stored)


@pytest.mark.parametrize(("name", "kind"), [("hlg.mov", DEEP["hlg.mov"]), ("alpha.mov", ALPHA)])
def test_a_resumed_job_writes_the_same_bytes(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch, name: str, kind: dict
) -> None:
    monkeypatch.setattr(render, "OUTPUT_SEGMENT_SEC", 0.2)
    video, audio = store(tmp_path / name, **kind), make_audio(tmp_path / "a.wav", 1.2)
    pipeline(video, audio, tmp_path / "whole.mov", FAST)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "Generate lips" and done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(video, audio, tmp_path / "o.mov", FAST, progress=stop)
    assert list((tmp_path / "o.mov.job").glob("part_*.m*"))
    pipeline(video, audio, tmp_path / "o.mov", FAST)
    assert (tmp_path / "o.mov").read_bytes() == (tmp_path / "whole.mov").read_bytes()


def test_the_command_line_warns_before_the_work_and_once(
    tmp_path: Path, pipeline: LipsyncPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before: list[str] = []

    def load(args: object) -> LipsyncPipeline:
        before.append(capsys.readouterr().out)
        return pipeline

    monkeypatch.setattr(inference, "load_pipeline", load)
    video, audio = store(tmp_path / "v.mov", colour=HLG), make_audio(tmp_path / "a.wav", 0.4)
    assert inference.main(command(video, audio, tmp_path / "o.mp4", "--codec=h264")) == 0
    assert "10 bits become 8" in before[0] and "10 bits" not in capsys.readouterr().out
    assert "10 bits become 8" in (tmp_path / "o.report.json").read_text()


def test_samples_are_a_view_of_16_bits() -> None:
    """16-bit samples are viewed in place, with the padding at the ends of the lines."""
    frame = av.VideoFrame(50, 10, "yuv420p10le")
    assert samples_of(frame.planes[0], 10).nbytes == rows_of(frame.planes[0]).nbytes
