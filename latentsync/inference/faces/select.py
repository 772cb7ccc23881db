"""Whose face is edited: what a user asks for, and the tracks of that person.

`largest` (who is seen longest and largest), `center` (who is longest and nearest to the picture's middle), a number (people
count from 1, shot by shot in order of appearance, from left to right; `--preflight` shows them), `x,y@SECONDS` (whose face is
then at that pixel of the picture as a player shows it), or a picture of the person, who is recognised by appearance as told in
`latentsync.inference.faces.people`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from latentsync.face.align import FloatArray, FrameArray
from latentsync.face.appearance import appearance_descriptor, similarity, thumbnail
from latentsync.face.detection.detector import FaceDetector, make_detector
from latentsync.inference.faces.people import DIFFERENT, Person, find_people
from latentsync.inference.faces.tracks import FaceTracks
from latentsync.media.video.read import read_frames

PLACE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*,\s*(\d+(?:\.\d*)?)\s*@\s*(\d+(?:\.\d*)?)\s*s?\s*")
NEAR_SEC = 0.5  # how far from the given time a face may be seen
WAYS = "largest, center, a number from 1 on, x,y@SECONDS, or the path of a picture of the person"


@dataclass(frozen=True)
class FaceChoice:
    """Whose face is meant; of the other fields only those of `kind` count."""

    kind: Literal["largest", "center", "number", "place", "picture"] = "largest"
    number: int = 0  # of the person, from 1
    x: float = 0.0  # pixels of the frame
    y: float = 0.0
    time_sec: float = 0.0
    picture: Path | None = None


def parse_face_choice(text: str) -> FaceChoice:
    """What `--face` means; ValueError for what means nothing and for a picture that does not exist."""
    word = text.strip()
    if word.lower() in ("largest", "center", "centre"):
        return FaceChoice("largest" if word.lower() == "largest" else "center")
    if word.isdecimal():
        if int(word) < 1:
            raise ValueError(
                f"face {text!r} is nobody: people count from 1; --preflight shows them with their numbers."
            )
        return FaceChoice("number", number=int(word))
    place = PLACE.fullmatch(word)
    if place:
        x, y, time_sec = (float(number) for number in place.groups())
        return FaceChoice("place", x=x, y=y, time_sec=time_sec)
    path = Path(text)
    if path.is_file():
        return FaceChoice("picture", picture=path)
    if path.suffix:
        raise ValueError(f"face {text!r} is no existing picture: give one, or {WAYS.rsplit(', or', 1)[0]}.")
    raise ValueError(f"face {text!r} is unknown: give {WAYS}.")


def choose_face(
    face_tracks: FaceTracks,
    choice: FaceChoice,
    times_sec: Sequence[Fraction] | Sequence[float],
    detector: FaceDetector | None = None,
) -> list[int]:
    """The tracks of the chosen person; empty where the video shows nobody at all.

    `times_sec` [n or more]: when each frame is shown. `detector` finds the face of a picture (by default the cascades);
    it should be the one of the video and forgets its stream. Raises ValueError where the choice names nobody.
    """
    person = choose_person(face_tracks, choice, times_sec, detector)
    return list(person.tracks) if person else []


def choose_person(
    face_tracks: FaceTracks,
    choice: FaceChoice,
    times_sec: Sequence[Fraction] | Sequence[float],
    detector: FaceDetector | None = None,
) -> Person | None:
    """The chosen person, as `choose_face`."""
    people = find_people(face_tracks)
    if not people:
        return None
    if choice.kind == "number":
        return _by_number(people, choice.number)
    if choice.kind == "place":
        return _by_place(
            face_tracks, people, choice, np.array([float(t) for t in times_sec[: face_tracks.frame_count]])
        )
    if choice.kind == "picture":
        assert choice.picture is not None
        return by_appearance(people, picture_descriptor(choice.picture, detector), str(choice.picture))
    weight = _sizes if choice.kind == "largest" else _nearness
    return max(people, key=lambda person: (float(weight(face_tracks, person).sum()), -person.number))


def picture_descriptor(path: Path, detector: FaceDetector | None = None) -> FloatArray:
    """The appearance [d] of the largest face of a picture; ValueError without one, MediaError for an unreadable file."""
    frame = next(iter(read_frames(path))).frame
    return frame_descriptor(frame, detector or make_detector(), str(path))


def frame_descriptor(frame: FrameArray, detector: FaceDetector, name: str) -> FloatArray:
    """The same of a picture uint8 h w 3 that errors call `name`."""
    detector.reset()
    found = detector.points(frame)
    detector.reset()
    if found is None:
        raise ValueError(f"{name} shows no face that is found: give a picture of the person from the front.")
    return appearance_descriptor(thumbnail(frame, found.points))


def by_appearance(people: Sequence[Person], descriptor: FloatArray, name: str) -> Person:
    """Who looks most like `look` [d]; ValueError where nobody does."""
    alike = [similarity(descriptor[None], person.descriptors) for person in people]
    best = int(np.argmax(alike))
    if alike[best] < DIFFERENT:
        raise ValueError(
            f"nobody in the video looks like {name} (at best {alike[best]:.2f}, needed {DIFFERENT}): give a picture out of"
            f" the video, or a number from 1 to {len(people)} as --preflight shows them."
        )
    return people[best]


def _by_number(people: Sequence[Person], number: int) -> Person:
    if number > len(people):
        count = "one person" if len(people) == 1 else f"{len(people)} people"
        raise ValueError(f"face {number} is nobody: the video shows {count}, who count from 1; --preflight shows them.")
    return people[number - 1]


def _by_place(face_tracks: FaceTracks, people: Sequence[Person], choice: FaceChoice, times: FloatArray) -> Person:
    owner = {track: person for person in people for track in person.tracks}
    w, h = face_tracks.size
    if not (choice.x < w and choice.y < h):
        raise ValueError(f"{choice.x:g},{choice.y:g} is outside of the picture, which has {w} x {h} pixels.")
    away = np.abs(times[face_tracks.frame] - choice.time_sec)
    known = np.isin(face_tracks.track, list(owner))
    near = np.flatnonzero(known & (away <= NEAR_SEC))
    x0, y0, x1, y1 = face_tracks.box[near].T
    outside = np.hypot(
        np.maximum(0, np.maximum(x0 - choice.x, choice.x - x1)), np.maximum(0, np.maximum(y0 - choice.y, choice.y - y1))
    )
    hits = near[outside <= 0.5 * (x1 - x0)]
    if not len(hits):
        shown = ", ".join(_places(face_tracks, near, away)) or "none"
        raise ValueError(
            f"no face is at {choice.x:g},{choice.y:g} around {choice.time_sec:g} s; the faces there then: {shown}."
        )
    middle = (face_tracks.box[hits, :2] + face_tracks.box[hits, 2:]) / 2
    distance = np.hypot(*(middle - [choice.x, choice.y]).T)
    frame_sec = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    first = np.lexsort((distance, np.floor(away[hits] / max(frame_sec, 1e-6))))[0]
    return owner[int(face_tracks.track[hits[first]])]


def _places(face_tracks: FaceTracks, rows: np.ndarray, away: FloatArray) -> list[str]:
    """Where the faces of the frame nearest in time are."""
    if not len(rows):
        return []
    frame = face_tracks.frame[rows[np.argmin(away[rows])]]
    boxes = face_tracks.box[rows[face_tracks.frame[rows] == frame]]
    return [f"{(x0 + x1) / 2:.0f},{(y0 + y1) / 2:.0f}" for x0, y0, x1, y1 in boxes.tolist()]


def _sizes(face_tracks: FaceTracks, person: Person) -> FloatArray:
    """Width of the face in every frame that shows the person, in shares of the picture's width."""
    box = face_tracks.box[np.isin(face_tracks.track, person.tracks)]
    return (box[:, 2] - box[:, 0]) / np.float32(face_tracks.size[0])


def _nearness(face_tracks: FaceTracks, person: Person) -> FloatArray:
    """1 in the middle of the picture, 0 at its edge, for every frame that shows the person."""
    box = face_tracks.box[np.isin(face_tracks.track, person.tracks)]
    middle = (box[:, :2] + box[:, 2:]) / 2
    aside = (middle - np.array(face_tracks.size) / 2) / (np.array(face_tracks.size) / 2)
    return np.maximum(0, 1 - np.hypot(*aside.T) / math.sqrt(2)).astype(np.float32)
