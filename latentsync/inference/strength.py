"""The setting `strength`: how far lips open, a number or keyframes such as `0:1 12.5:0.6`."""

import numpy as np
from numpy.typing import NDArray

from latentsync.audio.speech_activity import FRAMES_PER_SEC

MOST = 2.0
BELOW, ABOVE = 0.75, 2.0  # power below 1, slope above, see `share_of_audio`
Keyframes = list[tuple[float, float]]  # seconds of the audio, strength


def keyframes(strength: float | str) -> Keyframes:
    """The keyframes of a setting; between two of them the strength changes evenly. Raises ValueError for anything else."""
    parts = [part.split(":") for part in str(strength).split()]
    try:
        frames = [
            (float(time), float(value)) for time, value in (part if len(part) > 1 else ["0", *part] for part in parts)
        ]
    except ValueError:
        frames = []
    rising = all(first[0] < second[0] for first, second in zip(frames, frames[1:], strict=False))
    if not frames or not rising or any(time < 0 or not 0 <= value <= MOST for time, value in frames):
        raise ValueError(
            f"strength is {strength!r}: choose 0 (closed lips) to {MOST:g}, 1 is the model's own, or rising keyframes of seconds"
            " and strength such as '0:1 12.5:0.6'."
        )
    return frames


def strength_at(strength: float | str, count: int) -> NDArray[np.float32]:
    """The strength in each of `count` frames of 10 ms."""
    times, values = zip(*keyframes(strength), strict=True)
    return np.interp(np.arange(count) / FRAMES_PER_SEC, times, values).astype(np.float32)


def share_of_audio(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far features must be on the way from silence to audio for lips that open `strength` times as far as by the audio.

    By measurement, see docs/inference.md: half the way gives a third of the opening, twice the way 1.4 times as much.
    """
    return np.where(strength < 1, strength**BELOW, 1 + ABOVE * (strength - 1)).astype(np.float32)
