"""Whether a sound is loud enough to be heard, and where it moves as speech does.

Speech is known by its syllables: the level rises and falls by many decibels several times a second, in several bands of the
spectrum at once. Tones, hum and steady noise do not. Music and other lively sounds often do, so that what is found only *may* be
speech, while a sound in which nothing is found has none.

Tensor legend: n frames of 10 ms, b bands.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, uniform_filter1d
from scipy.signal import find_peaks

from latentsync.timebase import SAMPLE_RATE_HZ

FRAMES_PER_SEC = 100
HOP = SAMPLE_RATE_HZ // FRAMES_PER_SEC  # samples of a frame
WINDOW = 512  # samples that a frame's level is measured over
BAND_EDGES_HZ = (150, 500, 1000, 2000, 4000, 7000)
CHUNK = 6000  # frames that are measured at once
SMOOTH = 5  # frames that levels are averaged over, fewer than a syllable has
FLOOR_DB = -90.0  # about the rounding to 16 bits

INAUDIBLE_DB = -60.0  # of the loudest tenth of a second
PAUSE_DB = 45.0  # below the loudest frame; what is quieter is a pause
SYLLABLE_DB = 6.0  # above the quietest moments before and after it
AROUND = 101  # frames in which these moments lie, the syllable in the middle
TOGETHER = 6  # frames between a syllable's peaks in different bands, at most
BANDS = 2  # in which a syllable is found, at least
NEIGHBOURS = 120  # frames between syllables that belong together, at most
LONE_FRAMES = 12  # that a syllable without neighbours lasts at least; a click is shorter
EDGE = 20  # frames that speech begins before its first peak and ends after its last one

Fault = Literal["inaudible", "no speech"]


def speech_fault(waveform: NDArray[np.floating]) -> Fault | None:
    """Why lips cannot follow a sound, float [samples] at 16 kHz in [-1, 1]; None where they can, or where there is doubt.

    "inaudible": its loudest tenth of a second is below `INAUDIBLE_DB`; "no speech": a second or more without any syllables.
    """
    if loudest_db(waveform) < INAUDIBLE_DB:
        return "inaudible"
    return None if len(waveform) < SAMPLE_RATE_HZ or speech_frames(waveform).any() else "no speech"


def speech_frames(waveform: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where a sound, float [samples] at 16 kHz, moves as speech does: bool [n], false in pauses longer than about a second.

    A syllable is measured by the quiet around it, so that steady noise beside a voice matters little.
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


def syllables_of(levels_db: NDArray[np.floating], min_frames: int) -> NDArray[np.int64]:
    """The frames about which levels [n, b] rise and fall together in several bands, for so many frames at least."""
    lowest = max(FLOOR_DB + SYLLABLE_DB, levels_db.max(initial=FLOOR_DB) - PAUSE_DB)
    votes = np.zeros(len(levels_db), np.int64)
    for band in levels_db.T:
        peaks, _ = find_peaks(
            band, lowest, plateau_size=(1, AROUND // 2), prominence=SYLLABLE_DB, width=min_frames, wlen=AROUND
        )
        marks = np.zeros(len(band), bool)
        marks[peaks] = True
        votes += binary_dilation(marks, iterations=TOGETHER)
    return np.flatnonzero(np.diff((votes >= BANDS).astype(np.int8), prepend=0) == 1)


def band_levels_db(waveform: NDArray[np.floating]) -> NDArray[np.float32]:
    """Smoothed level of each frame in each band, float32 [n, b], dB of full scale, `FLOOR_DB` at least."""
    padded = np.pad(np.asarray(waveform, np.float32), WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    shape = np.hanning(WINDOW).astype(np.float32)
    bins = np.searchsorted(np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE_HZ), BAND_EDGES_HZ)
    power = np.empty((len(windows), len(bins) - 1))
    for start in range(0, len(windows), CHUNK):
        spectra = np.abs(np.fft.rfft(windows[start : start + CHUNK] * shape)) ** 2
        power[start : start + CHUNK] = np.add.reduceat(spectra, bins, axis=1)[:, :-1]
    mean_square = uniform_filter1d(power, SMOOTH, axis=0) * 2 / (WINDOW * np.square(shape).sum())
    return (10 * np.log10(mean_square + 10 ** (FLOOR_DB / 10))).astype(np.float32)


def loudest_db(waveform: NDArray[np.floating]) -> float:
    """Level of the loudest tenth of a second, dB of full scale; minus infinity for digital silence."""
    block = SAMPLE_RATE_HZ // 10
    square = np.square(np.asarray(waveform, np.float64))
    blocks = np.add.reduceat(square, range(0, len(square), block)) / block if len(square) else np.zeros(1)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(blocks.max()))
