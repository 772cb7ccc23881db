"""Runs on any clip: lengths, rates, shapes and colours, with exact frame counts, times and audio."""

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentsync.face.detection.detector import Face
from latentsync.inference.jobs import render
from latentsync.inference.jobs.job import check_job
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.media.pixels.colour import ColourTags
from latentsync.media.probe import probe
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import frame_times, read_frames
from latentsync.media.video.write import VideoFormat
from tests.media.test_media import turn_track
from tests.support.media_clips import NATIVE_RATES, click, write_timed
from tests.support.tiny import SIZE, StubDetector, make_audio, make_video, number, read, scene, tiny_models
from tests.support.whole_runs import FAST, LOSSLESS, changed_region

EXAMPLES = int(os.environ.get("ANY_CLIP_EXAMPLES", "8"))
SEEN = 10  # frames with a face; few, because sampling does not matter here
MILLISECOND = Fraction(1, 1000)


class Beginning(StubDetector):
    """Detects the face only at the beginning of a video."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0

    def faces(self, frame: np.ndarray) -> list[Face]:
        self.frames += 1
        return super().faces(frame) if self.frames <= SEEN else []

    def reset(self) -> None:
        self.frames = 0


@pytest.fixture(scope="module")
def pipeline() -> Iterator[LipsyncPipeline]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "OUTPUT_SEGMENT_SEC", 1.0)  # so that outputs are joined from many segments
        yield LipsyncPipeline(tiny_models(), Beginning())


def clip_format(rate: Fraction, variable: bool, **others: object) -> VideoFormat:
    time_base = MILLISECOND if variable else 1 / rate
    return VideoFormat(SIZE[1], SIZE[0], rate, time_base, crf=4, **others)  # type: ignore[arg-type]


def expected_order(durations: Sequence[Fraction], sound: Fraction, length: str, rest: str) -> list[int]:
    """The source frames of the output, computed frame by frame."""
    count, total = len(durations), sum(durations)
    order, time = [], Fraction(0)
    if sound <= total or length == "cut":
        while len(order) < count and (time + durations[len(order)] / 2 <= sound or not order or rest == "keep"):
            time += durations[len(order)]
            order.append(len(order))
        return order
    place, step = 0, 1
    while time + durations[place] / 2 <= sound:
        time += durations[place]
        order.append(place)
        place += step
        if length == "bounce" and not 0 <= place < count:
            step, place = -step, min(max(place - 2 * step, 0), count - 1)
        elif length == "loop":
            place %= count
        elif length == "hold":
            place = min(place, count - 1)
    return order


@pytest.mark.slow
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    count=st.integers(1, 200),
    rate=st.sampled_from(NATIVE_RATES),
    variable=st.booleans(),
    share=st.floats(0, 3),
    length=st.sampled_from(["bounce", "loop", "cut", "hold"]),
    rest=st.sampled_from(["cut", "keep"]),
    ending=st.sampled_from(["mp4", "mov", "mkv"]),
    seed=st.integers(0, 999),
)
def test_frames_and_times_are_exact(
    pipeline: LipsyncPipeline,
    count: int,
    rate: Fraction,
    variable: bool,
    share: float,
    length: str,
    rest: str,
    ending: str,
    seed: int,
) -> None:
    steps = np.random.default_rng(seed).integers(15, 90, count).tolist() if variable else [1] * count
    form = clip_format(rate, variable)
    ticks = [0, *np.cumsum(steps).tolist()]
    with TemporaryDirectory() as name:
        folder = Path(name)
        video = write_timed(folder / "v.mp4", [scene(index) for index in range(count)], ticks, form)
        times = frame_times(video)
        sound = Fraction(max(640, round(16_000 * share * float(times[-1]))), 16_000)  # 0.04 s ... 3 times the video
        audio = make_audio(folder / "a.wav", float(sound))
        output = folder / f"o.{ending}"
        options = JobOptions(length=length, rest=rest, crf=4)  # type: ignore[arg-type]
        report = pipeline(video, audio, output, FAST, options)
        durations = [stop - start for start, stop in zip(times, times[1:], strict=False)]
        order = expected_order(durations, sound, length, rest)
        assert [frame.source for frame in report.per_frame] == order
        assert [number(frame) for frame in read(output)] == [index % 20 for index in order]
        wanted = np.cumsum([0.0, *(float(durations[index]) for index in order)])
        shown = np.array([float(time) for time in frame_times(output)])
        assert np.abs(shown - wanted).max() <= (1e-3 if ending == "mkv" else 1e-9)
        assert probe(output).frame_count == report.frames == len(order)
        longest = max(durations[index] for index in order)
        if length != "cut" and rest != "keep":
            assert abs(float(sound) - report.duration_sec) <= float(longest) / 2 + 1e-9 or len(order) == 1
        heard = len(read_audio(output)) / 16_000
        assert abs(heard - min(float(sound), report.duration_sec)) <= 0.002


@pytest.mark.parametrize("rate", [*NATIVE_RATES, None], ids=str)
def test_flash_and_click_coincide(tmp_path: Path, pipeline: LipsyncPipeline, rate: Fraction | None) -> None:
    """The audio stays in sync with the source's frames; `None` is a variable rate."""
    steps = np.random.default_rng(1).integers(15, 90, 30).tolist() if rate is None else [1] * 40
    frames = [np.full((*SIZE, 3), 20, np.uint8) for _ in steps]
    frames[17][:] = 230
    ticks = [0, *np.cumsum(steps).tolist()]
    video = write_timed(tmp_path / "v.mp4", frames, ticks, clip_format(rate or Fraction(25), rate is None))
    flash = frame_times(video)[17]
    for ending, slack_sec in (("mov", 0.5 / 48_000), ("mp4", 1.5 / 48_000)):  # PCM is copied, AAC encoded
        write_wav(
            tmp_path / "a.wav",
            click(float(flash), float(ticks[-1] * (MILLISECOND if not rate else 1 / rate)), 48_000),
            48_000,
        )
        output = tmp_path / f"o.{ending}"
        pipeline(video, tmp_path / "a.wav", output, FAST)
        bright = [frame.time_sec for frame in read_frames(output) if frame.frame.mean() > 120]
        heard = np.abs(read_audio(output, 48_000))
        assert bright == [pytest.approx(float(flash), abs=1e-9)]
        assert abs(np.argmax(heard > 0.4 * heard.max()) / 48_000 - float(flash)) <= slack_sec + 1e-9


COLOURS: dict[str, dict] = {
    "narrow pixels": {"sample_aspect": Fraction(8, 9), "colour": ColourTags(6, 6, 6)},
    "wide pixels": {"sample_aspect": Fraction(64, 45), "colour": ColourTags(5, 5, 6)},
    "full range": {"colour": ColourTags(1, 1, 1, full_range=True)},
    "wide colours": {"colour": ColourTags(9, 9, 14)},
}


@pytest.mark.parametrize("name", ["odd", "turned", *COLOURS])
def test_shape_and_colours_are_those_of_the_source(tmp_path: Path, pipeline: LipsyncPipeline, name: str) -> None:
    w, h = (129, 97) if name == "odd" else (SIZE[1], SIZE[0])
    form = VideoFormat.constant(w, h, 25, crf=4, **COLOURS.get(name, {}))
    frames = [cv2.resize(scene(index), (form.width, form.height)) for index in range(6)]
    if name == "turned":
        frames = [np.ascontiguousarray(np.rot90(frame)) for frame in frames]
        form = VideoFormat.constant(SIZE[0], SIZE[1], 25, crf=4)
    video = write_timed(tmp_path / "v.mp4", frames, list(range(7)), form)
    if name == "turned":
        turn_track(video, (0, 1, -1, 0))
    audio = make_audio(tmp_path / "a.wav", 0.24)
    report = pipeline(video, audio, tmp_path / "o.mp4", FAST, JobOptions(crf=4))
    before, after = probe(video), probe(tmp_path / "o.mp4")
    assert (after.width, after.height, after.rotation) == (before.width, before.height, 0)
    assert (report.width, report.height) == (after.width, after.height)
    assert (before.rotation != 0) == (name == "turned")
    assert (after.sample_aspect, after.colour, after.fps) == (before.sample_aspect, before.colour, before.fps)
    assert report.synced_frames == 6
    for old, new in zip(read(video), read(tmp_path / "o.mp4"), strict=True):
        assert np.abs(old.astype(int) - new)[:, :16].mean() < 1.5  # left of the face
    if before.sample_aspect == 1:
        pipeline(video, audio, tmp_path / "o.mkv", FAST, LOSSLESS)
        for old, new in zip(read(video), read(tmp_path / "o.mkv"), strict=True):
            x0, *_ = changed_region(old, new) or (0,)
            assert x0 >= 16


@pytest.mark.parametrize("length", ["bounce", "cut", "hold"])
def test_a_picture_gives_a_video_as_long_as_the_audio(tmp_path: Path, pipeline: LipsyncPipeline, length: str) -> None:
    picture = tmp_path / "face 1.png"
    picture.write_bytes(cv2.imencode(".png", scene(3)[..., ::-1])[1].tobytes())
    audio = make_audio(tmp_path / "a.wav", 0.62)
    options = JobOptions(codec="ffv1", length=length)  # type: ignore[arg-type]
    report = pipeline(picture, audio, tmp_path / "o.mkv", FAST, options)
    info = probe(tmp_path / "o.mkv")
    assert (info.frame_count, info.fps, report.synced_frames) == (16, 25, 16)
    assert info.has_audio and (info.width, info.height) == (SIZE[1], SIZE[0])
    frames = read(tmp_path / "o.mkv")
    assert len({frame.tobytes() for frame in frames}) > 4  # its lips move
    assert all(np.array_equal(frame[:, :16], scene(3)[:, :16]) for frame in frames)


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30_000, 1001)])
def test_a_constant_rate_is_kept(tmp_path: Path, pipeline: LipsyncPipeline, fps: Fraction) -> None:
    video = make_video(tmp_path / "v.mp4", 50, fps=50)
    report = pipeline(video, make_audio(tmp_path / "a.wav", 0.8), tmp_path / "o.mp4", FAST, JobOptions(fps=fps, crf=4))
    info = probe(tmp_path / "o.mp4")
    assert (info.fps, info.frame_count) == (fps, round(0.8 * fps)) and report.frames == info.frame_count
    shown = [number(frame) for frame in read(tmp_path / "o.mp4")]
    nearest = [round(Fraction(tick) / fps * 50 - Fraction(1, 1000)) % 20 for tick in range(len(shown))]
    assert shown == nearest


def test_limit_sec_processes_only_the_beginning(tmp_path: Path, pipeline: LipsyncPipeline) -> None:
    video, audio = make_video(tmp_path / "v.mp4", 50), make_audio(tmp_path / "a.wav", 4.0)
    report = pipeline(video, audio, tmp_path / "o.mp4", FAST, JobOptions(limit_sec=0.6, rest="keep"))
    assert report.frames == probe(tmp_path / "o.mp4").frame_count == 15
    assert len(read_audio(tmp_path / "o.mp4")) == pytest.approx(0.6 * 16_000, abs=32)


def test_a_preview_shows_and_plays_what_the_whole_output_does_there(tmp_path: Path, pipeline: LipsyncPipeline) -> None:
    """A part from the middle, and one where the video is played again, with the same pictures of lips in sight."""
    video, audio = make_video(tmp_path / "v.mp4", 16), make_audio(tmp_path / "a.wav", 1.2)
    whole = pipeline(video, audio, tmp_path / "whole.mp4", FAST, JobOptions(crf=1))
    for start_sec in (0.21, 0.56):
        options = JobOptions(start_sec=start_sec, limit_sec=0.6, crf=1)
        part = pipeline(video, audio, tmp_path / "part.mp4", FAST, options)
        first = int(start_sec * 25)
        assert part.frames == 15
        assert [f.source for f in part.per_frame] == [f.source for f in whole.per_frame][first : first + 15]
        heard, expected = read_audio(tmp_path / "part.mp4"), read_audio(tmp_path / "whole.mp4")[first * 640 :]
        assert len(heard) == pytest.approx(0.6 * 16_000, abs=32)
        assert np.corrcoef(heard[1000:8000], expected[1000:8000])[0, 1] > 0.95
    with pytest.raises(ValueError, match="plays until 1.20 s: choose an earlier second"):
        check_job(video, audio, tmp_path / "o.mp4", JobOptions(start_sec=1.3))
