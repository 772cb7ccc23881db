"""The people of a job: whose lips are changed, what each says when, and the sound of the output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.audio.speech_activity import FADE_SEC, at_times, speech_weights
from latentsync.files import PathLike
from latentsync.inference.jobs.cues import long_sounds
from latentsync.inference.jobs.speakers_file import SpeakerEntry, SpeakersFile, SpokenSegment
from latentsync.inference.jobs.timeline import Timeline
from latentsync.inference.settings import AUTO, InferenceSettings, Silence
from latentsync.media.probe import sound_format
from latentsync.media.sound.copy import AudioSource, PlacedSound
from latentsync.media.sound.read import read_audio
from latentsync.timebase import SAMPLE_RATE_HZ

LONGER_SEC = Fraction(1, 20)  # by which audio exceeds its cue before there is a warning


@dataclass(frozen=True)
class Speaker:
    """A person of a job whose lips are changed. `waveform` is what they say: float32 [n] at 16 kHz, from the first frame on."""

    name: str
    faces: tuple[str, ...]  # choices as of `--face`, together one person
    waveform: NDArray[np.float32] = field(repr=False)
    spans: tuple[tuple[float, float], ...] | None = None  # seconds in which they speak; None: all along
    silence: Silence | None = None  # None: the job's
    strength: float | str | None = None
    usual_silence: Silence = "model"  # where neither the person nor the job asks for more than the model's own

    @property
    def is_sought(self) -> bool:
        """Whether it is not known yet which face is theirs."""
        return self.faces == (AUTO,)

    def settings(self, settings: InferenceSettings) -> InferenceSettings:
        """A job's settings for this person."""
        usual = self.usual_silence if settings.silence == "model" else settings.silence
        strength = settings.strength if self.strength is None else self.strength
        return replace(settings, silence=self.silence or usual, strength=strength)

    def lip_weights(self, timeline: Timeline, silence: Silence) -> NDArray[np.float32]:
        """Opacity of the new lips by the sound, in each frame of the output: float32 [n], 0 where the source's lips stay."""
        times = np.array([timeline.sound_sec(frame) for frame in range(len(timeline))])
        weights = at_times(self.speech_weights, times) if silence == "keep" else np.ones(len(times), np.float32)
        return weights if self.spans is None else weights * span_weights(self.spans, times)

    @cached_property
    def speech_weights(self) -> NDArray[np.float32]:
        """See `latentsync.audio.speech_activity`."""
        return speech_weights(self.waveform)


def span_weights(spans: Sequence[tuple[float, float]], times: NDArray[np.floating]) -> NDArray[np.float32]:
    """1 at the times [n] inside of spans, and fading to 0 before and after each within `FADE_SEC`: float32 [n]."""
    away = np.full(len(times), np.inf)
    for start, stop in spans:
        away = np.minimum(away, np.maximum(np.maximum(start - times, times - stop), 0))
    return (
        np.clip(1 - away / FADE_SEC, 0, 1).round(6).astype(np.float32)
    )  # without what rounding leaves at the end of a fade


@dataclass(frozen=True)
class FilmTimes:
    """What speakers need to know of a video: its name, its end, half a frame, and where in an audio file its first frame is."""

    name: str
    end_sec: Fraction | None  # None: it has no length of its own
    slack_sec: Fraction
    sound_start_sec: Callable[[Path], float]


@dataclass(frozen=True)
class Spoken:
    """What is said in a video, by whom, and its sound."""

    people: tuple[Speaker, ...]  # those on screen
    sound: AudioSource
    sound_sec: Fraction
    waveforms: tuple[tuple[PathLike, NDArray[np.float32]], ...]  # of the files, for checks
    warnings: tuple[str, ...] = ()


def open_speakers(file: SpeakersFile, film: FilmTimes) -> Spoken:
    """Read the audio of a file of speakers.

    Raises ValueError for segments of one person that overlap, and for those beyond the end of the video, the mix or their audio.
    """
    waveforms = {path: read_audio(path)[round(film.sound_start_sec(path) * SAMPLE_RATE_HZ) :] for path in file.sounds}
    length = {path: Fraction(len(waveform), SAMPLE_RATE_HZ) for path, waveform in waveforms.items()}
    said = {person.name: list(_placed(file, person, length)) for person in file.people}
    ends = {film.name: film.end_sec, **({file.mix.name: length[file.mix]} if file.mix else {})}
    for person in file.people:
        _check_times(file, person, said[person.name] if person.segments else [], ends, film.slack_sec)
    sound_sec = length[file.mix] if file.mix else _sound_sec(file, said, film.end_sec)
    people = tuple(
        _speaker(file, person, said[person.name], waveforms, sound_sec) for person in file.people if person.faces
    )
    everything = [segment for segments in said.values() for segment in segments]
    warnings = tuple(filter(None, [long_sounds(_longer_than_cues(everything))]))
    return Spoken(people, _sound(file, film, everything, length), sound_sec, tuple(waveforms.items()), warnings)


def _longer_than_cues(segments: Sequence[SpokenSegment]) -> list[tuple[str, Fraction]]:
    """Of each segment of a subtitle with longer audio its time, and by how many seconds it is longer."""
    ends = [(segment, segment.cue_stop_sec) for segment in sorted(segments, key=lambda each: each.start_sec)]
    return [
        (f"{float(segment.start_sec):g} s", _stop(segment) - end)
        for segment, end in ends
        if end is not None and _stop(segment) - end > LONGER_SEC
    ]


def _placed(file: SpeakersFile, person: SpeakerEntry, length: Mapping[Path, Fraction]) -> Iterator[SpokenSegment]:
    """The segments of a person with their ends; all of their audio if they have none."""
    if not person.segments:
        assert person.audio is not None, "who has no segments has audio"
        yield SpokenSegment(Fraction(0), length[person.audio], person.audio, Fraction(0))
    for segment in person.segments:
        left = length[segment.audio] - segment.offset_sec
        if left <= 0:
            raise ValueError(
                f"{file.path}: segment {segment} of {person.name} begins at {float(segment.offset_sec):g} s of"
                f" {segment.audio.name}, which lasts {float(length[segment.audio]):.2f} s: give an earlier offset."
            )
        stop_sec = max(segment.start_sec + left, segment.cue_stop_sec or Fraction(0))
        yield segment if segment.stop_sec is not None else replace(segment, stop_sec=stop_sec)


def _check_times(
    file: SpeakersFile,
    person: SpeakerEntry,
    segments: Sequence[SpokenSegment],
    ends: Mapping[str, Fraction | None],
    slack_sec: Fraction,
) -> None:
    for first, second in pairwise(segments):
        if first.cue_stop_sec is not None and first.cue_stop_sec <= second.start_sec < _stop(first):
            raise ValueError(
                f"{file.path}: {first.audio.name} lasts until {float(_stop(first)):.2f} s, into the next cue of {person.name} at"
                f" {float(second.start_sec):g} s: shorten it, or move the cue."
            )
        if second.start_sec < _stop(first):
            raise ValueError(
                f"{file.path}: segments {first} and {second} of {person.name} overlap: nobody says two things at once."
            )
    for segment in segments:
        for name, end_sec in ends.items():
            if end_sec is not None and _stop(segment) > end_sec + slack_sec:
                raise ValueError(
                    f"{file.path}: segment {segment} of {person.name} is beyond the end of {name}, which lasts"
                    f" {float(end_sec):.2f} s: give earlier times."
                )


def _stop(segment: SpokenSegment) -> Fraction:
    assert segment.stop_sec is not None, "it has an end since its audio was read"
    return segment.stop_sec


def _sound_sec(file: SpeakersFile, said: Mapping[str, Sequence[SpokenSegment]], end_sec: Fraction | None) -> Fraction:
    """The length of the sum of what is said; where there are segments of the video, at least the video's length."""
    stops = [_stop(segment) for segments in said.values() for segment in segments]
    if end_sec is not None and any(person.segments for person in file.people):
        stops.append(end_sec)
    return max(stops)


def _speaker(
    file: SpeakersFile,
    person: SpeakerEntry,
    segments: Sequence[SpokenSegment],
    waveforms: Mapping[Path, NDArray[np.float32]],
    sound_sec: Fraction,
) -> Speaker:
    waveform = np.zeros(round(sound_sec * SAMPLE_RATE_HZ), np.float32)
    for segment in segments:
        times = segment.start_sec, _stop(segment), segment.offset_sec
        start, stop, offset = (round(sec * SAMPLE_RATE_HZ) for sec in times)
        place = waveform[start:stop]
        piece = waveforms[segment.audio][offset : offset + len(place)]
        place[: len(piece)] = piece
    spans = tuple((float(segment.start_sec), float(_stop(segment))) for segment in segments)
    listens = len(file.people) > 1 and not person.segments
    return Speaker(
        person.name,
        person.faces,
        waveform,
        spans if person.segments else None,
        person.silence,
        person.strength,
        "keep" if listens else "model",
    )


def _sound(
    file: SpeakersFile, film: FilmTimes, segments: Sequence[SpokenSegment], length: Mapping[Path, Fraction]
) -> AudioSource:
    """The sound of the output: the mix, the only audio file if it is used whole, or the sum of all segments."""
    first = segments[0]
    is_whole = not first.start_sec and not first.offset_sec and _stop(first) == length[first.audio]
    if file.mix or (len(segments) == 1 and is_whole):
        path = file.mix or first.audio
        return AudioSource(path, film.sound_start_sec(path))
    sounds = [
        PlacedSound(
            segment.start_sec,
            min(_stop(segment), segment.start_sec + length[segment.audio] - segment.offset_sec),
            AudioSource(segment.audio, float(segment.offset_sec) + film.sound_start_sec(segment.audio)),
        )
        for segment in segments
    ]
    formats = {segment.audio: sound_format(segment.audio) for segment in segments}
    most = max(sorted(formats), key=lambda path: formats[path][::-1])  # channels first
    ordered = sorted(
        sounds, key=lambda sound: (sound.start_sec, sound.stop_sec, str(sound.source.path), sound.source.start_sec)
    )
    return AudioSource(most, summed=tuple(ordered))
