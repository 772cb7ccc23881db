"""A film of which parts are replaced: packets of pictures and sound are copied around them, and nothing else of it changes."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.inference.jobs.job import part_format
from latentsync.media.pixels.picture import RgbPicture
from latentsync.media.probe import probe
from latentsync.media.sound.copy import AudioSource, PlacedSound
from latentsync.media.sound.write import write_wav
from latentsync.media.video.encode import is_installed
from latentsync.media.video.film import NotCopiedError, open_film
from latentsync.media.video.join import join_film
from latentsync.media.video.read import frame_times, read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.media.test_media import turn_track
from tests.support.media_clips import moving, patches, store

COUNT = 70
KEYS = "keyint=20:min-keyint=20:scenecut=0:bframes=3"
X265_KEYS = f"{KEYS}:log-level=none"
needs_x265 = pytest.mark.skipif(not is_installed("libx265"), reason="no HEVC encoder")
# name -> suffix, encoder, its parameters, pixel format, the frames that differ, the key frames that end the encoded parts
Case = tuple[str, str, dict[str, str], str, list[range], list[int]]
CASES: dict[str, Case] = {
    "closed groups": ("mp4", "libx264", {"x264-params": KEYS}, "yuv420p", [range(30, 35)], [40]),
    "open groups": (
        "mp4",
        "libx264",
        {"x264-params": f"{KEYS}:open-gop=1:b-adapt=0"},
        "yuv420p",
        [range(30, 35)],
        [40],
    ),
    "open groups without CABAC, many references": (
        "mkv",
        "libx264",
        {"x264-params": f"{KEYS}:open-gop=1:b-adapt=0:cabac=0:ref=5:weightp=2:bframes=5"},
        "yuv420p",
        [range(5, 8), range(30, 41)],
        [20, 60],
    ),
    "main profile, at both ends": (
        "mov",
        "libx264",
        {"x264-params": f"{KEYS}:open-gop=1", "profile": "main"},
        "yuv420p",
        [range(0, 3), range(67, 70)],
        [20, 70],
    ),
    "baseline profile": (
        "mp4",
        "libx264",
        {"x264-params": "keyint=20:min-keyint=20:scenecut=0", "profile": "baseline"},
        "yuv420p",
        [range(30, 35)],
        [40],
    ),
    "HEVC, closed groups": (
        "mp4",
        "libx265",
        {"x265-params": f"{X265_KEYS}:open-gop=0"},
        "yuv420p",
        [range(28, 31)],
        [40],
    ),
    "HEVC, open groups, 10 bits": (
        "mkv",
        "libx265",
        {"x265-params": f"{X265_KEYS}:b-adapt=0"},
        "yuv420p10le",
        [range(5, 8), range(30, 35)],
        [20, 40],
    ),
}


def decoded(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Time and stored samples of every frame."""
    with av.open(str(path)) as container:
        return [(frame.pts * frame.time_base, frame.to_ndarray()) for frame in container.decode(video=0)]


def tag_of(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.codec_tag


def heard(path: Path) -> np.ndarray:
    """The decoded sound, c n."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        channels = container.streams.audio[0].channels
    joined = np.concatenate(frames, axis=1)
    return joined if len(joined) == channels else joined.reshape(-1, channels).T


def replaced(path: Path, edited: Sequence[range], output: Path, audio: AudioSource | None = None) -> list[range]:
    """Write a film whose encoded parts are inverted; returns these parts."""
    film, info = open_film(path), probe(path)
    parts = []
    for number, frames in enumerate(film.spans(edited)):
        parts.append((frames, output.with_name(f"part{number}.mp4")))
        with VideoWriter(parts[-1][1], part_format(film, VideoFormat.like(info))) as writer:
            for shown in read_frames(path, frames.start, frames.stop):
                writer.write_picture(RgbPicture(255 - shown.frame))
    ticks = np.array([int(time / info.time_base) for time in frame_times(path)])
    join_film(film, parts, ticks, info.time_base, output, audio)
    return [frames for frames, _ in parts]


@pytest.mark.parametrize("name", CASES)
def test_frames_outside_the_encoded_parts_are_equal(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    suffix, codec, options, pixel_format, edited, stops = CASES[name]
    if not is_installed(codec):
        pytest.skip(f"no {codec}")
    path, output = tmp_path / f"film.{suffix}", tmp_path / f"out.{suffix}"
    store(path, moving(COUNT, 96, 128), codec=codec, options=options, pixel_format=pixel_format, b_frames=None, gop=20)
    encoded = replaced(path, edited, output)
    assert [frames.stop for frames in encoded] == stops
    assert all(0 <= part.start - frames.start < 6 for part, frames in zip(edited, encoded, strict=True))
    av.logging.set_level(av.logging.ERROR)
    try:
        before, after = decoded(path), decoded(output)
    finally:
        av.logging.set_level(None)
    assert not caplog.records, "decoders find no fault"
    assert frame_times(output) == frame_times(path)
    assert [time - after[0][0] for time, _ in after] == [time - before[0][0] for time, _ in before]
    differ = [index for index in range(COUNT) if not np.array_equal(before[index][1], after[index][1])]
    assert differ == [index for frames in encoded for index in frames]
    assert probe(output).colour == probe(path).colour and probe(output).pixel_format == pixel_format
    if suffix != "mkv":  # parameter sets are in the header alone, as players of these expect
        assert tag_of(output) == {"libx264": "avc1", "libx265": "hvc1"}[codec]
    # reading from anywhere gives the same frames
    for index in (encoded[0].start - 1, encoded[0].stop, COUNT - 2):
        if index >= 0:
            (shown,) = read_frames(output, index, index + 1)
            (whole,) = (each for number, each in enumerate(read_frames(output)) if number == index)
            assert np.array_equal(shown.frame, whole.frame)


def test_a_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    ticks = np.cumsum([0, *(30 + 7 * (index % 5) for index in range(COUNT - 1))]).tolist()
    path, output = tmp_path / "film.mkv", tmp_path / "out.mkv"
    store(path, moving(COUNT, 96, 128), ticks, Fraction(1, 1000), options={"x264-params": KEYS}, fps=Fraction(25))
    replaced(path, [range(30, 33)], output)
    assert frame_times(output)[:-1] == frame_times(path)[:-1]


NOT_COPIED = {
    "codec": ("film.mkv", "libvpx-vp9", "yuv420p", "its codec is vp9"),
    "chroma": ("film.mp4", "libx264", "yuv444p", "profile"),
    "stream": ("film.ts", "libx264", "yuv420p", "not avcC"),
}


@pytest.mark.parametrize("name", NOT_COPIED)
def test_a_film_that_cannot_be_copied_says_why(tmp_path: Path, name: str) -> None:
    file, codec, pixel_format, words = NOT_COPIED[name]
    if not is_installed(codec):
        pytest.skip(f"no {codec}")
    path = store(tmp_path / file, moving(5, 96, 128), codec=codec, pixel_format=pixel_format)
    with pytest.raises(NotCopiedError, match=words):
        open_film(path)


RATE_HZ = 48_000
SPAN = Fraction(1), Fraction(2)
BLOCKS_SEC = 2 * 1024 / RATE_HZ  # by which new AAC begins later and ends earlier


def sounding_film(path: Path, codec: str, late_sec: float = 0.0) -> Path:
    """A film of 2.8 s with two tones in stereo, which may begin later than its pictures; or, below 0, earlier."""
    with av.open(str(path), "w") as container:
        # noise that a decoder makes up would depend on all packets before
        options = {"aac_pns": "0"} if codec == "aac" else {}
        video, sound = (
            container.add_stream("libx264", rate=25),
            container.add_stream(codec, rate=RATE_HZ, options=options),
        )
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        sound.codec_context.layout = "stereo"
        for index, rgb in enumerate(moving(COUNT, 64, 64)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = index + round(max(0.0, -late_sec) * 25), Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        times = np.arange(3 * RATE_HZ) / RATE_HZ
        tones = np.stack([0.3 * np.sin(2 * np.pi * 300 * times * (1 + times / 10)), 0.2 * np.sin(3000 * times)])
        frame = av.AudioFrame.from_ndarray(tones.astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
        frame.pts = round(max(0.0, late_sec) * RATE_HZ)
        resampler = av.AudioResampler(
            sound.codec_context.format, "stereo", RATE_HZ, sound.codec_context.frame_size or None
        )
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(sound.encode(part))
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    write_wav(path, 0.4 * np.sin(2 * np.pi * 800 * np.arange(16_000) / 16_000))
    return path


def dubbed(path: Path, voice: Path, output: Path) -> tuple[np.ndarray, np.ndarray]:
    """The sound of a film and of its copy in which another voice is heard in SPAN, both from the first frame on."""
    spans = (PlacedSound(*SPAN, AudioSource(voice)),)
    replaced(path, [range(30, 32)], output, AudioSource(path, probe(path).start_sec, spans))
    before, after = heard(path), heard(output)
    before = before[:, round(probe(path).start_sec * RATE_HZ) :]
    count = min(before.shape[1], after.shape[1], round(2.8 * RATE_HZ) - 1024)
    return before[:, :count], after[:, :count]


@pytest.mark.parametrize(
    ("file", "codec"), [("film.mov", "pcm_s24le"), ("film.mkv", "pcm_s16le"), ("film.mov", "pcm_s16be")]
)
def test_pcm_outside_a_span_is_equal_to_the_sample(tmp_path: Path, voice: Path, file: str, codec: str) -> None:
    before, after = dubbed(sounding_film(tmp_path / file, codec), voice, tmp_path / f"out{file[4:]}")
    differ = np.flatnonzero((before != after).any(axis=0))
    start, stop = (round(sec * RATE_HZ) for sec in SPAN)
    assert start <= differ.min() < start + 5 and stop - 5 < differ.max() < stop
    assert probe(tmp_path / f"out{file[4:]}").audio_rate_hz == RATE_HZ


@pytest.mark.parametrize(("file", "late_sec"), [("film.mp4", 0.0), ("film.mkv", 0.0), ("film.mp4", -0.4)])
def test_aac_outside_a_span_is_equal(tmp_path: Path, voice: Path, file: str, late_sec: float) -> None:
    output = tmp_path / f"out{file[4:]}"
    before, after = dubbed(sounding_film(tmp_path / file, "aac", late_sec), voice, output)
    differ = np.flatnonzero((before != after).any(axis=0)) / RATE_HZ
    start, stop = map(float, SPAN)
    assert start <= differ.min() < start + BLOCKS_SEC and stop - BLOCKS_SEC < differ.max() < stop
    inside = after[0, round((start + BLOCKS_SEC + 0.05) * RATE_HZ) : round((stop - BLOCKS_SEC - 0.05) * RATE_HZ)]
    loudest_hz = np.abs(np.fft.rfft(inside)).argmax() * RATE_HZ / len(inside)
    assert abs(loudest_hz - 800) < 3 and 0.2 < np.abs(inside).max() < 0.5


def test_where_old_and_new_aac_meet_nothing_clicks(tmp_path: Path, voice: Path) -> None:
    """The old sound and the new one are both smooth, so a step from one sample to the next would be a click."""
    before, after = dubbed(sounding_film(tmp_path / "film.mp4", "aac"), voice, tmp_path / "out.mp4")
    steepest = max(np.abs(np.diff(before[0])).max(), 0.4 * 2 * np.pi * 800 / RATE_HZ)
    assert np.abs(np.diff(after[0, RATE_HZ // 2 :])).max() < 1.5 * steepest


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, 1)])
def test_parts_of_a_film_that_is_shown_turned_are_turned_back(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    path, output = tmp_path / "film.mp4", tmp_path / "out.mov"
    store(path, [np.roll(patches(96, 128), index, 1) for index in range(50)], options={"x264-params": KEYS})
    turn_track(path, matrix)
    (encoded,) = replaced(path, [range(30, 35)], output)
    assert (probe(output).rotation, probe(output).width) == (probe(path).rotation, probe(path).width)
    for index, (before, after) in enumerate(zip(read_frames(path), read_frames(output), strict=True)):
        if index in encoded:
            assert np.abs(255 - before.frame - after.frame.astype(int)).mean() < 8
        else:
            assert np.array_equal(before.frame, after.frame)
