"""Ranges of a film that are edited while the rest stays as it is (`--range`): parsing, and their frames and sound.

A range is written START-END: seconds of the video, or [H:]MM:SS. START-END@AUDIO also says from which second the audio file
plays in it. Without @AUDIO the first range plays the audio from its start, and every later range from where the one before ended.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from latentsync.inference.settings import JobOptions

TIME = r"((?:\d+:){0,2}\d+(?:\.\d*)?)"
RANGE = re.compile(rf"{TIME}\s*-\s*{TIME}(?:@{TIME})?")
MIN_RANGE_SEC = Fraction(1, 5)
WAY_TO_WRITE = "write START-END in seconds, such as 12.5-31.0, or START-END@AUDIO"


@dataclass(frozen=True)
class TimeRange:
    """A range as written by the user; times in seconds. `sound_sec`: of the audio at its start, None: not given."""

    start_sec: Fraction
    stop_sec: Fraction
    sound_sec: Fraction | None = None

    def __str__(self) -> str:
        return f"{float(self.start_sec):g}-{float(self.stop_sec):g}"


@dataclass(frozen=True)
class EditedRange:
    """A range of a film: its frames, its time, and the part of the audio that plays in it."""

    frames: range
    start_sec: Fraction
    stop_sec: Fraction
    sound_sec: Fraction  # of the audio at the start

    @property
    def duration_sec(self) -> Fraction:
        return self.stop_sec - self.start_sec

    @property
    def sound_stop_sec(self) -> Fraction:
        return self.sound_sec + self.duration_sec


def parse_ranges(text: str) -> tuple[TimeRange, ...]:
    """Parse ranges that are separated by spaces or commas; none in an empty text.

    Raises ValueError for a range that cannot be read, is reversed or shorter than `MIN_RANGE_SEC`, or begins before the one
    before it ends.
    """
    ranges: list[TimeRange] = []
    for word in text.replace(",", " ").split():
        match = RANGE.fullmatch(word)
        if match is None:
            raise ValueError(f"range {word!r} cannot be read: {WAY_TO_WRITE}.")
        start, stop, sound = (None if time is None else seconds_of(time) for time in match.groups())
        assert start is not None and stop is not None, "the pattern has both"
        found = TimeRange(start, stop, sound)
        if stop <= start:
            raise ValueError(f"range {word} ends before it begins: {WAY_TO_WRITE}.")
        if stop - start < MIN_RANGE_SEC:
            raise ValueError(f"range {word} is too short: give at least {float(MIN_RANGE_SEC):g} s.")
        if ranges and start < ranges[-1].stop_sec:
            raise ValueError(
                f"range {found} begins before range {ranges[-1]} ends: give ranges in the order of time, without overlap."
            )
        ranges.append(found)
    return tuple(ranges)


def seconds_of(time: str) -> Fraction:
    """Seconds of a time such as 12.5, 1:02.5 or 1:00:00."""
    seconds = Fraction(0)
    for part in time.split(":"):
        seconds = 60 * seconds + Fraction(part)
    return seconds


def check_ranges(options: JobOptions) -> tuple[TimeRange, ...]:
    """The parsed ranges of a job. Raises ValueError as `parse_ranges` does, and for options that contradict ranges."""
    ranges = parse_ranges(options.ranges)
    given = {name: getattr(options, name) for name in ("fps", "start_sec", "limit_sec")}
    for name, value in given.items() if ranges else ():
        if value is not None:
            raise ValueError(f"a range keeps the film's own frames and length: leave out {name}, or the range.")
    return ranges


def edited_ranges(
    ranges: Sequence[TimeRange], times_sec: Sequence[Fraction], sound_sec: Fraction, film: str, audio: str
) -> tuple[EditedRange, ...]:
    """The ranges of a film with frames at `times_sec` [n + 1] (the last entry is the end) and `sound_sec` seconds of audio.

    A frame belongs to a range that covers at least half of its duration. `film` and `audio` are names for messages.

    Raises ValueError for a range beyond the end of the film or the audio.
    """
    end, slack = times_sec[-1], times_sec[-1] / (2 * (len(times_sec) - 1))  # half a frame
    middles = np.array([float(start + stop) / 2 for start, stop in zip(times_sec, times_sec[1:], strict=False)])
    found: list[EditedRange] = []
    for wanted in ranges:
        if wanted.stop_sec > end + slack:
            raise ValueError(
                f"range {wanted} is beyond the end of {film}, which lasts {float(end):.2f} s: give an earlier range."
            )
        stop_sec = min(wanted.stop_sec, end)
        start, stop = (int(np.searchsorted(middles, float(sec))) for sec in (wanted.start_sec, stop_sec))
        if start == stop:
            raise ValueError(f"range {wanted} shows no frame of {film}: give a longer range.")
        begin = wanted.sound_sec
        if begin is None:
            begin = found[-1].sound_stop_sec if found else Fraction(0)
        edited = EditedRange(range(start, stop), wanted.start_sec, stop_sec, begin)
        if edited.sound_stop_sec > sound_sec + slack:
            raise ValueError(
                f"range {wanted} needs {audio} up to {float(edited.sound_stop_sec):.2f} s, but it lasts"
                f" {float(sound_sec):.2f} s: give a shorter range, or longer audio."
            )
        found.append(edited)
    return tuple(found)


def sound_sentence(ranges: Sequence[EditedRange], audio: str) -> str:
    """Which part of the audio plays in which range, in one sentence."""
    parts = [
        f"{float(each.sound_sec):.2f}-{float(each.sound_stop_sec):.2f} s at {float(each.start_sec):.2f} s"
        for each in ranges
    ]
    return f"in the ranges {audio} plays: {', '.join(parts)}; elsewhere the video's own sound"


def unused_sound_warning(ranges: Sequence[EditedRange], sound_sec: Fraction, audio: str) -> str | None:
    """A warning if audio is left after the last range, as where a file runs along with the film; None if there is hardly any."""
    left = sound_sec - max(each.sound_stop_sec for each in ranges)
    if left < 1:
        return None
    first = ranges[0]
    times = f"{float(first.start_sec):g}-{float(first.stop_sec):g}@{float(first.start_sec):g}"
    return (
        f"{audio} lasts {float(left):.1f} s longer than the ranges need. If it runs along with the video, say which part"
        f" plays in a range: {times}."
    )
