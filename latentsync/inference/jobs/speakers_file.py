"""The file that says who speaks in a video with several people (`--speakers`): JSON, CSV, RTTM for segments, subtitles.

docs/dubbing.md describes it, docs/speakers.schema.json its JSON form. Times are seconds of the video. People are sorted by name, so
that their order in the file has no influence.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, get_args

from latentsync.inference.faces.select import parse_face_choice
from latentsync.inference.jobs import cues
from latentsync.inference.jobs.ranges import TIME, seconds_of
from latentsync.inference.settings import AUTO, Silence, keyframes
from latentsync.media.container import check_readable

FILE = ("mix", "cues", "found", "people", "segments")  # keys of the JSON form
PERSON = ("face", "audio", "silence", "strength")
SEGMENT = ("speaker", "start", "end", "audio", "offset")  # also the columns of a CSV file, where `face` is another one
RTTM = ".rttm"  # names no sounds and no faces
KINDS = (".json", ".csv", *cues.KINDS)
TABLES = (".csv", RTTM, *cues.KINDS)  # that a JSON file can name as its segments
RTTM_FIELDS = 8  # of a line, at least: type, file, channel, start, duration, -, -, name
PAGE = "see docs/dubbing.md"


@dataclass(frozen=True)
class SpokenSegment:
    """From `start_sec` to `stop_sec` of the video somebody speaks: `audio`, from its second `offset_sec` on."""

    start_sec: Fraction
    stop_sec: Fraction | None  # None: as long as the audio
    audio: Path
    offset_sec: Fraction
    cue_stop_sec: Fraction | None = None  # of a subtitle: it lasts at least so long

    def __str__(self) -> str:
        stop = "" if self.stop_sec is None else f"{float(self.stop_sec):g}"
        return f"{float(self.start_sec):g}-{stop}"


@dataclass(frozen=True)
class SpeakerEntry:
    """A person of the file, who speaks in `segments`, or without any all along, as in `audio`."""

    name: str
    faces: tuple[str, ...]  # choices as of `--face`, together one person; none: off screen
    audio: Path | None
    segments: tuple[SpokenSegment, ...]
    silence: Silence | None
    strength: float | str | None

    @property
    def is_sought(self) -> bool:
        """Whether the face is found by the lips, see `latentsync.inference.jobs.found_speakers`."""
        return self.faces == (AUTO,)


@dataclass(frozen=True)
class SpeakersFile:
    """The content of a file of speakers."""

    path: Path
    people: tuple[SpeakerEntry, ...]  # by name
    mix: Path | None  # the sound of the output; None: the sum of what is said
    table: Path | None = None  # the file of its segments

    @property
    def sounds(self) -> tuple[Path, ...]:
        """All audio files, each once."""
        said = {segment.audio for person in self.people for segment in person.segments}
        said |= {person.audio for person in self.people if person.audio and not person.segments}
        return tuple(sorted(said | ({self.mix} if self.mix else set())))

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it names, but for pictures of faces."""
        return (*self.sounds, *([self.table] if self.table else []))


def is_speakers_file(path: Path) -> bool:
    """Whether a name is that of a file of speakers, not of audio."""
    return path.suffix.lower() in (*KINDS, RTTM)


def is_sought(speakers: str) -> bool:
    """Whether a choice of speakers goes with a mix, and is the option `speakers` of a job."""
    return speakers == AUTO or Path(speakers).suffix.lower() == RTTM


def read_speakers(path: Path) -> SpeakersFile:
    """Read a JSON or CSV file of speakers, or subtitles; names of files in it are relative to its folder.

    Raises ValueError for the first thing that is wrong in it, and MediaError for an audio file that is missing or unreadable.
    """
    return speakers_of(path, read_content(path))


def read_content(path: Path) -> dict[str, Any]:
    """The content of a file of speakers, in the form of a JSON file. Raises ValueError if it cannot be read."""
    kind = path.suffix.lower()
    if kind == RTTM:
        raise ValueError(
            f'{path} does not say which sound: give the mix beside it, or name it as "segments" of a JSON file, {PAGE}.'
        )
    text = _text(path)
    if kind in cues.KINDS:
        return cues.content_of_cues(path)
    return _json(path, text) if kind == ".json" else _content_of_csv(path, text)


def speakers_of(path: Path, content: Mapping[str, Any]) -> SpeakersFile:
    """The speakers of a file's content; `path` gives its folder, and its name in messages. Raises as `read_speakers` does."""
    if unknown := _unknown(content, FILE):
        raise ValueError(f"{path}: {unknown!r} is unknown. Known are {', '.join(FILE)}.")
    mix = _audio(path, content.get("mix"))
    segments = content.get("segments")
    table = path.parent / segments if isinstance(segments, str) and path.name != segments else None
    file = SpeakersFile(path, tuple(_people(path, content, mix)), mix, table)
    for first, second in combinations(file.people, 2):
        if common := set(first.faces) & set(second.faces) - {AUTO}:
            raise ValueError(
                f"{path}: {first.name} and {second.name} have the same face ({min(common)}): give each one."
            )
    if not any(person.faces for person in file.people):
        raise ValueError(f"{path}: nobody has a face: give one to at least one person.")
    for sound in file.sounds:
        check_readable(sound)
    return file


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"the file {path} does not exist: give a file that says who speaks, {PAGE}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): save it as text in UTF-8.") from error


def _json(path: Path, text: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for first, second in pairwise(sorted(name for name, _ in pairs)):
            if first == second:
                raise ValueError(f"{first!r} is there twice")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable JSON file ({error}). Correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: give an object such as {{"people": {{...}}}}, {PAGE}.')
    return content


def _content_of_csv(path: Path, text: str) -> dict[str, Any]:
    """The rows of a CSV file in the form of a JSON file. A person without a `face` has the name as choice of the face."""
    people: dict[str, dict[str, Any]] = {}
    segments = _csv_rows(path, text, (*SEGMENT, "face"))
    for row in segments:
        faces = people.setdefault(row.get("speaker", ""), {"face": []})["face"]
        face = row.pop("face", None)
        if face and face not in faces:
            faces.append(face)
    for name, person in people.items():
        person["face"] = sorted(person["face"]) or name
    return {"people": people, "segments": segments}


def _csv_rows(path: Path, text: str, known: Sequence[str] = SEGMENT) -> list[dict[str, Any]]:
    reader = csv.DictReader(text.splitlines())
    if unknown := _unknown(reader.fieldnames or (), known):
        raise ValueError(f"{path}: the column {unknown!r} is unknown. Known are {', '.join(known)}.")
    rows = [{name: value for name, value in row.items() if name and value} for row in reader]
    return [row for row in rows if row]


def rttm_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The segments of an RTTM file, the usual output of speaker diarisation (NIST RT-09 evaluation plan, appendix A).

    Raises ValueError if it is missing or a line is wrong.
    """
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0] != "SPEAKER":
            continue
        try:
            start, duration = Fraction(words[3]), Fraction(words[4])
            name = words[RTTM_FIELDS - 1]
        except (IndexError, ValueError, ZeroDivisionError):
            raise ValueError(f"{path}, line {number} is no segment of RTTM: correct the line.") from None
        yield {"speaker": name, "start": str(float(start)), "end": str(float(start + duration))}


def audio_names(content: Mapping[str, Any], folder: Path, moved: Callable[[str], str]) -> dict[str, Any]:
    """The content of a JSON file of speakers in `folder`, with the names of all files, also of pictures of faces, `moved`."""

    def row(given: Mapping[str, Any]) -> dict[str, Any]:
        change = {"audio": moved, "face": face}
        return {key: change[key](value) if value and key in change else value for key, value in given.items()}

    def face(given: Any) -> Any:
        if isinstance(given, list):
            return [face(each) for each in given]
        return moved(given) if isinstance(given, str) and (folder / given).is_file() else given

    done = dict(content)
    for key in ("mix", "cues"):
        if done.get(key):
            done[key] = moved(done[key])
    segments = done.get("segments", [])
    done["segments"] = moved(segments) if isinstance(segments, str) else [row(each) for each in segments]
    return {**done, "people": {name: row(person) for name, person in done["people"].items()}}


def _unknown(names: Any, known: Sequence[str]) -> Any:
    return next((name for name in names if name not in known), None)


def _people(path: Path, content: Mapping[str, Any], mix: Path | None) -> Iterator[SpeakerEntry]:
    """The people of a file, by name."""
    people = content.get("people")
    if not isinstance(people, dict) or not people or not all(isinstance(person, dict) for person in people.values()):
        raise ValueError(f'{path}: "people" is missing or empty: give for each name an object with a "face", {PAGE}.')
    rows = _segment_rows(path, content, sorted(people))
    for row in rows:
        if row.get("speaker") not in people:
            known = ", ".join(sorted(people))
            raise ValueError(f"{path}: a segment names {row.get('speaker')!r}, who is not among the people ({known}).")
    for name in sorted(people):
        person = _Person(path, name, people[name], mix)
        yield person.entry([row for row in rows if row["speaker"] == name])


def _segment_rows(path: Path, content: Mapping[str, Any], people: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of "segments": a list, or the name of a CSV or RTTM file, or of subtitles."""
    segments = content.get("segments", [])
    kind = Path(segments).suffix.lower() if isinstance(segments, str) else ""
    if "cues" in content and kind not in cues.KINDS:
        raise ValueError(f'{path}: "cues" is the folder with the audio of subtitles: name them as "segments", {PAGE}.')
    if kind in TABLES:
        return _table_rows(path.parent / segments, path, content, people)
    if not isinstance(segments, list) or not all(isinstance(row, dict) for row in segments):
        raise ValueError(
            f'{path}: "segments" are no list of objects and no name of a file ({", ".join(TABLES)}), {PAGE}.'
        )
    for row in segments:
        if unknown := _unknown(row, SEGMENT):
            raise ValueError(f"{path}: {unknown!r} of a segment is unknown. Known are {', '.join(SEGMENT)}.")
    return segments


def _table_rows(file: Path, path: Path, content: Mapping[str, Any], people: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the file that the speakers' file `path` names as its segments."""
    if file.suffix.lower() == ".csv":
        return _csv_rows(file, _text(file))
    if file.suffix.lower() == RTTM:
        return list(rttm_rows(file))
    if content.get("cues") is not None:
        return cues.cue_rows(file, people, _audio(path, content["cues"]))
    has_sound = content.get("mix") or any("audio" in person for person in content["people"].values())
    return cues.cue_rows(file, people, None if has_sound else cues.folder_of_cues(file))


def _audio(path: Path, name: Any) -> Path | None:
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path}: {name!r} is no audio file: give its name.")
    return path.parent / name


@dataclass(frozen=True)
class _Person:
    """A person of the file that is read, for messages."""

    path: Path
    name: str
    given: Mapping[str, Any]
    mix: Path | None

    def entry(self, rows: Sequence[Mapping[str, Any]]) -> SpeakerEntry:
        if not self.name:
            raise self.wrong("somebody has no name: name every speaker")
        if unknown := _unknown(self.given, PERSON):
            raise self.wrong(f"{unknown!r} of {self.name} is unknown; known are {', '.join(PERSON)}")
        audio, silence, strength = (self.given.get(key) for key in ("audio", "silence", "strength"))
        if silence is not None and silence not in get_args(Silence):
            raise self.wrong(f"silence of {self.name} is {silence!r}: choose {' or '.join(get_args(Silence))}")
        if strength is not None:
            self.checked(keyframes, strength)
        if audio is None and not rows:
            raise self.wrong(f'{self.name} says nothing: give "audio" or segments')
        if self.given.get("face") == AUTO and not rows:
            raise self.wrong(f"the face of {self.name} is {AUTO}, which is found by segments: give some")
        own = _audio(self.path, audio)
        segments = sorted((self.segment(row, own) for row in rows), key=lambda segment: segment.start_sec)
        return SpeakerEntry(self.name, self.faces(), own, tuple(segments), silence, strength)

    def faces(self) -> tuple[str, ...]:
        """The choices of the face, in any order the same; a picture is one beside the file."""
        if "face" not in self.given:
            raise self.wrong(f'{self.name} has no "face": give one as for --face, or null for a voice off screen')
        face = self.given["face"]
        if face == []:
            raise self.wrong(f"the list of faces of {self.name} is empty: give null for a voice off screen")
        if face == AUTO:
            return (AUTO,)
        choices = [str(each) for each in (face if isinstance(face, list) else [] if face is None else [face])]
        beside = [str(self.path.parent / each) if (self.path.parent / each).is_file() else each for each in choices]
        for choice in beside:
            self.checked(parse_face_choice, choice)
        return tuple(sorted(set(beside)))

    def segment(self, row: Mapping[str, Any], own: Path | None) -> SpokenSegment:
        """A segment. Without audio of its own it has the part of the person's audio, or else of the mix, at the same time."""
        if "start" not in row:
            raise self.wrong(f"a segment of {self.name} has no start")
        start = self.seconds(row["start"])
        stop = None if row.get("end") is None else self.seconds(row["end"])
        audio = _audio(self.path, row.get("audio")) or own or self.mix
        if audio is None:
            raise self.wrong(f'the segment of {self.name} at {float(start):g} s has no audio, and there is no "mix"')
        runs_along = row.get("audio") is None
        if stop is None and runs_along:
            raise self.wrong(f"the segment of {self.name} at {float(start):g} s has no end")
        offset = row.get("offset", row["start"] if runs_along else 0)
        segment = SpokenSegment(start, stop, audio, self.seconds(offset), row.get("cue_end"))
        if stop is not None and stop <= start:
            raise self.wrong(f"segment {segment} of {self.name} ends before it begins")
        return segment

    def seconds(self, value: Any) -> Fraction:
        """A time as in `--range`: seconds as number or text, or [H:]MM:SS."""
        if isinstance(value, bool) or not re.fullmatch(TIME, str(value)):
            raise self.wrong(
                f"{value!r} of a segment of {self.name} is no time: give seconds, such as 12.5, or [H:]MM:SS"
            )
        return seconds_of(str(value))

    def checked(self, check: Callable[[Any], Any], value: Any) -> None:
        try:
            check(value)
        except ValueError as error:
            raise ValueError(f"{self.path}: {self.name}: {error}") from error

    def wrong(self, text: str) -> ValueError:
        return ValueError(f"{self.path}: {text}.")
