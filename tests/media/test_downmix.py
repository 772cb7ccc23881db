"""Channels that cancel each other: every reader returns the voice; other audio is mixed by libswresample."""

from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.media.container import open_input
from latentsync.media.sound import downmix
from latentsync.media.sound.downmix import single_channel
from latentsync.media.sound.read import mono_pieces, mono_span, read_audio

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 48_000
QUIET = np.random.default_rng(3).normal(0, 0.003, 5 * RATE_HZ)


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """Speech, float [n] at 48 kHz."""
    samples = read_audio(ROOT / "assets/demo_audio.wav", RATE_HZ)
    return samples[: 4 * RATE_HZ].astype(np.float64)


def store_channels(
    path: Path, channels: list[np.ndarray], layout: str = "stereo", codec: str = "pcm_s16le", rate_hz: int = RATE_HZ
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz)
        stream.codec_context.layout = layout
        interleaved = np.stack(channels, axis=1).astype(np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate = RATE_HZ
        resampler = av.AudioResampler(stream.codec_context.format or "s16", layout, rate_hz)
        for part in resampler.resample(frame) + resampler.resample(None):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def loudness_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(waveform)) + 1e-12))


def late(waveform: np.ndarray, samples: int) -> np.ndarray:
    return np.concatenate([np.zeros(samples), waveform[: len(waveform) - samples]])


def plain_mix(path: Path) -> np.ndarray:
    """libswresample's own mix, int16 at 16 kHz."""
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with open_input(path) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames + resampler.resample(None)])


def check_voice(path: Path, voice: np.ndarray) -> None:
    """Every reader returns the same audio, as loud as the loudest channel, the voice."""
    whole = read_audio(path)
    assert abs(loudness_db(whole) - loudness_db(voice)) < 1
    pieces = np.concatenate(list(mono_pieces(path)))
    np.testing.assert_array_equal(pieces[: len(whole)].astype(np.float32) / 32768, whole)
    np.testing.assert_array_equal(mono_span(path, 1.0, 16_000), pieces[16_000:32_000])


CANCELLING = {
    "inverted": lambda v: [v, -v],
    "a little quieter": lambda v: [v, -0.9 * v],
    "half as loud": lambda v: [0.5 * v, -v],
    "a third as loud": lambda v: [v, -0.33 * v],
    "with noise of its own": lambda v: [v + QUIET[: len(v)], -v + QUIET[-len(v) :]],
    "late by a sample": lambda v: [v, -late(v, 1)],
    "late by a millisecond": lambda v: [v, -late(v, 48)],
    "inverted for a part": lambda v: [v, v * np.where(np.arange(len(v)) > 0.6 * len(v), -1, 1)],
}
MIXED = {
    "the same": lambda v: [v, v],
    "on one side": lambda v: [np.zeros_like(v), v],
    "on one side, noise on the other": lambda v: [v, QUIET[: len(v)]],
    "panned": lambda v: [v, 0.3 * v],
    "two microphones": lambda v: [v, 0.8 * late(v, 40)],
    "two people": lambda v: [v, np.roll(v, len(v) // 3)],
    "a wide room": lambda v: [v + 10 * QUIET[: len(v)], v - 10 * QUIET[: len(v)]],
}


@pytest.mark.parametrize("kind", CANCELLING)
def test_cancelling_channels_keep_the_voice(tmp_path: Path, voice: np.ndarray, kind: str) -> None:
    channels = CANCELLING[kind](voice)
    loudest = max(channels, key=loudness_db)
    check_voice(store_channels(tmp_path / "a.wav", channels), loudest)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 96_000])
def test_cancelling_channels_at_any_rate(tmp_path: Path, voice: np.ndarray, rate_hz: int) -> None:
    check_voice(store_channels(tmp_path / "a.wav", [voice, -voice], rate_hz=rate_hz), voice)


@pytest.mark.parametrize(
    ("codec", "ending"), [("aac", "m4a"), ("libopus", "mkv"), ("flac", "flac"), ("pcm_f32le", "wav")]
)
def test_cancelling_channels_in_any_encoding(tmp_path: Path, voice: np.ndarray, codec: str, ending: str) -> None:
    path = store_channels(tmp_path / f"a.{ending}", [voice, -voice], codec=codec)
    assert abs(loudness_db(read_audio(path)) - loudness_db(voice)) < 1


@pytest.mark.parametrize("layout", ["2.1", "4.0", "5.1", "7.1"])
def test_cancelling_front_channels_of_any_layout(tmp_path: Path, voice: np.ndarray, layout: str) -> None:
    count = len(av.AudioLayout(layout).channels)
    others = [0.3 * QUIET[: len(voice)] for _ in range(count - 2)]
    check_voice(store_channels(tmp_path / "a.wav", [voice, -voice, *others], layout), voice)


@pytest.mark.parametrize("kind", MIXED)
def test_other_stereo_is_mixed_by_libswresample(tmp_path: Path, voice: np.ndarray, kind: str) -> None:
    path = store_channels(tmp_path / "a.wav", MIXED[kind](voice))
    assert single_channel(path) is None
    np.testing.assert_array_equal(np.concatenate(list(mono_pieces(path))), plain_mix(path))


def test_a_voice_in_the_centre_of_5_1_is_mixed_by_libswresample(tmp_path: Path, voice: np.ndarray) -> None:
    nothing = np.zeros_like(voice)
    path = store_channels(tmp_path / "a.wav", [0.2 * voice, -0.2 * voice, voice, nothing, nothing, nothing], "5.1")
    np.testing.assert_array_equal(np.concatenate(list(mono_pieces(path))), plain_mix(path))


def test_silence_is_mixed(tmp_path: Path) -> None:
    path = store_channels(tmp_path / "a.wav", [np.zeros(RATE_HZ)] * 2)
    assert single_channel(path) is None and not read_audio(path).any()


def test_a_file_is_measured_once_until_it_changes(
    tmp_path: Path, voice: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = downmix.decoded_blocks
    monkeypatch.setattr(downmix, "decoded_blocks", lambda frames: calls.append(1) or original(frames))
    path = store_channels(tmp_path / "a.wav", [voice, -voice])
    assert [mono_span(path, start, 100).any() for start in (0.5, 1.0, 1.5)] and len(calls) == 1
    store_channels(path, [voice, voice[::-1]])
    assert single_channel(path) is None and len(calls) == 2
