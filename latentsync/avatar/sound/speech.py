"""Speech synthesis with phoneme timings, by the espeak-ng library through ctypes.

espeak-ng is an optional extra (`./setup_env.sh avatars`): it is GPL software,
needed only to make avatar clips and used only in this file. The interface follows espeak-ng's `speak_lib.h`.
"""

import _ctypes
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from latentsync.timebase import SAMPLE_RATE_HZ

UNLOAD = _ctypes.FreeLibrary if hasattr(_ctypes, "FreeLibrary") else _ctypes.dlclose

EVENT_END, EVENT_PHONEME = 0, 7
OUTPUT_SYNCHRONOUS, WITH_PHONEME_EVENTS, CHARS_UTF8 = 2, 1, 1
PARAMETER_RATE, PARAMETER_PITCH, PARAMETER_RANGE = 1, 3, 4
BREATH_SEED = 1  # of the noise in breathy voices; espeak-ng itself starts it from the clock

STRESS_MARKS = "',%=|;-~!^"  # stress and length marks, which precede a phoneme's mnemonic or stand alone without sound

ACCENTS = ["en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029"]
TIMBRES = ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5",
           "Alex", "Andrea", "Annie", "Denis", "Gene", "Lee", "Michael", "anika", "belinda", "linda", "steph"]  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """Voice parameters: espeak-ng voice name, words per minute, pitch and pitch range (0-100)."""

    name: str
    words_per_minute: int
    pitch: int
    pitch_range: int


@dataclass(frozen=True)
class Phoneme:
    """One phoneme in the notation of espeak-ng, with start and end in seconds."""

    symbol: str
    start_sec: float
    end_sec: float


@dataclass(frozen=True)
class Speech:
    """A spoken sentence: mono float32 waveform [-1, 1] at 16 kHz and its phonemes in order."""

    waveform: np.ndarray
    phonemes: list[Phoneme]

    @property
    def duration_sec(self) -> float:
        return len(self.waveform) / SAMPLE_RATE_HZ


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, int]]:
    """A newly loaded espeak-ng library, and its sample rate in Hz.

    It is unloaded afterwards: espeak-ng keeps state between texts, but a clip must depend on its seed alone.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise RuntimeError(
            "Making avatars needs espeak-ng, which is not installed: run `./setup_env.sh avatars` (GPL-3.0)."
        ) from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        data = str(espeakng_loader.get_data_path()).encode()
        rate_hz = library.espeak_Initialize(OUTPUT_SYNCHRONOUS, 0, data, WITH_PHONEME_EVENTS)
        if rate_hz <= 0:
            raise RuntimeError("espeak-ng did not start: its voice data could not be read; reinstall espeakng-loader.")
        library.espeak_ng_SetRandSeed(ctypes.c_long(BREATH_SEED))
        yield library, rate_hz
    finally:
        library.espeak_Terminate()
        UNLOAD(library._handle)


def random_voice(rng: np.random.Generator) -> Voice:
    """Sample an English voice: accent, timbre, rate and pitch."""
    name = f"{rng.choice(ACCENTS)}+{rng.choice(TIMBRES)}"
    return Voice(name, int(rng.integers(115, 175)), int(rng.integers(25, 76)), int(rng.integers(30, 76)))


def speak(text: str, voice: Voice) -> Speech:
    """Synthesise `text`: the waveform at 16 kHz and the phonemes with their times in seconds."""
    pieces: list[np.ndarray] = []
    marks: list[tuple[int, str]] = []

    @_Callback
    def receive(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != EVENT_END:
            if events[index].type == EVENT_PHONEME:
                marks.append((events[index].audio_position, events[index].id.string.decode("utf-8", "replace")))
            index += 1
        return 0

    with _fresh_library() as (library, rate_hz):
        library.espeak_SetSynthCallback(receive)
        _set_voice(library, voice)
        encoded = text.encode("utf-8")
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    return Speech(_to_16khz(np.concatenate(pieces), rate_hz), _spans(marks, sum(map(len, pieces)) / rate_hz))


def _set_voice(library: ctypes.CDLL, voice: Voice) -> None:
    if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice.name!r}: choose one of ACCENTS and TIMBRES.")
    library.espeak_SetParameter(PARAMETER_RATE, voice.words_per_minute, 0)
    library.espeak_SetParameter(PARAMETER_PITCH, voice.pitch, 0)
    library.espeak_SetParameter(PARAMETER_RANGE, voice.pitch_range, 0)


def _to_16khz(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    common = gcd(SAMPLE_RATE_HZ, rate_hz)
    waveform = resample_poly(samples.astype(np.float64) / 32768, SAMPLE_RATE_HZ // common, rate_hz // common)
    return (waveform / max(1.0, float(np.abs(waveform).max()))).astype(np.float32)


def _spans(marks: list[tuple[int, str]], duration_sec: float) -> list[Phoneme]:
    marks = [mark for mark in marks if mark[1].strip(STRESS_MARKS)]
    starts = [position / 1000 for position, _ in marks]
    ends = [*starts[1:], duration_sec]
    spans = zip(marks, starts, ends, strict=True)
    return [Phoneme(symbol, start, end) for (_, symbol), start, end in spans if end > start]
