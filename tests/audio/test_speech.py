"""Speech activity: voices of any loudness, in noise and with pauses, against tones, hum and steady noise."""

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from latentsync.audio.speech_activity import (
    FRAMES_PER_SEC,
    at_times,
    loudest_db,
    speech_frames,
    speech_problem,
    speech_weights,
)
from latentsync.media.sound.read import read_audio
from latentsync.timebase import SAMPLE_RATE_HZ

ROOT = Path(__file__).resolve().parents[2]
PAUSE = np.zeros(3 * SAMPLE_RATE_HZ)


def in_16_bits(waveform: np.ndarray) -> np.ndarray:
    return (np.round(np.clip(waveform, -1, 1) * 32767) / 32768).astype(np.float32)


def coloured_noise(count: int, level_db: float, slope: float = 0.0, seed: int = 0) -> np.ndarray:
    """Noise whose power falls with frequency ** -slope."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    hz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ)
    waveform = np.fft.irfft(spectrum / np.maximum(hz, hz[1]) ** (slope / 2), count)
    return waveform * 10 ** (level_db / 20) / np.sqrt(np.mean(waveform**2))


def level_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(waveform))))


def at_level(waveform: np.ndarray, db: float) -> np.ndarray:
    return waveform * 10 ** ((db - level_db(waveform)) / 20)


def with_pauses(waveform: np.ndarray, every_sec: float) -> np.ndarray:
    step = round(every_sec * SAMPLE_RATE_HZ)
    return np.concatenate(
        [part for start in range(0, len(waveform), step) for part in (waveform[start : start + step], PAUSE)]
    )


def band(waveform: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    return np.asarray(sosfilt(butter(4, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE_HZ, output="sos"), waveform))


CHANGES = {
    "as it is": lambda v: v,
    "-45 dB": lambda v: at_level(v, -45),
    "-45 dB at its peak": lambda v: v * 10 ** (-45 / 20) / np.abs(v).max(),
    "in a room": lambda v: v + coloured_noise(len(v), level_db(v) - 20, 1),
    "in hiss": lambda v: v + coloured_noise(len(v), level_db(v) - 20),
    "in a loud car": lambda v: v + coloured_noise(len(v), level_db(v) - 5, 2),
    "quiet in a room": lambda v: at_level(v + coloured_noise(len(v), level_db(v) - 20, 1), -45),
    "with pauses": lambda v: with_pauses(v, 2),
    "word by word": lambda v: with_pauses(v, 0.6),
    "with pauses in a room": lambda v: with_pauses(v, 2) + coloured_noise(len(with_pauses(v, 2)), level_db(v) - 20, 1),
    "once in a minute": lambda v: np.concatenate([*[PAUSE] * 10, v[: 2 * SAMPLE_RATE_HZ], *[PAUSE] * 10]),
    "on the telephone": lambda v: band(v, 300, 3400),
    "through a wall": lambda v: band(v, 50, 1000),
    "overdriven": lambda v: np.clip(20 * v, -0.5, 0.5),
    "a second of it": lambda v: v[8000:24_000],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_voice_is_speech(change: str) -> None:
    voice = read_audio(ROOT / "assets/demo_audio.wav").astype(np.float64)
    assert speech_problem(in_16_bits(CHANGES[change](voice))) is None


def test_sentences_of_many_voices_are_speech() -> None:
    pytest.importorskip("espeakng_loader", reason="avatars need the optional espeak-ng")
    from latentsync.avatar.sound.sentences import random_sentence
    from latentsync.avatar.sound.speech import random_voice, speak

    for seed in range(8):
        rng = np.random.default_rng(seed)
        voice = np.asarray(speak(random_sentence(rng, held_out=False), random_voice(rng)).waveform, np.float64)
        for change in ("as it is", "-45 dB", "-45 dB at its peak", "in a room", "with pauses"):
            assert speech_problem(in_16_bits(CHANGES[change](voice))) is None, (seed, change)
        assert speech_problem(in_16_bits(at_level(voice, -70))) == "inaudible", seed


def harmonics(hz: float, times: np.ndarray) -> np.ndarray:
    return 0.1 * np.sum([np.sin(2 * np.pi * hz * k * times + k) / k for k in range(1, 12)], axis=0)


STEADY = {
    "white noise": lambda t: coloured_noise(len(t), -20),
    "pink noise": lambda t: coloured_noise(len(t), -20, 1),
    "brown noise": lambda t: coloured_noise(len(t), -20, 2),
    "quiet noise": lambda t: coloured_noise(len(t), -50),
    "a low tone": lambda t: 0.2 * np.sin(2 * np.pi * 110 * t),
    "a tone": lambda t: 0.2 * np.sin(2 * np.pi * 900 * t),
    "a dial tone": lambda t: 0.1 * (np.sin(2 * np.pi * 350 * t) + np.sin(2 * np.pi * 440 * t)),
    "a rising tone": lambda t: 0.2 * np.sin(2 * np.pi * (200 + 100 * t) * t),
    "hum": lambda t: harmonics(50, t),
    "hum with noise": lambda t: harmonics(60, t) + coloured_noise(len(t), -45, 1),
    "a tone in noise": lambda t: 0.1 * np.sin(2 * np.pi * 440 * t) + coloured_noise(len(t), -40),
}


@pytest.mark.parametrize("seconds", [1, 3, 30])
@pytest.mark.parametrize("kind", STEADY)
def test_steady_sound_is_no_speech(kind: str, seconds: int) -> None:
    waveform = in_16_bits(STEADY[kind](np.arange(seconds * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ))
    assert speech_problem(waveform) == "no speech"
    assert not speech_frames(waveform).any()
    silence = np.zeros(2 * SAMPLE_RATE_HZ, np.float32)
    if seconds > 1:
        assert speech_problem(np.concatenate([silence, waveform, silence])) == "no speech"


@pytest.mark.parametrize("level", [-200, -90, -70])
def test_almost_silent_audio_is_inaudible(level: float) -> None:
    voice = read_audio(ROOT / "assets/demo_audio.wav")
    assert speech_problem(in_16_bits(at_level(voice, level))) == "inaudible"


def test_pauses_are_not_speech() -> None:
    """Two seconds of a voice between three seconds of silence on either side."""
    voice = read_audio(ROOT / "assets/demo_audio.wav")[: 2 * SAMPLE_RATE_HZ]
    speech = speech_frames(np.concatenate([PAUSE, voice, PAUSE]))
    assert len(speech) == 8 * FRAMES_PER_SEC + 1
    assert speech[320:480].mean() > 0.9
    assert not speech[:275].any() and not speech[525:].any()


@pytest.mark.parametrize("count", [0, 1, 100, 15_999])
def test_less_than_a_second_is_checked_for_loudness_only(count: int) -> None:
    assert speech_problem(np.zeros(count, np.float32)) == "inaudible"
    tone = 0.3 * np.sin(np.arange(count) * 0.2)
    assert speech_problem(tone) == ("inaudible" if count < 2 else None)
    assert loudest_db(np.full(1600, 0.1)) == pytest.approx(-20)


@pytest.mark.parametrize("room_db", [None, -55])
def test_lips_follow_the_speech_and_fade_before_and_after_it(room_db: int | None) -> None:
    voice = read_audio(ROOT / "assets/demo_audio.wav").astype(np.float64)
    part = at_level(voice[: 2 * SAMPLE_RATE_HZ], -23)
    sound = np.concatenate([PAUSE, part, PAUSE, part, PAUSE])
    if room_db is not None:
        sound = sound + coloured_noise(len(sound), room_db, 1)
    weights = speech_weights(in_16_bits(sound))
    times = np.arange(0, 13, 0.04)
    lips = at_times(weights, times)
    loud = np.array([level_db(sound[round(t * SAMPLE_RATE_HZ) :][:640] + 1e-9) > -38 for t in times])
    assert loud.sum() > 50 and (lips[loud] > 0.7).all() and (lips[loud] == 1).mean() > 0.97  # cut off in a vowel
    silent = [time for start in (0, 5, 10) for time in np.arange(start + 0.5, start + 2.5, 0.04)]
    assert not at_times(weights, np.array(silent)).any()
    assert np.abs(np.diff(lips)).max() <= 0.26  # over at least four frames
    assert at_times(weights, np.array([99.0]))[0] == weights[-1]
