"""Stage 5: segments without a face, with several, or with a face smaller than it would be trained at are dropped."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np

from latentsync.face.appearance import appearance_descriptor, similarities, thumbnail
from latentsync.face.detection.detector import Face, FaceDetector
from latentsync.face.detection.tracking import FAMILIAR, STRANGER
from latentsync.processing.clip import Clip, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import Writes, judge
from latentsync.processing.stages.span import FrameArray, clip_frames
from latentsync.timebase import MODEL_FPS

# The one face of a clip that is followed: found before the first frame, and bridged where a detector misses it for moments.
#
# A detector that misses a face in a few of 250 frames must not cost the clip. What is bridged is looked at: the picture there
# must still show the person, so a hand, a turned head or a cut to something else is not taken for a face.
WARM_UP = 8  # times that the first frame is looked at beforehand: detectors settle on a face while they follow it
LOOK_AHEAD = 25  # frames in which a face is looked for that the first frame does not show to the detector
BACK_STEP = 4  # frames between two that lead from there back to the first; so many fewer are held
MAX_BRIDGED = 5  # frames in a row, a fifth of a second


@dataclass(frozen=True)
class SeenFrame:
    """One frame and the face that is followed, if it is there."""

    frame: FrameArray
    face: Face | None
    is_bridged: bool = False  # the detector missed the face; its place follows from the frames around


def primed_frames(clip: Clip, detector: FaceDetector) -> Iterator[FrameArray]:
    """The clip's frames, one alive at a time, for a detector that has settled on the face of the first."""
    detector.reset()
    frames = clip_frames(clip)
    first = next(frames)
    if not _sees_face(detector, first):
        _come_back(detector, clip)
    yield from chain([first], frames)


def _sees_face(detector: FaceDetector, frame: FrameArray) -> bool:
    """Whether there is a face at the last of several looks."""
    return bool([detector.faces(frame) for _ in range(WARM_UP)][-1])


def _come_back(detector: FaceDetector, clip: Clip) -> None:
    """Find a face in later frames and follow it back to the first: some are found in few frames and followed in all."""
    passed: list[FrameArray] = []
    for index, frame in enumerate(islice(clip_frames(clip), LOOK_AHEAD)):
        if detector.faces(frame):
            break
        if index % BACK_STEP == 0:
            passed.append(frame)
    for frame in reversed(passed):
        detector.faces(frame)
    if passed:
        _sees_face(detector, passed[0])


def bridged(seen_frames: Iterable[SeenFrame]) -> Iterator[SeenFrame]:
    """The frames with the face filled in where it is missed in up to `MAX_BRIDGED` in a row; so many more are held."""
    before: SeenFrame | None = None
    gap: list[SeenFrame] = []
    missed = 0  # frames in a row
    for seen in seen_frames:
        if seen.face is None:
            missed += 1
            gap.append(seen)
            if missed > MAX_BRIDGED:
                yield from gap
                before, gap = None, []
            continue
        yield from _filled(before, gap, seen)
        yield seen
        before, gap, missed = seen, [], 0
    yield from _filled(before, gap, None)


def _filled(before: SeenFrame | None, gap: Sequence[SeenFrame], after: SeenFrame | None) -> Iterator[SeenFrame]:
    """The frames between two with a face, each with its face if the picture shows there who was seen around."""
    around = [seen for seen in (before, after) if seen is not None]
    for number, seen in enumerate(gap, 1):
        face = _between(around, number / (len(gap) + 1)) if around else None
        same = face is not None and all(are_alike(replace(seen, face=face), each) for each in around)
        yield replace(seen, face=face, is_bridged=True) if same else seen


def _between(around: Sequence[SeenFrame], share: float) -> Face:
    """The face that has moved by `share` of the way from the first to the last of `around`."""
    first, last = (seen.face for seen in (around[0], around[-1]))
    assert first is not None and last is not None, "these frames show the face"
    points = ((1 - share) * first.points + share * last.points).astype(first.points.dtype)
    x0, y0, x1, y1 = ((1 - share) * a + share * b for a, b in zip(first.box, last.box, strict=True))
    return replace(first, points=points, box=(x0, y0, x1, y1), landmarks=None)


def are_alike(one: SeenFrame, other: SeenFrame, least: float = FAMILIAR) -> bool:
    """Whether two frames show the same person at the places of their faces."""
    descriptors = [
        appearance_descriptor(thumbnail(seen.frame, seen.face.points))[None] for seen in (one, other) if seen.face
    ]
    return len(descriptors) == 2 and float(similarities(*descriptors)[0, 0]) >= least


SMALLEST_SHARE = 0.05  # of the frames, those with the smallest face, that do not count for its size
MIN_FACE_SHARE = 0.5  # of the frames that show a face; a clip with fewer is one without a face


@dataclass(frozen=True)
class FaceRule:
    """One face, large enough. The size is the shorter side of the box from brows to chin in the source's pixels."""

    min_face_px: int = 256
    max_other_faces: float = 0.02  # share of frames that may show a further face

    def decide(self, scores: Scores) -> Reason | None:
        if scores.get("face_share", 1.0) < MIN_FACE_SHARE:
            return Reason.NO_FACE
        if scores.get("other_faces_share", 0.0) > self.max_other_faces or scores.get("persons", 1) > 1:
            return Reason.SEVERAL_FACES
        return Reason.SMALL_FACE if scores.get("face_px", self.min_face_px) < self.min_face_px else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        if reason is Reason.NO_FACE:
            return f"{scores['face_share']:.0%} of the frames show a face."
        if reason is Reason.SMALL_FACE:
            return f"The face is {scores['face_px']:.0f} px large, {self.min_face_px} px are needed."
        if scores["persons"] > 1:
            return f"{scores['persons']:.0f} persons follow each other without a cut that was found."
        return f"{scores['other_faces_share']:.0%} of the frames show a further face."


class FaceMeter:
    """Measures the faces of one clip as its frames go by."""

    def __init__(self) -> None:
        self.sides_px: list[float] = []  # one a frame in which the detector finds a face
        self.frames = self.others = 0
        self.persons = 0  # who took each other's place, frame by frame
        self.last: SeenFrame | None = None  # the last frame, unless the detector found no face in it
        self.bridged = self.faceless = 0
        self.first_faceless: int | None = None  # frame

    def follow(self, clip: Clip, detector: FaceDetector) -> Iterator[SeenFrame]:
        """Yield the clip's frames with the face followed: the same person as before, or else the largest face."""
        frames = primed_frames(clip, detector)
        found = (SeenFrame(frame, self.choose(frame, detector.faces(frame))) for frame in frames)
        for index, seen in enumerate(bridged(found)):
            self.bridged += seen.is_bridged
            if seen.face is None:
                self.faceless += 1
                self.first_faceless = index if self.first_faceless is None else self.first_faceless
            yield seen

    def choose(self, frame: FrameArray, faces: list[Face]) -> Face | None:
        """Count the faces of the next frame; returns the followed one."""
        self.frames += 1
        if not faces:
            self.last = None
            return None
        self.others += len(faces) > 1
        track = self.last.face.track if self.last and self.last.face else None
        known = [face for face in faces if face.track == track]
        face = known[0] if known else max(faces, key=lambda each: each.face_px)
        seen = SeenFrame(frame, face)
        self.persons += self.persons == 0 or (
            not known and self.last is not None and not are_alike(seen, self.last, STRANGER)
        )
        self.last = seen
        self.sides_px.append(min(face.box[2] - face.box[0], face.box[3] - face.box[1]))
        return face

    @property
    def scores(self) -> dict[str, float]:
        """What stages 5 and 6 decide by; `faceless_sec` is in the clip, -1 if every frame shows a face."""
        faceless = -1.0 if self.first_faceless is None else self.first_faceless / MODEL_FPS
        return {
            "face_share": len(self.sides_px) / max(1, self.frames),
            "face_px": round(float(np.quantile(self.sides_px, SMALLEST_SHARE)), 1) if self.sides_px else 0.0,
            "other_faces_share": self.others / max(1, self.frames),
            "persons": self.persons,
            "bridged_frames": self.bridged,
            "faceless_frames": self.faceless,
            "faceless_sec": faceless,
        }


class HighResolutionStage:
    """Measure the faces of every frame.

    Scores: `face_px`, the size that all but the smallest 5 % of the frames reach; `face_share` of the frames with a
    face and `other_faces_share` with more than one; `persons` who were followed one after the other; `bridged_frames` in which
    the face was missed for moments; `faceless_frames` without a face, and `faceless_sec` of the first of them.
    """

    name: Final = "high_resolution"
    writes: Final[Writes] = "never"
    needs_gpu: Final = True

    def __init__(self, detector: FaceDetector, min_face_px: int = 256, max_other_faces: float = 0.02) -> None:
        self.detector = detector
        self.rule = FaceRule(min_face_px, max_other_faces)

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        meter = FaceMeter()
        for _ in meter.follow(clip, self.detector):
            pass
        return [self.outcome(clip, meter)]

    def outcome(self, clip: Clip, meter: FaceMeter) -> StageOutcome:
        return judge(clip.scored(**meter.scores), self.rule)
