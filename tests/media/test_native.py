"""Native frames: every frame once, at its exact time, and the same picture wherever reading begins."""

from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentsync.media.probe import probe
from latentsync.media.video.read import frame_times, frames_at, frames_between, read_frames
from tests.support.media_clips import MILLISECONDS, NATIVE_RATES, grey, moving, numbered, store

OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:keyint=8:min-keyint=8:scenecut=0"}
KINDS = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.avi": {},
    "open.mp4": {"options": OPEN_GOP},
    "open.ts": {"options": OPEN_GOP},
    "refresh.ts": {"options": {"x264-params": "intra-refresh=1:keyint=8"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "16"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 2},
    "mjpeg.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
}


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    count=st.integers(1, 40),
    gop=st.integers(1, 20),
    start=st.integers(0, 39),
    length=st.integers(1, 40),
)
def test_reading_from_the_middle_gives_the_same_pictures(
    kind: str, count: int, gop: int, start: int, length: int
) -> None:
    with TemporaryDirectory() as folder:
        is_hevc = kind.startswith("hevc")  # libx265 fails with some short groups of pictures and with small pictures,
        count = max(count, 3) if is_hevc else count  # and gives packets of one or two pictures random time stamps
        pictures = moving(count, 64, 96) if is_hevc else moving(count, 32, 48)
        path = store(Path(folder) / kind, pictures, gop=12 if is_hevc else gop, **KINDS[kind])
        whole = [shown.frame for shown in read_frames(path)]
        part = [shown.frame for shown in read_frames(path, start, start + length)]
        assert len(whole) == len(frame_times(path)) - 1 == probe(path).frame_count == count
        assert len(part) == max(0, min(length, count - start))
        assert all(np.array_equal(*pair) for pair in zip(part, whole[start:], strict=False))


@pytest.mark.parametrize("fps", NATIVE_RATES, ids=str)
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
def test_constant_rates_are_exact(tmp_path: Path, fps: Fraction, ending: str) -> None:
    path = store(tmp_path / f"v.{ending}", numbered(61), time_base=1 / fps)
    info = probe(path)
    assert (info.fps, info.variable_rate, info.frame_count) == (fps, False, 61)
    assert frame_times(path) == [k / fps for k in range(62)]
    assert [shown.time_sec for shown in read_frames(path, 7, 9)] == [float(7 / fps), float(8 / fps)]


@settings(max_examples=20)
@given(gaps=st.lists(st.integers(5, 900), min_size=4, max_size=30), ending=st.sampled_from(["mp4", "mkv"]))
def test_variable_rates_are_exact(gaps: list[int], ending: str) -> None:
    ticks = [0, *np.cumsum(gaps).tolist()]
    with TemporaryDirectory() as folder:
        path = store(Path(folder) / f"v.{ending}", moving(len(ticks)), ticks, MILLISECONDS, fps=Fraction(25))
        assert frame_times(path)[:-1] == [Fraction(tick, 1000) for tick in ticks]
        assert [shown.time_sec for shown in read_frames(path)] == [tick / 1000 for tick in ticks]
        assert probe(path).variable_rate or len(set(gaps)) == 1


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_video_that_starts_after_its_audio(tmp_path: Path, ending: str) -> None:
    late = [5 + k for k in range(10)]
    path = store(tmp_path / f"v.{ending}", numbered(10), late, Fraction(1, 25), sound=True)
    assert probe(path).start_sec == pytest.approx(0.2, abs=0.03)  # the codec delay comes before the audio
    assert frame_times(path) == [Fraction(k, 25) for k in range(11)]
    shown = list(frames_at(path, 25))
    assert len(shown) in (15, 16) and grey(shown[0].frame) == pytest.approx(20, abs=2)
    assert grey(shown[-1].frame) == pytest.approx(56, abs=2)


def test_reading_at_a_constant_rate_can_begin_anywhere(tmp_path: Path) -> None:
    ticks = [0, 30, 100, 110, 300, 340, 700, 1500, 1540, 3000]
    path = store(tmp_path / "v.mkv", numbered(10), ticks, MILLISECONDS, gop=2, fps=Fraction(25))
    whole = [(shown.time_sec, grey(shown.frame)) for shown in frames_at(path, 30)]
    for start, stop in ((0, 5), (17, 40), (60, 1000), (5000, 6000), (3, 3)):
        part = [(shown.time_sec, grey(shown.frame)) for shown in frames_between(path, 30, start, stop)]
        assert part == whole[start:stop]


def test_a_changed_file_is_indexed_again(tmp_path: Path) -> None:
    assert probe(store(tmp_path / "v.mp4", numbered(5))).frame_count == 5
    assert probe(store(tmp_path / "v.mp4", numbered(9))).frame_count == 9


def test_a_change_of_size_keeps_the_first_size(tmp_path: Path) -> None:
    small, large = store(tmp_path / "a.h264", moving(5, 32, 48)), store(tmp_path / "b.h264", moving(5, 64, 96))
    (tmp_path / "both.h264").write_bytes(small.read_bytes() + large.read_bytes())
    assert {shown.frame.shape for shown in read_frames(tmp_path / "both.h264")} == {(32, 48, 3)}
