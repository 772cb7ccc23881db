"""Speech activity detection: whether audio is audible, and where its level varies like that of speech.

Speech is detected by its syllables: the level rises and falls by many decibels several times a second, in several frequency
bands at once. Tones, hum and steady noise do not. Music and other varying sounds often do, so a detection means only that
there *may* be speech; audio without a detection has none.

Tensor legend: n frames of 10 ms, b bands.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentsync.audio.peaks import find_peaks, moving_average, spread
from latentsync.timebase import SAMPLE_RATE_HZ

FRAMES_PER_SEC = 100
HOP = SAMPLE_RATE_HZ // FRAMES_PER_SEC  # samples of a frame
WINDOW = 512  # samples in which the level of a frame is measured
BAND_EDGES_HZ = (150, 500, 1000, 2000, 4000, 7000)
CHUNK = 6000  # frames computed at once
SMOOTH = 5  # frames in the moving average of the levels, shorter than a syllable
FLOOR_DB = -90.0  # about the quantisation noise of 16 bits

INAUDIBLE_DB = -60.0  # audio whose loudest tenth of a second is below this is inaudible
PAUSE_DB = 45.0  # frames quieter than the loudest one by more than this are pauses
QUIET_DB = 35.0  # frames quieter than the loudest one by more than this are silent between words
SYLLABLE_DB = 6.0  # prominence of a syllable above the minima before and after it
AROUND = 50  # largest distance in frames of these minima from the syllable
TOGETHER = 6  # largest distance in frames between the peaks of one syllable in different bands
BANDS = 2  # least number of bands in which a syllable has a peak
NEIGHBOURS = 120  # largest distance in frames between two syllables of one utterance
LONE_FRAMES = 12  # least length of an isolated syllable in frames; clicks are shorter
EDGE = 20  # frames of speech before the first peak and after the last one

FADE_SEC = 0.16  # in which new lips appear before speech and disappear after it

SpeechProblem = Literal["inaudible", "no speech"]


def speech_problem(waveform: NDArray[np.floating]) -> SpeechProblem | None:
    """Why lips cannot be synchronised to audio, float [samples] at 16 kHz in [-1, 1]; None if they can, or if uncertain.

    "inaudible": the loudest tenth of a second is below `INAUDIBLE_DB`; "no speech": a second or more without syllables.
    """
    if loudest_db(waveform) < INAUDIBLE_DB:
        return "inaudible"
    return None if len(waveform) < SAMPLE_RATE_HZ or speech_frames(waveform).any() else "no speech"


def speech_frames(waveform: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Frames of audio, float [samples] at 16 kHz, that may be speech: bool [n], false in pauses longer than about a second.

    Syllables are detected relative to the minima around them, so that steady background noise has little influence.
    """
    levels = band_levels_db(waveform)
    syllables = syllables_of(levels, 1)
    speech = np.zeros(len(levels), bool)
    for first, second in zip(syllables, syllables[1:], strict=False):
        if second - first <= NEIGHBOURS:
            speech[max(0, first - EDGE) : second + EDGE] = True
    for syllable in syllables_of(levels, LONE_FRAMES):
        speech[max(0, syllable - EDGE) : syllable + EDGE] = True
    return speech


def audible_frames(waveform: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Frames of audio, float [samples] at 16 kHz, that are at most `QUIET_DB` quieter than the loudest one: bool [n]."""
    levels = band_levels_db(waveform).max(axis=1)
    return np.asarray(levels > max(INAUDIBLE_DB, float(levels.max(initial=FLOOR_DB)) - QUIET_DB))


def speech_weights(waveform: NDArray[np.floating]) -> NDArray[np.float32]:
    """How far lips shall follow the audio, float [samples] at 16 kHz, in each frame of 10 ms: 1 in speech, 0 in long pauses.

    They fade in the pauses, beside the speech.
    """
    speech = speech_frames(waveform)
    away = np.minimum(frames_since(speech), frames_since(speech[::-1])[::-1])
    return np.clip(1 - away / (FADE_SEC * FRAMES_PER_SEC), 0, 1).astype(np.float32)


def at_times(per_frame: NDArray[np.float32], times_sec: NDArray[np.floating]) -> NDArray[np.float32]:
    """The values of frames of 10 ms at each time [t]; times after the last frame have its value."""
    frames = (times_sec * FRAMES_PER_SEC + 1e-6).astype(int)
    return per_frame[np.minimum(frames, len(per_frame) - 1)]


def frames_since(marks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Frames since the last mark before each, [n]: 0 at a mark, infinite before the first one."""
    index = np.arange(len(marks))
    last = np.maximum.accumulate(np.where(marks, index, -1))
    return np.where(last < 0, np.inf, index - last)


def syllables_of(levels_db: NDArray[np.floating], min_frames: int) -> NDArray[np.int64]:
    """Frames at which the levels [n, b] of several bands have a common peak of at least `min_frames` width: int [k]."""
    lowest = max(FLOOR_DB + SYLLABLE_DB, levels_db.max(initial=FLOOR_DB) - PAUSE_DB)
    votes = np.zeros(len(levels_db), np.int64)
    for band in levels_db.T:
        marks = np.zeros(len(band), bool)
        marks[find_peaks(band, lowest, SYLLABLE_DB, min_frames, AROUND)] = True
        votes += spread(marks, TOGETHER)
    return np.flatnonzero(np.diff((votes >= BANDS).astype(np.int8), prepend=0) == 1)


def band_levels_db(waveform: NDArray[np.floating]) -> NDArray[np.float32]:
    """Smoothed level of each frame in each band, float32 [n, b], in dBFS, at least `FLOOR_DB`."""
    padded = np.pad(np.asarray(waveform, np.float32), WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    shape = np.hanning(WINDOW).astype(np.float32)
    bins = np.searchsorted(np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE_HZ), BAND_EDGES_HZ)
    power = np.empty((len(windows), len(bins) - 1))
    for start in range(0, len(windows), CHUNK):
        spectra = np.abs(np.fft.rfft(windows[start : start + CHUNK] * shape)) ** 2
        power[start : start + CHUNK] = np.add.reduceat(spectra, bins, axis=1)[:, :-1]
    mean_square = moving_average(power, SMOOTH) * 2 / (WINDOW * np.square(shape).sum())
    return (10 * np.log10(mean_square + 10 ** (FLOOR_DB / 10))).astype(np.float32)


def loudest_db(waveform: NDArray[np.floating]) -> float:
    """Level of the loudest tenth of a second in dBFS; minus infinity for digital silence."""
    block = SAMPLE_RATE_HZ // 10
    square = np.square(np.asarray(waveform, np.float64))
    blocks = np.add.reduceat(square, range(0, len(square), block)) / block if len(square) else np.zeros(1)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(blocks.max()))
