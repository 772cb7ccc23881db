"""The audio of written files: that of the user, in sync with the video, and of the same length."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.media.probe import probe
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.join import join
from latentsync.media.video.read import frame_times, read_frames
from tests.support.media_clips import NATIVE_RATES, click, numbered, store_sound, tone, write

RATE_HZ = 16_000
BLACK, WHITE = np.zeros((32, 48, 3), dtype=np.uint8), np.full((32, 48, 3), 255, dtype=np.uint8)

# encoder, ending and rate of a source; what its sound is in .mp4, .mov and .mkv
SOURCES = [
    ("aac", "m4a", 44_100, ("aac", "aac", "aac")),
    ("aac", "mkv", 48_000, ("aac", "aac", "aac")),
    ("libmp3lame", "mp3", 44_100, ("mp3", "mp3", "mp3")),
    ("libopus", "opus", 48_000, ("opus", "aac", "opus")),
    ("libopus", "mkv", 48_000, ("opus", "aac", "opus")),
    ("flac", "flac", 44_100, ("flac", "aac", "flac")),
    ("alac", "m4a", 44_100, ("alac", "alac", "alac")),
    ("pcm_s16le", "wav", 44_100, ("aac", "pcm_s16le", "pcm_s16le")),
    ("pcm_s24le", "mov", 48_000, ("aac", "pcm_s24le", "pcm_s24le")),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source[0]}.{source[1]}")
@pytest.mark.parametrize("place", range(3), ids=["mp4", "mov", "mkv"])
def test_a_click_is_in_sync_with_its_flash(tmp_path: Path, source: tuple, place: int) -> None:
    codec, ending, rate_hz, kept = source
    for fps in NATIVE_RATES if codec in ("aac", "pcm_s16le") else NATIVE_RATES[3:4]:
        flash = round(fps * Fraction(1, 2))
        sound = store_sound(tmp_path / f"a.{ending}", click(flash / fps, 2, rate_hz), rate_hz, codec)
        frames = [WHITE if k == flash else BLACK for k in range(round(fps))]
        path = write(tmp_path / f"v.{('mp4', 'mov', 'mkv')[place]}", frames, fps, AudioSource(sound))
        audio_sec, name = first_loud(path)
        assert name == kept[place]
        assert abs(audio_sec - seen_sec(path)) <= 1.01 / rate_hz


def first_loud(path: Path) -> tuple[float, str]:
    """Time of the first loud sample by the decoder's time stamps, and the codec."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        planes = [frame.to_ndarray().reshape(frame.layout.nb_channels, -1, order=order(frame))[0] for frame in frames]
        samples = np.abs(np.concatenate(planes).astype(np.float64))
        loud = int(np.argmax(samples > 0.4 * samples.max()))
        codec = container.streams.audio[0].codec_context.codec.canonical_name
        return float(frames[0].pts * frames[0].time_base) + loud / frames[0].sample_rate, codec


def order(frame: av.AudioFrame) -> str:
    return "C" if frame.format.is_planar else "F"


def seen_sec(path: Path) -> float:
    shown = zip(frame_times(path), read_frames(path), strict=False)
    return next(float(time) for time, frame in shown if frame.frame.mean() > 128)


@pytest.mark.parametrize(("ending", "codec"), [("wav", "aac"), ("m4a", "aac"), ("mp3", "mp3"), ("flac", "flac")])
def test_audio_is_that_of_the_user_and_ends_with_the_video(tmp_path: Path, ending: str, codec: str) -> None:
    encoder = {"wav": "pcm_s16le", "m4a": "aac", "mp3": "libmp3lame", "flac": "flac"}[ending]
    source = store_sound(tmp_path / f"a.{ending}", tone(3, 44_100), 44_100, encoder)
    path = write(tmp_path / "v.mp4", numbered(40), audio=AudioSource(source))
    info, wanted, got = probe(path), read_audio(source), read_audio(path)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name.startswith(codec)
        assert float(stream.duration * stream.time_base) == pytest.approx(1.6, abs=1e-4)
    assert (info.has_audio, info.audio_rate_hz, info.channels) == (True, 44_100, 1)
    assert abs(len(got) - 1.6 * RATE_HZ) <= 1
    limit = 0.0 if ending != "wav" else 0.02
    assert np.abs(got[1000:25_000] - wanted[1000:25_000]).max() <= limit


def test_copied_packets_equal_those_of_the_source(tmp_path: Path) -> None:
    sound = store_sound(tmp_path / "a.m4a", tone(3, 48_000), 48_000, "aac", "stereo")
    for ending in ("mp4", "mov", "mkv"):
        path = write(tmp_path / f"v.{ending}", numbered(25), audio=AudioSource(sound))
        assert sound_packets(sound)[: len(sound_packets(path))] == sound_packets(path)
        assert probe(path).channels == 2


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize("ending", ["mov", "mkv"])
def test_uncompressed_audio_is_cut_to_the_sample(tmp_path: Path, ending: str) -> None:
    write_wav(tmp_path / "a.wav", tone(3, 44_100), 44_100)
    path = write(tmp_path / f"v.{ending}", numbered(31), Fraction(30_000, 1001), AudioSource(tmp_path / "a.wav"))
    assert len(b"".join(sound_packets(path))) // 2 == round(31 * Fraction(1001, 30_000) * 44_100)


@pytest.mark.parametrize("start_sec", [0.5, -0.25])
def test_audio_can_start_elsewhere(tmp_path: Path, start_sec: float) -> None:
    noise = np.random.default_rng(0).standard_normal(32_000)
    smooth = np.convolve(noise, np.ones(16) / 40, mode="same")
    write_wav(tmp_path / "a.wav", smooth)
    got = read_audio(write(tmp_path / "v.mp4", numbered(30), audio=AudioSource(tmp_path / "a.wav", start_sec)))
    begin = round(start_sec * RATE_HZ)
    assert np.corrcoef(got[6000:18_000], smooth[6000 + begin : 18_000 + begin])[0, 1] > 0.99
    assert np.abs(got[: max(0, -begin - 200)]).max(initial=0) < 0.05


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("seconds", [0.04, 0.1])
def test_short_audio_leaves_the_rest_silent(tmp_path: Path, ending: str, seconds: float) -> None:
    write_wav(tmp_path / "a.wav", tone(seconds))
    path = write(tmp_path / f"v.{ending}", numbered(25), audio=AudioSource(tmp_path / "a.wav"))
    assert probe(path).frame_count == 25 and len(read_audio(path)) < 0.3 * RATE_HZ


def test_the_audio_of_a_result_can_be_used_again(tmp_path: Path) -> None:
    sound = store_sound(tmp_path / "a.m4a", click(0.5, 2, 44_100), 44_100, "aac")
    source = AudioSource(sound)
    for step, ending in enumerate(("mkv", "mp4", "mov", "mkv", "mp4")):
        part = write(tmp_path / f"part{step}.mp4", [BLACK] * 12 + [WHITE] + [BLACK] * 12, Fraction(24))
        path = tmp_path / f"{step}.{ending}"
        join([part], path, source)
        assert first_loud(path)[0] == pytest.approx(seen_sec(path), abs=1 / 44_100)
        source = AudioSource(path)


def test_a_wav_file_is_read_back_unchanged(tmp_path: Path) -> None:
    samples = np.array([0, 1, -1, 32767, -32768, 12345] * 500, dtype=np.float32) / 32768
    write_wav(tmp_path / "a.wav", samples)
    assert np.array_equal(read_audio(tmp_path / "a.wav"), samples)
    write_wav(tmp_path / "loud.wav", np.array([2.0, -2.0]))
    assert np.array_equal(read_audio(tmp_path / "loud.wav"), np.array([32767 / 32768, -1], dtype=np.float32))


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_resampled_audio_keeps_its_duration_and_content(tmp_path: Path, rate_hz: int) -> None:
    write_wav(tmp_path / "a.wav", tone(1.5, rate_hz), rate_hz)
    back = read_audio(tmp_path / "a.wav")
    assert back.dtype == np.float32 and abs(len(back) - 24_000) <= 1
    assert np.abs(back[500:23_500] - tone(1.5)[500:23_500]).max() < 0.01
