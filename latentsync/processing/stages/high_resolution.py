"""Stage 5: segments without a face, with several, or with a face smaller than it would be trained at are dropped."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from latentsync.face.detect import Face, FaceDetector
from latentsync.face.tracking import STRANGER
from latentsync.processing.clip import Clip, Outcome, Reason, Scores
from latentsync.processing.stages.contract import Writes
from latentsync.processing.stages.followed_face import SeenFrame, are_alike, bridged, primed_frames
from latentsync.processing.stages.span import FrameArray
from latentsync.processing.stages.verdict import judge
from latentsync.timebase import MODEL_FPS

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

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[Outcome]:
        meter = FaceMeter()
        for _ in meter.follow(clip, self.detector):
            pass
        return [self.outcome(clip, meter)]

    def outcome(self, clip: Clip, meter: FaceMeter) -> Outcome:
        return judge(clip.scored(**meter.scores), self.rule)
