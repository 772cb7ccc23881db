"""Tracking of several faces in a stream of frames: base class of the detector backends.

A backend detects faces in a whole frame and follows a known face from one frame to the next. This class decides when the whole
frame is searched and which tracks end, and prevents a track from switching to another person who passes in front.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Generic, TypeVar

import numpy as np

from latentsync.face.align import FloatArray, FrameArray
from latentsync.face.appearance import appearance_descriptor, similarities, thumbnail
from latentsync.face.detection.detector import Box, Face, FaceDetector
from latentsync.weights.table import DEFAULT_ALIGNMENT, Alignment

SEARCH_EVERY = 10  # frames between two quick searches while faces are followed
ALERT = 50  # frames after a lost track in which the whole frame is searched more often
ALERT_EVERY = 3  # frames between two searches then
FULL_EVERY, HARD_EVERY = 3, 12  # frames between two full and two hard searches while there is no face
HALF_HIDDEN = (
    0.25  # of the smaller box, from which no track begins at another face: one of them is in front of the other
)
SAME_PLACE = 0.35  # intersection over union from which two boxes are the same face
CHECK_EVERY = 3  # frames between two checks of the identity of a track
STRANGER = 0.5  # similarity to the track's views below which a face is another person's
FAMILIAR = 0.75  # similarity from which the nearest view is updated
ADAPTION = 0.05  # weight of the new descriptor in the update
GRADUAL = 0.9  # similarity to the last check from which an unfamiliar face is a new view of the person: the head turns
MAX_VIEWS = 5
MAX_STRANGE = 12  # consecutive frames with another person after which a track ends
MAX_FACES = 12  # tracks at a time
LOOK_BACK = HARD_EVERY  # frames before the first of a track in which its face is sought: one may be seen so much later
LOOK_BACK_BYTES = 96 << 20  # of these frames, so that large ones are fewer
CERTAIN = 0.5  # of the first score, from which an earlier face counts

State = TypeVar("State")


class Effort(IntEnum):
    """How thoroughly the whole frame is searched."""

    QUICK = 0  # for further faces while others are tracked
    FULL = 1
    HARD = 2  # also dark, small or tilted faces


@dataclass
class Track(Generic[State]):
    """One face as of the last frame."""

    number: int
    state: State
    views: FloatArray  # [k, d] descriptors of the person, see `latentsync.face.appearance`; updated slowly
    last: FloatArray  # [d] descriptor of the last check
    age: int = 0  # frames since the start of the track
    strange: int = 0  # consecutive frames that show another person
    similarity: float = 1.0  # at the last check


class TrackingDetector(ABC, Generic[State]):
    """A `FaceDetector` with tracking; a backend implements `search`, `follow` and `face` for its own `State` of a face."""

    def __init__(self, alignment: Alignment = DEFAULT_ALIGNMENT) -> None:
        self.alignment: Alignment = alignment
        self.reset()

    def reset(self) -> None:
        """See `FaceDetector.reset`."""
        self.tracks: list[Track[State]] = []
        self.next_number = 0
        self.followed: int | None = None  # the track that `points` returns
        self.since_search = self.since_face = 0  # frames
        self.alert = 0  # frames left in which the whole frame is searched more often
        self.is_first = True

    @abstractmethod
    def search(self, frame: FrameArray, effort: Effort, known: list[Box]) -> list[State]:
        """States of the faces in the whole frame, the largest first, without those at `known` boxes."""

    @abstractmethod
    def follow(self, frame: FrameArray, states: list[State]) -> list[State | None]:
        """States of the same faces in the next frame; None for a lost face."""

    @abstractmethod
    def face(self, state: State) -> Face:
        """The `Face` of a state."""

    def faces(self, frame: FrameArray) -> list[Face]:
        """All faces of the next frame (uint8 h w 3, RGB) with their track numbers; empty if there is none."""
        self._follow_tracks(frame)
        for effort in self._efforts():
            self._search_frame(frame, effort)
            if self.tracks:
                break
        self.since_face = 0 if self.tracks else self.since_face + 1
        self.is_first = False
        return [replace(self.face(t.state), track=t.number) for t in self.tracks if not t.strange]

    def points(self, frame: FrameArray) -> Face | None:
        """The face followed so far, or else the largest, in the next frame (uint8 h w 3, RGB); None if there is none."""
        found = {face.track: face for face in self.faces(frame)}
        if self.followed not in found:
            self.followed = max(found.values(), key=lambda face: face.face_px).track if found else None
        return found[self.followed] if self.followed is not None else None

    def rewind(self, frames: Sequence[FrameArray], known: Sequence[list[Box]]) -> list[list[Face]]:
        """See `FaceDetector.rewind`."""
        going = [replace(track) for track in self.tracks if track.age == 0]
        found: list[list[Face]] = []
        for frame, boxes in zip(frames, known, strict=True):
            if not going:
                break
            moved = self.follow(frame, [track.state for track in going])
            pairs = [(track, state) for track, state in zip(going, moved, strict=True) if state is not None]
            going = [replace(t, state=state) for t, state in pairs if self._was_there(frame, t, state, boxes)]
            found.append([replace(self.face(track.state), track=track.number) for track in going])
        return found

    def _was_there(self, frame: FrameArray, track: Track[State], state: State, known: list[Box]) -> bool:
        """Whether a track that was followed back to `state` shows its face there, which is at none of the `known` boxes."""
        face = self.face(state)
        if face.score < CERTAIN * self.face(track.state).score or is_known(face.box, known):
            return False
        return float(similarities(self._descriptor(frame, state), track.views).max()) >= FAMILIAR

    def _follow_tracks(self, frame: FrameArray) -> None:
        before = self.tracks
        moved = self.follow(frame, [track.state for track in before]) if before else []
        kept = [
            replace(track, state=state, age=track.age + 1)
            for track, state in zip(before, moved, strict=True)
            if state is not None
        ]
        for track in kept:
            if track.strange or track.age % CHECK_EVERY == 0:
                self._check(frame, track)
        kept = [track for track in kept if track.strange <= MAX_STRANGE]
        self.tracks = self._without_duplicates(kept)
        self.alert = ALERT if len(self.tracks) < len(before) else max(0, self.alert - 1)

    def _check(self, frame: FrameArray, track: Track[State]) -> None:
        """Compare the face with the views of its track, and update these if it is the same person."""
        current = self._descriptor(frame, track.state)
        alike = similarities(current, track.views)[0]
        track.similarity, nearest = float(alike.max()), int(alike.argmax())
        track.strange = track.strange + 1 if track.similarity < STRANGER else 0
        if track.similarity >= FAMILIAR:
            track.views[nearest] += np.float32(ADAPTION) * (current[0] - track.views[nearest])
        elif not track.strange and float(similarities(current, track.last[None])[0, 0]) >= GRADUAL:
            track.views = np.concatenate([track.views[:1], track.views[1:][2 - MAX_VIEWS :], current])
        track.last = current[0]

    def _descriptor(self, frame: FrameArray, state: State) -> FloatArray:
        return appearance_descriptor(thumbnail(frame, self.face(state).points))[None]

    def _without_duplicates(self, tracks: list[Track[State]]) -> list[Track[State]]:
        """Of several tracks at the same place, keep the one with the most similar view."""
        kept: list[Track[State]] = []
        for track in sorted(tracks, key=lambda t: (-round(t.similarity, 1), t.number)):
            if not is_known(self.face(track.state).box, [self.face(t.state).box for t in kept]):
                kept.append(track)
        return sorted(kept, key=lambda t: t.number)

    def _efforts(self) -> list[Effort]:
        """Searches that are due in this frame, in order, until one detects a face."""
        self.since_search += 1
        if not self.tracks:
            full = self.is_first or self.since_face % FULL_EVERY == 0
            hard = self.is_first or self.since_face % HARD_EVERY == 0
            return [Effort.FULL] * full + [Effort.QUICK] * (not full) + [Effort.HARD] * hard
        due = ALERT_EVERY if self.alert or any(t.strange for t in self.tracks) else SEARCH_EVERY
        return [Effort.QUICK] if self.since_search >= due else []

    def _search_frame(self, frame: FrameArray, effort: Effort) -> None:
        self.since_search = 0
        boxes = [self.face(track.state).box for track in self.tracks if not track.strange]
        for state in self.search(frame, effort, boxes)[: MAX_FACES - len(self.tracks)]:
            box = self.face(state).box
            if not is_known(box, boxes) and not any(shared_part(box, other) > HALF_HIDDEN for other in boxes):
                boxes.append(box)
                descriptor = self._descriptor(frame, state)
                self.tracks.append(Track(self.next_number, state, descriptor, descriptor[0].copy()))
                self.next_number += 1


class LookBack:
    """Faces of consecutive frames; where a track begins, its face is followed back through the frames just before.

    A detector often finds a face some frames after it can be seen: it searches now and then, and more thoroughly more rarely.
    """

    def __init__(self, detector: FaceDetector) -> None:
        self.detector = detector
        self.reset()

    def reset(self) -> None:
        """Forget the frames, before the first frame of another stream and at cuts."""
        self.detector.reset()
        self.held: deque[tuple[FrameArray, list[Face]]] = deque()
        self.tracks: set[int] = set()  # numbers seen so far

    def add(self, frame: FrameArray) -> Iterator[tuple[int, FrameArray, list[Face]]]:
        """Faces of the next frame and, of tracks that begin in it, of frames before: how many frames before, that frame, faces."""
        faces = self.detector.faces(frame)
        yield 0, frame, faces
        if self.held and not self.tracks.issuperset(face.track for face in faces):
            yield from self._before()
        self.tracks.update(face.track for face in faces)
        self.held.appendleft((frame, list(faces)))
        while len(self.held) > min(LOOK_BACK, LOOK_BACK_BYTES // max(1, frame.nbytes)):
            self.held.pop()

    def _before(self) -> Iterator[tuple[int, FrameArray, list[Face]]]:
        """The faces that the tracks of the last frame had before it."""
        boxes = [[face.box for face in seen] for _, seen in self.held]
        rewound = self.detector.rewind([frame for frame, _ in self.held], boxes)
        for back, ((frame, seen), faces) in enumerate(zip(self.held, rewound, strict=False), start=1):
            seen += faces
            yield back, frame, faces


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 ... 1."""
    shared = _area(_intersection(a, b))
    return shared / max(_area(a) + _area(b) - shared, 1e-6)


def shared_part(a: Box, b: Box) -> float:
    """Intersection of two boxes over the smaller one, 0 ... 1."""
    return _area(_intersection(a, b)) / max(min(_area(a), _area(b)), 1e-6)


def _intersection(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def is_known(box: Box, boxes: list[Box]) -> bool:
    """Whether a box is at the place of one of `boxes`: they overlap, or the middle of one is well inside the other."""
    return any(
        overlap(box, other) > SAME_PLACE or _contains_middle(box, other) or _contains_middle(other, box)
        for other in boxes
    )


def _contains_middle(outer: Box, inner: Box) -> bool:
    """Whether the middle of `inner` is in the inner half of `outer`."""
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    w, h = outer[2] - outer[0], outer[3] - outer[1]
    return abs(x - (outer[0] + outer[2]) / 2) < w / 4 and abs(y - (outer[1] + outer[3]) / 2) < h / 4
