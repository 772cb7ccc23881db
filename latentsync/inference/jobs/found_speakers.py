"""Who speaks when, found in the video (`--speakers auto`): what is sought, whose face fits whose voice, and the file of the result.

The result is a file of speakers as a user could have written it (see `latentsync.inference.jobs.speakers_file`), beside the output.
Its key `found` is a checksum of the rest, by which a file that was corrected by hand is known, and kept.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentsync.files import atomic_write
from latentsync.inference.jobs.speakers_file import SpeakersFile, audio_names, read_content, rttm_rows, speakers_of
from latentsync.inference.settings import AUTO
from latentsync.inference.voices.decision import shared_sec
from latentsync.media.container import MediaError

FOUND = "found"
LEAST_SHARE = 0.2  # of somebody's segments, in which a face must be seen to speak to be theirs
OWN_SHARE = 0.5  # of the time in which a further face speaks, from which it is another picture of the same person
Spans = Sequence[tuple[float, float]]  # seconds


@dataclass(frozen=True)
class SoughtSpeakers:
    """What is to be found for a job: the people of `content` with the face `auto`; if there are none, who speaks when.

    `content`: of a JSON file of speakers in `folder`; `path`: of the result.
    """

    content: Mapping[str, Any]
    folder: Path
    path: Path

    @property
    def names(self) -> list[str]:
        """The people whose face is sought."""
        return [name for name, person in self.content["people"].items() if person.get("face") == AUTO]

    @property
    def file(self) -> SpeakersFile | None:
        """The content, if it has people; their faces are `auto` or given."""
        return speakers_of(self.folder / "speakers.json", self.content) if self.content["people"] else None


def found_path(output: Path) -> Path:
    """The path of the result of an output."""
    return output.with_suffix(".speakers.json")


def sought_speakers(audio: Path, output: Path, speakers: str, is_file: bool) -> SoughtSpeakers | None:
    """What is sought for a job; None if nothing is. `speakers` as in `JobOptions`; `is_file`: `audio` is a file of speakers.

    Raises ValueError where the two contradict each other, and for what is wrong in a file.
    """
    path = found_path(output)
    if is_file:
        if speakers:
            raise ValueError(
                f"{audio.name} says who speaks: leave out speakers ({speakers}), or give a mix as the audio."
            )
        content = read_content(audio)
        people = content.get("people")
        if not isinstance(people, dict) or not any(
            isinstance(person, dict) and person.get("face") == AUTO for person in people.values()
        ):
            return None
        if path.resolve() == audio.resolve():
            raise ValueError(
                f"{path} would be replaced by the faces that it asks for: rename it, or give another output."
            )
        return SoughtSpeakers(content, audio.parent, path)
    if not speakers:
        return None
    folder, mix = Path.cwd(), str(audio.absolute())
    if speakers == AUTO:
        return SoughtSpeakers({"mix": mix, "people": {}, "segments": []}, folder, path)
    table = Path(speakers).absolute()
    people = {name: {"face": AUTO} for name in names_of_rttm(table)}
    return SoughtSpeakers({"mix": mix, "people": people, "segments": str(table)}, folder, path)


def names_of_rttm(path: Path) -> list[str]:
    """The people of an RTTM file, by name; ValueError if it is missing, wrong or empty."""
    names = sorted({row["speaker"] for row in rttm_rows(path)})
    if not names:
        raise ValueError(f"{path} has no segments: give the result of a speaker diarisation.")
    return names


def check_found(path: Path, force: bool) -> None:
    """Raise MediaError if there is a file at `path` that was corrected, or that this program did not write, unless `force`."""
    if not path.exists() or force:
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        as_found = stored.pop(FOUND) == checksum(stored)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        as_found = False
    if not as_found:
        raise MediaError(
            f"{path} was changed since it was found, or is another program's: give it with --speakers {path.name}, or --force"
            " to replace it."
        )


def checksum(content: Mapping[str, Any]) -> str:
    """Of the content of a file of speakers without the key `found`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_found(path: Path, content: Mapping[str, Any]) -> None:
    """Write a found file of speakers, with its checksum."""
    with atomic_write(path) as partial:
        text = json.dumps({**content, FOUND: checksum(content)}, indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")


def found_content(
    sought: SoughtSpeakers,
    voices: Mapping[int, Spans],
    end_sec: float,
    together: Callable[[int, int], bool] = lambda first, second: False,
) -> dict[str, Any]:
    """The content of the resulting file; names of files in it are relative to its folder.

    Args:
        voices: when each person speaks who may be one of those sought, by the number of the person.
        end_sec: of the mix, if there is one, and of the video.
        together: whether two people are seen at the same time, so that they are not the same.

    Raises:
        ValueError: nobody who is seen speaks.
    """
    content = moved_names(sought.content, sought.folder, sought.path.parent)
    if sought.names:
        faces = faces_of(spans_of_names(sought), voices, together)
        people = {
            name: {**person, "face": faces[name]} if name in faces else person
            for name, person in content["people"].items()
        }
        if all(person.get("face") is None for person in people.values()):
            raise ValueError(_nobody(sought))
        return {**content, "people": people}
    segments = [
        {"speaker": f"person {number}", "start": start, "end": min(stop, end_sec)}
        for number, spans in voices.items()
        for start, stop in spans
        if start < end_sec
    ]
    if not segments:
        raise ValueError(_nobody(sought))
    speaking = {segment["speaker"] for segment in segments}
    people = {f"person {number}": {"face": number} for number in sorted(voices) if f"person {number}" in speaking}
    return {**content, "people": people, "segments": sorted(segments, key=lambda each: each["start"])}


def _nobody(sought: SoughtSpeakers) -> str:
    return (
        "nobody who is seen speaks, as far as lips and sound tell: name the faces in a file of speakers, see docs/dubbing.md"
        f" ({sought.path.name} was not written)."
    )


def spans_of_names(sought: SoughtSpeakers) -> dict[str, Spans]:
    """When those speak whose face is sought, by their segments; one without an end counts for a second."""
    assert sought.file is not None, "there are names"
    return {
        person.name: [
            (float(each.start_sec), float(each.start_sec + 1 if each.stop_sec is None else each.stop_sec))
            for each in person.segments
        ]
        for person in sought.file.people
        if person.is_sought
    }


def faces_of(
    said: Mapping[str, Spans], voices: Mapping[int, Spans], together: Callable[[int, int], bool]
) -> dict[str, int | list[int] | None]:
    """The number of the face of each name, by the time that both speak; several, if one person was taken for several; or None.

    Each face belongs to one name; the sum of common time is the largest possible.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    names, numbers = sorted(said), sorted(voices)
    common = np.array([[shared_sec(said[name], voices[number]) for number in numbers] for name in names])
    chosen: dict[str, list[int]] = {name: [] for name in names}
    rows, columns = linear_sum_assignment(common.reshape(len(names), len(numbers)), maximize=True)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if common[row, column] >= LEAST_SHARE * _length(said[names[row]]) and common[row, column] > 0:
            chosen[names[row]].append(numbers[column])
    taken = {number for own in chosen.values() for number in own}
    for column, number in enumerate(numbers):
        row = int(common[:, column].argmax())
        own = chosen[names[row]]
        spoken_sec = _length(voices[number])
        is_more = number not in taken and spoken_sec > 0 and common[row, column] >= OWN_SHARE * spoken_sec
        if is_more and own and not any(together(number, other) for other in own):
            own.append(number)
    return {name: None if not own else own[0] if len(own) == 1 else sorted(own) for name, own in chosen.items()}


def _length(spans: Spans) -> float:
    return sum(stop - start for start, stop in spans)


def moved_names(content: Mapping[str, Any], folder: Path, target: Path) -> dict[str, Any]:
    """The content of a file of speakers in `folder` as that of one in the folder `target`."""

    def moved(name: str) -> str:
        path = (folder / name).absolute()
        try:
            return Path(os.path.relpath(path, target.absolute())).as_posix()
        except ValueError:  # on another drive of Windows
            return path.as_posix()

    return audio_names({key: value for key, value in content.items() if key != FOUND}, folder, moved)
