"""Subtitles (SRT and WebVTT) in place of segments: who speaks when, with an audio file for each cue, which has its number.

docs/dubbing.md describes it. Who speaks is the name of a WebVTT voice (`<v Anna>`), or the text's beginning in capitals (`ANNA:`).
"""

import html
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from latentsync.inference.faces.select import parse_face_choice
from latentsync.inference.jobs.ranges import TIME, seconds_of

KINDS = (".srt", ".vtt")
TIMES = re.compile(rf"{TIME}\s*-->\s*{TIME}(?:\s.*)?")
VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
NAME = re.compile(r"[-\u2013\s]*([^:\n]{1,40}?)\s*:\s+(.*)", re.DOTALL)
TAG = re.compile(r"</?[a-zA-Z][^>]*>|<[\d:.]+>|\{\\[^}]*\}")
ALONE = "speaker"  # the only one, if subtitles name nobody
MAX_LISTED = 5  # cues in a message


@dataclass(frozen=True)
class Cue:
    """A subtitle: `speaker` is empty if it does not say whose words they are; `text` has no name and no tags."""

    number: int  # as it stands above the cue, or its place, from 1
    start: str  # [H:]MM:SS
    end: str
    speaker: str
    text: str

    def __str__(self) -> str:
        return f"cue {self.number} ({self.start})"


def read_cues(path: Path, people: Collection[str] = ()) -> list[Cue]:
    """The cues of a .srt or .vtt file that have text. A name before a colon is one of `people`, in any case, or in capitals.

    Raises ValueError for a file that cannot be read, a cue that ends before it begins, and two cues of the same number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give subtitles, saved in UTF-8.") from error
    cues = [cue for cue in _cues(text, people) if cue.text]
    if not cues:
        raise ValueError(f"{path} has no cues: give subtitles in SRT or WebVTT.")
    seen: set[int] = set()
    for cue in cues:
        if seconds_of(cue.end) <= seconds_of(cue.start):
            raise ValueError(f"{path}: {cue} ends before it begins: correct its times.")
        if cue.number in seen:
            raise ValueError(f"{path}: two cues have the number {cue.number}: give each its own.")
        seen.add(cue.number)
    return cues


def _cues(text: str, people: Collection[str]) -> Iterator[Cue]:
    blocks = re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n"))
    place = 0
    for block in blocks:
        lines = block.strip("\n").split("\n")
        # the first line with times; before it there may be a number, after it is the text
        found = next(((n, match) for n, line in enumerate(lines[:2]) if (match := _times(line))), None)
        if found is None:
            continue
        place += 1
        line, match = found
        number = lines[0].strip() if line else ""
        speaker, words = _speaker("\n".join(lines[line + 1 :]), people)
        yield Cue(int(number) if number.isdecimal() else place, match[1], match[2], speaker, words)


def _times(line: str) -> re.Match[str] | None:
    return TIMES.fullmatch(line.strip().replace(",", "."))


def _speaker(text: str, people: Collection[str]) -> tuple[str, str]:
    """Who says the text of a cue, and the words without name and tags."""
    voice = VOICE.search(text)
    plain = html.unescape(TAG.sub("", text)).strip()
    if voice:
        return _known(html.unescape(voice[1].strip()), people), " ".join(plain.split())
    named = NAME.fullmatch(plain)
    if named and (named[1] == named[1].upper() != named[1].lower() or _known(named[1], people) in people):
        return _known(named[1], people), " ".join(named[2].split())
    return "", " ".join(plain.split())


def _known(name: str, people: Collection[str]) -> str:
    """The name of one of `people` that is the same but for capitals; else the name itself."""
    return next((each for each in people if each.casefold() == name.casefold()), name)


def cue_rows(path: Path, people: Sequence[str], folder: Path | None) -> list[dict[str, Any]]:
    """The segments of subtitles, as rows of a file of speakers; `folder` has an audio file for each cue, None: they have none.

    Raises ValueError as `read_cues` does, for a cue of nobody, and if a cue has no audio file or two.
    """
    cues = with_speakers(path, read_cues(path, people), people)
    if folder is None:
        return [{"speaker": cue.speaker, "start": cue.start, "end": cue.end} for cue in cues]
    sounds = numbered_files(folder)
    if missing := [cue for cue in cues if cue.number not in sounds]:
        more = f", and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
        raise ValueError(
            f"{path}: {folder} has no audio for {', '.join(map(str, missing[:MAX_LISTED]))}{more}: name the files by the"
            f" numbers of the cues, such as {missing[0].number}.wav."
        )
    return [
        {
            "speaker": cue.speaker,
            "start": cue.start,
            "audio": str(sounds[cue.number].absolute()),
            "cue_end": seconds_of(cue.end),
        }
        for cue in cues
    ]


def with_speakers(path: Path, cues: Sequence[Cue], people: Sequence[str]) -> list[Cue]:
    """The cues, those without a name as said by the only one of `people`. Raises ValueError if there are several."""
    unnamed = [cue for cue in cues if not cue.speaker]
    if unnamed and len(people) != 1:
        raise ValueError(
            f'{path}: {unnamed[0]} does not say who speaks, one of {", ".join(people)}: begin it with "NAME:" or <v NAME>.'
        )
    return [cue if cue.speaker else replace(cue, speaker=people[0]) for cue in cues]


def numbered_files(folder: Path) -> dict[int, Path]:
    """The files of a folder whose names are numbers, such as 7.wav or 0007.flac. Raises ValueError if two have the same."""
    if not folder.is_dir():
        raise ValueError(f"the folder {folder} does not exist: give one with an audio file for each cue.")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.stem.isdecimal() and path.is_file():
            other = found.setdefault(int(path.stem), path)
            if other != path:
                raise ValueError(f"{folder} has {other.name} and {path.name} for the same cue: keep one.")
    return found


def folder_of_cues(path: Path) -> Path:
    """Where the audio files of subtitles are, if nothing else is said: in the folder of their name, else beside them."""
    own = path.with_suffix("")
    return own if own.is_dir() else path.parent


def content_of_cues(path: Path) -> dict[str, Any]:
    """Subtitles alone as content of a file of speakers: of one person, or of several whose names are choices of the face.

    Raises ValueError as `read_cues` does, and for other names.
    """
    names = sorted({cue.speaker for cue in read_cues(path)} - {""}) or [ALONE]
    faces = {name: {"face": name} for name in names} if len(names) > 1 else {names[0]: {"face": "largest"}}
    for name in names if len(names) > 1 else ():
        try:
            parse_face_choice(name)
        except ValueError:
            people = ", ".join(f'"{each}": {{"face": {number}}}' for number, each in enumerate(names, 1))
            raise ValueError(
                f"{path} has several speakers: say whose face each has in a JSON file such as"
                f' {{"people": {{{people}}}, "segments": "{path.name}"}}.'
            ) from None
    return {"people": faces, "segments": path.name}


def long_sounds(cues: Sequence[tuple[str, Fraction]]) -> str | None:
    """A warning about cues whose audio is longer; each is described by its time, with the seconds by which its audio is."""
    if not cues:
        return None
    shown = ", ".join(f"{time} by {float(more):.1f} s" for time, more in cues[:MAX_LISTED])
    more = f", and {len(cues) - MAX_LISTED} more" if len(cues) > MAX_LISTED else ""
    return f"Audio is longer than its cue and plays on: {shown}{more}."
