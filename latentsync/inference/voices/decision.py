"""From scores to spans: who of the people speaks when, or nobody.

A score says how well somebody's lips fit the sound around a frame. In each frame one person speaks, or nobody who is seen.
The sequence is chosen as a whole (Viterbi): in every frame with sound a person gains their score above `FLOOR`, nobody gains 0, and
each change costs `CHANGE`, so that short doubts change nothing.

Legend: n frames at 25 fps, p people.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.audio.speech_activity import at_times, audible_frames, speech_frames
from latentsync.timebase import MODEL_FPS

Scores = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
NOBODY, SILENCE = -1, -2
FLOOR = 0.5  # from which lips rather fit the sound than not: the threshold of the SyncNets
UNSEEN = -0.1  # gain in a frame in which the face is not seen: who speaks may be covered for a moment
CHANGE = 3.0
MARGIN_SEC = 0.2  # of a span, before and after the sound
SHORTEST_SEC = 0.3  # of a span's sound


@dataclass(frozen=True)
class Span:
    """Somebody speaks: `person` is an index."""

    person: int
    start_sec: float
    stop_sec: float


def who_speaks(scores: Scores, has_sound: BoolArray) -> NDArray[np.int64]:
    """The person who speaks in each frame, int [n]; `NOBODY` if it is nobody who is seen.

    `scores` [p, n]: NaN where the face is not seen. `has_sound` [n]: scores of frames without sound do not count.
    """
    count = len(has_sound)
    gains = np.zeros((len(scores) + 1, count))  # the last row is nobody's
    gains[:-1] = np.where(np.isnan(scores), UNSEEN, scores - FLOOR) * has_sound
    total, before = gains[:, 0].copy() if count else np.zeros(len(gains)), np.zeros(gains.shape, np.int64)
    for frame in range(1, count):
        best = int(total.argmax())
        stays = total >= total[best] - CHANGE
        before[:, frame] = np.where(stays, np.arange(len(total)), best)
        total = np.where(stays, total, total[best] - CHANGE) + gains[:, frame]
    state, path = int(total.argmax()), np.zeros(count, np.int64)
    for frame in range(count - 1, -1, -1):
        path[frame] = state
        state = int(before[state, frame])
    return np.where(path == len(scores), NOBODY, path)


def sound_of_frames(waveform: NDArray[np.float32], count: int) -> tuple[BoolArray, BoolArray]:
    """bool [n] each: whether a frame is audible, and whether it may be speech or a short pause in it; audio is at 16 kHz."""
    times = (np.arange(count) + 0.5) / MODEL_FPS
    audible, speech = audible_frames(waveform), speech_frames(waveform)
    return tuple(at_times(each.astype(np.float32), times) > 0 for each in (audible, speech))  # type: ignore[return-value]


def spans_of(speaker: NDArray[np.int64], audible: BoolArray, speech: BoolArray) -> list[Span]:
    """The spans in which people speak, in order, from the first sound to the last, with a margin; long pauses divide them.

    `speaker` [n] as of `who_speaks`; `audible` and `speech` [n] as of `sound_of_frames`. Spans do not overlap: a margin ends in the
    middle of the pause before the next voice, also that of somebody who is not seen.
    """
    voices = list(_voices(np.where(speech, speaker, SILENCE), audible))
    found: list[Span] = []
    for before, voice, after in zip((None, *voices), voices, (*voices[1:], None), strict=False):
        room = voice.start_sec if before is None else (voice.start_sec - before.stop_sec) / 2
        room_after = (
            len(speaker) / MODEL_FPS - voice.stop_sec if after is None else (after.start_sec - voice.stop_sec) / 2
        )
        if voice.person != NOBODY:
            start_sec = round(voice.start_sec - min(MARGIN_SEC, room), 3)
            found.append(Span(voice.person, start_sec, round(voice.stop_sec + min(MARGIN_SEC, room_after), 3)))
    return found


def _voices(speaking: NDArray[np.int64], audible: BoolArray) -> Iterator[Span]:
    """The runs of one voice, from the first to the last audible frame; very short ones are left out."""
    borders = [0, *(np.flatnonzero(np.diff(speaking)) + 1).tolist(), len(speaking)]
    for start, stop in zip(borders, borders[1:], strict=False):
        heard = np.flatnonzero(audible[start:stop]) + start
        if len(heard) >= SHORTEST_SEC * MODEL_FPS and speaking[start] != SILENCE:
            yield Span(int(speaking[start]), float(heard[0] / MODEL_FPS), float((heard[-1] + 1) / MODEL_FPS))


def shared_sec(spans: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]) -> float:
    """Seconds that two lists of spans have in common."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in spans for b in others)
