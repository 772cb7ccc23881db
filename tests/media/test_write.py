"""Written and joined files have the requested format and are reproducible to the byte."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.media.container import MediaError
from latentsync.media.pixels.colour import ColourTags
from latentsync.media.probe import made_here, probe
from latentsync.media.sound.copy import AudioSource
from latentsync.media.video import encode
from latentsync.media.video.join import join
from latentsync.media.video.read import frame_times, read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.media_clips import (
    NATIVE_RATES,
    click,
    moving,
    numbered,
    patches,
    store,
    store_sound,
    write,
    write_timed,
)

SD, FULL, WIDE = ColourTags(6, 6, 6), ColourTags(1, 1, 1, full_range=True), ColourTags(9, 9, 14)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@settings(max_examples=20)
@given(
    rate=st.sampled_from(NATIVE_RATES),
    variable=st.booleans(),
    cuts=st.sets(st.integers(1, 39), max_size=4),
    ending=st.sampled_from(["mp4", "mov", "mkv"]),
    seed=st.integers(0, 99),
)
def test_joined_parts_equal_the_whole(rate: Fraction, variable: bool, cuts: set[int], ending: str, seed: int) -> None:
    steps = np.random.default_rng(seed).integers(4, 90, 40) if variable else np.ones(40, dtype=int)
    time_base = Fraction(1, 1000 if ending == "mkv" else 90_000) * 10 if variable else 1 / rate
    ticks, frames = [0, *np.cumsum(steps).tolist()], moving(40)
    form = VideoFormat(64, 48, rate, time_base, Fraction(4, 3), SD, "auto", 20)
    with TemporaryDirectory() as name:
        borders, folder = [0, *sorted(cuts), 40], Path(name)
        parts = [
            write_timed(folder / f"{start}{form.segment_suffix}", frames[start:stop], ticks[start : stop + 1], form)
            for start, stop in zip(borders, borders[1:], strict=False)
        ]
        for part, start, stop in zip(parts, borders, borders[1:], strict=False):
            shown = [(tick - ticks[start]) * time_base for tick in ticks[start:stop]]
            few = stop - start <= 3  # so few frames may fit a constant rate within a tick
            pairs = zip(frame_times(part)[:-1], shown, strict=True)
            assert all(abs(got - want) <= (time_base if few else 0) for got, want in pairs)
        whole = folder / f"whole.{ending}"
        join(parts, whole)
        info = probe(whole)
        assert frame_times(whole) == [tick * time_base for tick in ticks]
        assert packets(whole) == [packet for part in parts for packet in packets(part)]
        assert (info.sample_aspect, info.colour, info.frame_count) == (Fraction(4, 3), SD, 40)
        assert variable or info.fps == rate


@pytest.mark.parametrize("codec", ["hevc", "av1", "ffv1"])
def test_other_codecs_are_joined_too(tmp_path: Path, codec: str) -> None:
    form, frames = VideoFormat.constant(64, 64, Fraction(30_000, 1001), codec=codec, crf=20), moving(9, 64, 64)
    parts = [
        write_timed(tmp_path / f"{start}.mp4", frames[start:stop], range(stop - start + 1), form)
        for start, stop in ((0, 7), (7, 8), (8, 9))
    ]
    for ending in ("mp4", "mkv"):
        join(parts, tmp_path / f"whole.{ending}")
        assert frame_times(tmp_path / f"whole.{ending}") == [k * Fraction(1001, 30_000) for k in range(10)]
        assert packets(tmp_path / f"whole.{ending}") == [packet for part in parts for packet in packets(part)]


def test_joining_is_reproducible(tmp_path: Path) -> None:
    sound = store_sound(tmp_path / "a.wav", click(0.2, 2, 44_100), 44_100, "pcm_s16le")
    for ending in ("mp4", "mov", "mkv"):
        results = []
        for run in ("one", "two"):
            (tmp_path / run).mkdir(exist_ok=True)
            parts = [write(tmp_path / run / f"{k}.mp4", moving(9 + k)) for k in range(3)]
            join(parts, tmp_path / run / f"whole.{ending}", AudioSource(sound))
            results.append((tmp_path / run / f"whole.{ending}").read_bytes())
        assert results[0] == results[1]


def test_encoding_is_reproducible(tmp_path: Path) -> None:
    for size in ((96, 96), (202, 154)):
        frames = moving(30, *size)
        assert len({write(tmp_path / "v.mp4", frames).read_bytes() for _ in range(6)}) == 1


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "ffv1"])
def test_mp4_files_state_the_sample_aspect_ratio(tmp_path: Path, codec: str) -> None:
    form = VideoFormat.constant(64, 64, 25, codec=codec, crf=20, sample_aspect=Fraction(64, 45))
    parts = [write_timed(tmp_path / f"{number}.mp4", moving(2, 64, 64), range(3), form) for number in (0, 1)]
    join(parts, tmp_path / "whole.mp4")
    assert [probe(path).sample_aspect for path in (*parts, tmp_path / "whole.mp4")] == 3 * [Fraction(64, 45)]


def test_parts_that_differ_are_not_joined(tmp_path: Path) -> None:
    parts = [write(tmp_path / "a.mp4", numbered(3)), write(tmp_path / "b.mp4", [patches()])]
    with pytest.raises(MediaError, match=r"b\.mp4"):
        join(parts, tmp_path / "whole.mp4")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_one_frame_is_a_video(tmp_path: Path, ending: str) -> None:
    for fps in NATIVE_RATES:
        path = write(tmp_path / f"v.{ending}", numbered(1), fps)
        assert (probe(path).fps, frame_times(path)) == (fps, [0, 1 / fps])


@pytest.mark.parametrize("colour", [SD, FULL, WIDE, ColourTags()], ids=["601", "full", "2020", "709"])
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_colours_and_tags_of_the_source_are_kept(tmp_path: Path, colour: ColourTags, ending: str) -> None:
    image = patches(96, 96)
    form = VideoFormat(96, 96, Fraction(25), Fraction(1, 25), colour=colour, crf=4)
    with VideoWriter(tmp_path / f"v.{ending}", form) as writer:
        writer.write(image)
    assert probe(tmp_path / f"v.{ending}").colour == colour
    shift = next(read_frames(tmp_path / f"v.{ending}")).frame.astype(int) - image
    assert np.abs(shift[8::16, 8::16]).max() <= 4 and np.abs(shift[8::16, 8::16].mean(axis=(0, 1))).max() < 0.8


def test_a_format_like_that_of_a_source(tmp_path: Path) -> None:
    turned = store(tmp_path / "v.mkv", moving(8, 50, 66), [0, 10, 50, 90, 130, 200, 240, 280], Fraction(1, 1000))
    form = VideoFormat.like(probe(turned), crf=10, codec="h264")
    assert (form.width, form.height, form.time_base, form.crf) == (66, 50, Fraction(1, 1000), 10)
    steady = store(tmp_path / "v.ts", moving(8), time_base=Fraction(1001, 60_000))
    form = VideoFormat.like(probe(steady))
    assert (form.fps, form.time_base) == (Fraction(60_000, 1001), Fraction(1001, 60_000))


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_lossless_is_lossless(tmp_path: Path, ending: str) -> None:
    frames = moving(5, 33, 47)
    with VideoWriter(tmp_path / f"v.{ending}", VideoFormat.constant(47, 33, 24, codec="ffv1")) as writer:
        for frame in frames:
            writer.write(frame)
    back = [shown.frame for shown in read_frames(tmp_path / f"v.{ending}")]
    assert all(np.array_equal(*pair) for pair in zip(back, frames, strict=True))


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "ffv1"])
def test_the_requested_codec_is_written(tmp_path: Path, codec: str) -> None:
    with VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(64, 64, 25, codec=codec, crf=20)) as writer:
        for frame in moving(6, 64, 64):
            writer.write(frame)
    assert probe(tmp_path / "v.mp4").codec == codec and writer.encoder.name in {e.name for e in encode.ENCODERS[codec]}


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="policies of Linux")
@pytest.mark.parametrize("codec", sorted(set(encode.CODECS) - {"auto", "prores"}))
def test_no_encoder_makes_threads_real_time(tmp_path: Path, codec: str) -> None:
    """SVT-AV1 does so if the user is root."""

    def policies() -> set[int]:
        found = set()
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # it has ended
                found.add(os.sched_getscheduler(int(thread)))
        return found

    before = policies()
    with VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(64, 64, 25, codec=codec, crf=20)) as writer:
        for frame in moving(3, 64, 64):
            writer.write(frame)
            assert policies() == before
    assert policies() == before


def test_a_smaller_crf_is_a_better_picture(tmp_path: Path) -> None:
    sizes = []
    for crf in (5, 15, 35):
        with VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(64, 48, 25, crf=crf)) as writer:
            for frame in moving(5):
                writer.write(frame)
        sizes.append((tmp_path / "v.mp4").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)


def test_a_missing_encoder_is_replaced_or_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"libx264", "libopenh264", "libx265"}
    monkeypatch.setattr(encode, "is_installed", lambda name: name not in missing)
    with VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(47, 33, 25)) as writer:
        for frame in moving(6, 33, 47):
            writer.write(frame)
    assert writer.encoder.name == "mpeg4" and frame_times(tmp_path / "v.mp4") == [Fraction(k, 25) for k in range(7)]
    join([tmp_path / "v.mp4", tmp_path / "v.mp4"], tmp_path / "twice.mp4")
    assert probe(tmp_path / "twice.mp4").frame_count == 12
    for codec in ("h264", "hevc"):
        with pytest.raises(MediaError, match=f"no lib.*{codec}"):
            VideoWriter(tmp_path / "w.mp4", VideoFormat.constant(48, 32, 25, codec=codec)).__enter__()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["twice.mp4", "v.mp4"]


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("v.mov", {"codec": "av1"}, r"\.mov file cannot hold av1"),
        ("v.mp4", {"codec": "av1", "width": 47}, "odd size"),
        ("v.mp4", {"codec": "vp9"}, "no codec 'vp9'"),
        ("v.mp4", {"codec": "hevc", "height": 48}, "at least 64 px"),
        ("v.mp4", {"crf": 52}, "from 0 to 51"),
        ("v.mkv", {"codec": "ffv1", "sample_aspect": Fraction(4, 3)}, "ratio 4/3"),
        ("v.webm", {}, "ending"),
    ],
)
def test_formats_that_cannot_be_written(tmp_path: Path, name: str, change: dict, why: str) -> None:
    form = VideoFormat(**{"width": 48, "height": 32, "fps": Fraction(25), "time_base": Fraction(1, 25)} | change)
    with pytest.raises(MediaError, match=why):
        VideoWriter(tmp_path / name, form).__enter__()
    assert not list(tmp_path.iterdir())


def test_decreasing_times_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(MediaError, match="frame 2"),
        VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(48, 32, 25)) as writer,
    ):
        for frame, pts in zip(numbered(3), (0, 4, 4), strict=True):
            writer.write(frame, pts)


def test_own_files_are_recognised(tmp_path: Path) -> None:
    for ending in ("mp4", "mov", "mkv"):
        assert made_here(write(tmp_path / f"own.{ending}", numbered(2)))
        assert not made_here(store(tmp_path / f"other.{ending}", numbered(2)))
    (tmp_path / "note.mp4").write_text("Made with LatentSync")
    assert not made_here(tmp_path / "note.mp4") and not made_here(tmp_path / "none.mp4")
