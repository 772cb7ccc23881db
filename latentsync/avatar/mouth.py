"""Mouth motion from phonemes: one target per phoneme, then coarticulation by smoothing in time.

Targets follow the usual viseme classes: bilabials close the lips, labiodentals tuck the lower lip, open vowels open the
jaw, rounded vowels and glides narrow the mouth.
"""

from dataclasses import dataclass, fields

import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync.avatar.sound.speech import STRESS_MARKS, Phoneme
from latentsync.timebase import MODEL_FPS

CONTROL_HZ = 200  # rate at which the targets are smoothed, before they are sampled at the frames
JAW_SIGMA_SEC = 0.055  # standard deviation of the smoothing; the jaw is slow
LIP_SIGMA_SEC = 0.035  # the lips are faster


@dataclass(frozen=True)
class Target:
    """Target position of the mouth: all values in [0, 1] except `width`, -1 (rounded) ... 1 (spread)."""

    aperture: float
    width: float = 0.0
    teeth: float = 0.3
    tongue: float = 0.2
    closure: float = 0.0  # lips pressed together (p, b, m, silence)
    tuck: float = 0.0  # lower lip under the upper teeth (f, v)


@dataclass(frozen=True)
class MouthTrack:
    """Mouth motion at 25 fps: arrays [t] with the ranges of `Target`; `aperture` already includes closures."""

    aperture: np.ndarray
    width: np.ndarray
    teeth: np.ndarray
    tongue: np.ndarray
    tuck: np.ndarray

    def __len__(self) -> int:
        return len(self.aperture)


REST = Target(0.0, closure=1.0)
CLOSED = Target(0.0, closure=1.0)
TUCKED = Target(0.10, 0.1, teeth=0.8, tuck=1.0)
ALVEOLAR = Target(0.24, 0.15, teeth=0.5, tongue=0.6)
SIBILANT = Target(0.12, 0.35, teeth=1.0)
POSTALVEOLAR = Target(0.20, -0.55, teeth=0.8)
DENTAL = Target(0.22, 0.1, teeth=0.6, tongue=0.9)
VELAR = Target(0.34, 0.0)
GLOTTAL = Target(0.42, 0.0)
RHOTIC = Target(0.26, -0.35)
LABIAL_GLIDE = Target(0.14, -1.0, teeth=0.0)
OPEN, NEAR_OPEN, MID = Target(1.0, 0.1), Target(0.82, 0.3), Target(0.55, 0.05)
SPREAD, NEAR_SPREAD, E_LIKE = Target(0.30, 0.9, teeth=0.7), Target(0.40, 0.5, teeth=0.5), Target(0.62, 0.5, teeth=0.5)
ROUND, NEAR_ROUND, OPEN_ROUND = Target(0.22, -0.95, teeth=0.0), Target(0.34, -0.6), Target(0.66, -0.6)

# espeak-ng's English mnemonics without stress marks; diphthongs have several targets
TARGETS: dict[str, tuple[Target, ...]] = {
    "p": (CLOSED,), "b": (CLOSED,), "m": (CLOSED,), "f": (TUCKED,), "v": (TUCKED,),
    "t": (ALVEOLAR,), "d": (ALVEOLAR,), "n": (ALVEOLAR,), "l": (ALVEOLAR,), "s": (SIBILANT,), "z": (SIBILANT,),
    "S": (POSTALVEOLAR,), "Z": (POSTALVEOLAR,), "T": (DENTAL,), "D": (DENTAL,), "k": (VELAR,), "g": (VELAR,),
    "N": (VELAR,), "h": (GLOTTAL,), "x": (VELAR,), "r": (RHOTIC,), "R": (RHOTIC,), "w": (LABIAL_GLIDE,), "j": (SPREAD,),
    "?": (MID,), "i": (SPREAD,), "I": (NEAR_SPREAD,), "e": (E_LIKE,), "E": (E_LIKE,), "a": (NEAR_OPEN,), "A": (OPEN,),
    "V": (Target(0.72),), "3": (MID,), "@": (Target(0.45),), "u": (ROUND,), "U": (NEAR_ROUND,), "o": (OPEN_ROUND,),
    "O": (OPEN_ROUND,), "0": (Target(0.8, -0.35),), "aI": (OPEN, NEAR_SPREAD), "aU": (OPEN, ROUND),
    "eI": (E_LIKE, SPREAD), "OI": (OPEN_ROUND, NEAR_SPREAD), "oU": (OPEN_ROUND, ROUND), "e@": (E_LIKE, MID),
    "i@": (SPREAD, MID), "U@": (NEAR_ROUND, MID), "tS": (SIBILANT, POSTALVEOLAR), "dZ": (ALVEOLAR, POSTALVEOLAR),
    "_": (REST,),
}  # fmt: skip


def targets_of(symbol: str) -> tuple[Target, ...]:
    """Consecutive targets of a phoneme: those of the longest known prefix of its mnemonic, without stress marks."""
    plain = symbol.lstrip(STRESS_MARKS)
    for length in range(len(plain), 0, -1):
        if plain[:length] in TARGETS:
            return TARGETS[plain[:length]]
    return (MID,) if plain else (REST,)


def mouth_track(phonemes: list[Phoneme], frames: int) -> MouthTrack:
    """Mouth motion for `frames` video frames at 25 fps; phoneme times are in seconds from frame 0."""
    raw = _target_grid(phonemes, frames)
    smooth = {name: gaussian_filter1d(values, _sigma_sec(name) * CONTROL_HZ) for name, values in raw.items()}
    aperture = smooth["aperture"] * (1 - np.clip(1.3 * smooth["closure"], 0, 1))
    at = np.round((np.arange(frames) + 0.5) / MODEL_FPS * CONTROL_HZ).astype(int)  # middle of each frame
    tracks = {name: smooth[name][at].astype(np.float32) for name in ("width", "teeth", "tongue", "tuck")}
    return MouthTrack(aperture=np.clip(aperture[at], 0, 1).astype(np.float32), **tracks)


def _sigma_sec(name: str) -> float:
    return LIP_SIGMA_SEC if name in ("closure", "tuck") else JAW_SIGMA_SEC


def _target_grid(phonemes: list[Phoneme], frames: int) -> dict[str, np.ndarray]:
    """Piecewise constant targets at `CONTROL_HZ`, one array per field of `Target`."""
    length = int(np.ceil(frames / MODEL_FPS * CONTROL_HZ)) + 1
    grid = {field.name: np.full(length, getattr(REST, field.name), dtype=np.float64) for field in fields(Target)}
    for phoneme in phonemes:
        stops = targets_of(phoneme.symbol)
        edges = np.linspace(phoneme.start_sec, phoneme.end_sec, len(stops) + 1) * CONTROL_HZ
        for target, first, last in zip(stops, edges[:-1], edges[1:], strict=True):
            for name, values in grid.items():
                values[max(0, round(first)) : round(last)] = getattr(target, name)
    return grid
