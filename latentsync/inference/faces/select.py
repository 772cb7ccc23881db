"""Selection of the person whose face is edited (`--face`), and the tracks of that person.

`largest`: the person whose face is visible longest and largest. `center`: the person who is longest and nearest to the middle of
the picture. A number: people are numbered from 1, in the order of the shots and from left to right; `--preflight` shows them.
`x,y@SECONDS`: the person whose face is at that pixel of the displayed picture at that time. A picture file: the person with the
most similar appearance, see `latentsync.inference.faces.people`.
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
NEAR_SEC = 0.5  # largest distance of a face from the given time
WAYS = "largest, center, a number from 1 on, x,y@SECONDS, or the path of a picture of the person"


@dataclass(frozen=True)
class FaceChoice:
    """A parsed `--face`; only the fields that belong to `kind` are used."""

    kind: Literal["largest", "center", "number", "place", "picture"] = "largest"
    number: int = 0  # of the person, from 1
    x: float = 0.0  # pixels of the frame
    y: float = 0.0
    time_sec: float = 0.0
    picture: Path | None = None


def parse_face_choice(text: str) -> FaceChoice:
    """Parse the value of `--face`; ValueError for an invalid value or a picture that does not exist."""
    word = text.strip()
    if word.lower() in ("largest", "center", "centre"):
        return FaceChoice("largest" if word.lower() == "largest" else "center")
    if word.isdecimal():
        if int(word) < 1:
            raise ValueError(f"face {text!r} is invalid: people are numbered from 1; --preflight shows the numbers.")
        return FaceChoice("number", number=int(word))
    place = PLACE.fullmatch(word)
    if place:
        x, y, time_sec = (float(number) for number in place.groups())
        return FaceChoice("place", x=x, y=y, time_sec=time_sec)
    path = Path(text)
    if path.is_file():
        return FaceChoice("picture", picture=path)
    if path.suffix:
        raise ValueError(f"face {text!r} is not an existing picture: give one, or {WAYS.rsplit(', or', 1)[0]}.")
    raise ValueError(f"face {text!r} is unknown: give {WAYS}.")


def choose_face(
    face_tracks: FaceTracks,
    choice: FaceChoice,
    times_sec: Sequence[Fraction] | Sequence[float],
    detector: FaceDetector | None = None,
) -> list[int]:
    """The tracks of the chosen person; empty if the video shows no face.

    `times_sec` [n or more]: presentation times of the frames. `detector` detects the face of a picture (default: the cascades);
    it should be the one used for the video, and is reset. Raises ValueError if nobody matches the choice.
    """
    person = choose_person(face_tracks, choice, times_sec, detector)
    return list(person.tracks) if person else []


def choose_person(
    face_tracks: FaceTracks,
    choice: FaceChoice,
    times_sec: Sequence[Fraction] | Sequence[float],
    detector: FaceDetector | None = None,
) -> Person | None:
    """The chosen person, as in `choose_face`; None if the video shows no face."""
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
    """Appearance descriptor [d] of the largest face of a picture; ValueError without a face, MediaError if unreadable."""
    frame = next(iter(read_frames(path))).frame
    return frame_descriptor(frame, detector or make_detector(), str(path))


def frame_descriptor(frame: FrameArray, detector: FaceDetector, name: str) -> FloatArray:
    """Appearance descriptor [d] of the largest face of a frame uint8 h w 3; `name` is used in the ValueError."""
    detector.reset()
    found = detector.points(frame)
    detector.reset()
    if found is None:
        raise ValueError(f"no face is detected in {name}: give a frontal picture of the person.")
    return appearance_descriptor(thumbnail(frame, found.points))


def by_appearance(people: Sequence[Person], descriptor: FloatArray, name: str) -> Person:
    """The person most similar to `descriptor` [d]; ValueError below the similarity `DIFFERENT`. `name` is of the picture."""
    scores = [similarity(descriptor[None], person.descriptors) for person in people]
    best = int(np.argmax(scores))
    if scores[best] < DIFFERENT:
        raise ValueError(
            f"nobody in the video is similar to {name} (at best {scores[best]:.2f}, needed {DIFFERENT}): give a picture from"
            f" the video, or a number from 1 to {len(people)}, see --preflight."
        )
    return people[best]


def _by_number(people: Sequence[Person], number: int) -> Person:
    if number > len(people):
        count = "one person" if len(people) == 1 else f"{len(people)} people"
        raise ValueError(
            f"face {number} does not exist: the video shows {count}, numbered from 1; --preflight shows them."
        )
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
            f"no face is at {choice.x:g},{choice.y:g} around {choice.time_sec:g} s; faces at that time: {shown}."
        )
    middle = (face_tracks.box[hits, :2] + face_tracks.box[hits, 2:]) / 2
    distance = np.hypot(*(middle - [choice.x, choice.y]).T)
    frame_sec = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    first = np.lexsort((distance, np.floor(away[hits] / max(frame_sec, 1e-6))))[0]
    return owner[int(face_tracks.track[hits[first]])]


def _places(face_tracks: FaceTracks, rows: np.ndarray, away: FloatArray) -> list[str]:
    """Positions of the faces in the frame nearest in time."""
    if not len(rows):
        return []
    frame = face_tracks.frame[rows[np.argmin(away[rows])]]
    boxes = face_tracks.box[rows[face_tracks.frame[rows] == frame]]
    return [f"{(x0 + x1) / 2:.0f},{(y0 + y1) / 2:.0f}" for x0, y0, x1, y1 in boxes.tolist()]


def _sizes(face_tracks: FaceTracks, person: Person) -> FloatArray:
    """Width of the face over that of the picture, for every frame that shows the person."""
    box = face_tracks.box[np.isin(face_tracks.track, person.tracks)]
    return (box[:, 2] - box[:, 0]) / np.float32(face_tracks.size[0])


def _nearness(face_tracks: FaceTracks, person: Person) -> FloatArray:
    """1 in the middle of the picture, falling to 0 at its corners, for every frame that shows the person."""
    box = face_tracks.box[np.isin(face_tracks.track, person.tracks)]
    middle = (box[:, :2] + box[:, 2:]) / 2
    aside = (middle - np.array(face_tracks.size) / 2) / (np.array(face_tracks.size) / 2)
    return np.maximum(0, 1 - np.hypot(*aside.T) / math.sqrt(2)).astype(np.float32)
