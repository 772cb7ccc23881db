"""Tracking of one face through a clip; frames in which the detector misses it briefly are interpolated ("bridged").

A clip must not be dropped because the detector misses the face in a few of 250 frames. A frame is only bridged if its picture still
shows the person, so a hand, a turned head or a cut to something else is not mistaken for a face.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from latentsync.face.appearance import appearance_descriptor, similarities, thumbnail
from latentsync.face.detection.detector import BACKENDS, Face, FaceDetector, detector_problems, make_detector
from latentsync.face.detection.tracking import FAMILIAR, STRANGER
from latentsync.processing.clip import Clip
from latentsync.processing.stages.contract import FETCH_FACES, FETCH_TRAINING, NetworkSettings, check_choice
from latentsync.processing.stages.span import FrameArray, clip_frames
from latentsync.timebase import MODEL_FPS
from latentsync.weights import Alignment
from latentsync.weights.table import ALIGNMENTS, DEFAULT_ALIGNMENT

WARM_UP = 8  # detections in the first frame, of which the last counts: detectors track, and need some to settle
LOOK_AHEAD = 25  # frames that are searched for a face if the first has none
BACK_STEP = 4  # every fourth of these frames is kept in memory, to track the face back to the first
MAX_BRIDGED = 5  # frames in a row, a fifth of a second
SMALLEST_SHARE = 0.05  # fraction of the frames, those with the smallest faces, that the face size ignores


@dataclass
class FaceSettings(NetworkSettings):
    """The face detector, and the landmarks that faces are aligned by."""

    needs_new_run: ClassVar[tuple[str, ...]] = ("detector",)
    detector: str = "face_alignment"
    alignment: str = DEFAULT_ALIGNMENT  # nose_tip, or whole_nose for models of release 1.0

    def check(self) -> None:
        check_choice("detector", self.detector, tuple(BACKENDS))
        check_choice("alignment", self.alignment, ALIGNMENTS)

    @property
    def detector_folder(self) -> Path | None:
        """The folder of the detector's weights; None for those that the set-up fetches, which `weights_dir` need not hold."""
        return self.weights_dir if self.detector == "face_alignment" else None


def check_detector(settings: FaceSettings) -> None:
    """Raises ValueError, naming the files and a remedy, if the detector's library or weights are missing."""
    from latentsync.device import pick_device  # imports PyTorch

    pick_device(settings.device)
    problems = [
        f"{path} {problem}"
        for path, problem in detector_problems(settings.detector, settings.detector_folder)
        if problem
    ]
    fetch = FETCH_TRAINING if settings.detector == "face_alignment" else FETCH_FACES
    if problems:
        raise ValueError(
            f"The detector {settings.detector} cannot run: {' and '.join(problems)}. Weights are fetched with "
            f"`{fetch}`; or choose another --detector."
        )


def detector_of(settings: FaceSettings) -> FaceDetector:
    """The detector that the settings name. Raises ValueError as `check_detector`."""
    from latentsync.device import pick_device  # as above

    check_detector(settings)
    device, alignment = str(pick_device(settings.device)), cast(Alignment, settings.alignment)
    return make_detector(settings.detector, settings.detector_folder, device, alignment)


@dataclass(frozen=True)
class SeenFrame:
    """One frame and the followed face, if the frame shows it."""

    frame: FrameArray
    face: Face | None
    is_bridged: bool = False  # the detector missed the face; its place is interpolated from the frames around


def primed_frames(clip: Clip, detector: FaceDetector) -> Iterator[FrameArray]:
    """The clip's frames, one in memory at a time; before the first is returned, the detector has locked on to its face."""
    detector.reset()
    frames = clip_frames(clip)
    first = next(frames)
    if not _finds_face(detector, first):
        _follow_back(detector, clip)
    yield from chain([first], frames)


def _finds_face(detector: FaceDetector, frame: FrameArray) -> bool:
    """Whether the last of several detections in one frame finds a face."""
    return bool([detector.faces(frame) for _ in range(WARM_UP)][-1])


def _follow_back(detector: FaceDetector, clip: Clip) -> None:
    """Detect a face in later frames and track it back to the first: some faces are detected rarely but can be tracked."""
    passed: list[FrameArray] = []
    for index, frame in enumerate(islice(clip_frames(clip), LOOK_AHEAD)):
        if detector.faces(frame):
            break
        if index % BACK_STEP == 0:
            passed.append(frame)
    for frame in reversed(passed):
        detector.faces(frame)
    if passed:
        _finds_face(detector, passed[0])


def bridged(seen_frames: Iterable[SeenFrame]) -> Iterator[SeenFrame]:
    """The frames, with the face interpolated where up to `MAX_BRIDGED` in a row lack it; at most that many are in memory."""
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
    """The frames between two with a face; each gets a face if its picture shows the same person there."""
    around = [seen for seen in (before, after) if seen is not None]
    for number, seen in enumerate(gap, 1):
        face = _between(around, number / (len(gap) + 1)) if around else None
        same = face is not None and all(are_alike(replace(seen, face=face), each) for each in around)
        yield replace(seen, face=face, is_bridged=True) if same else seen


def _between(around: Sequence[SeenFrame], share: float) -> Face:
    """The face interpolated at the fraction `share` between the first and the last of `around`."""
    first, last = (seen.face for seen in (around[0], around[-1]))
    assert first is not None and last is not None, "these frames show the face"
    points = ((1 - share) * first.points + share * last.points).astype(first.points.dtype)
    x0, y0, x1, y1 = ((1 - share) * a + share * b for a, b in zip(first.box, last.box, strict=True))
    return replace(first, points=points, box=(x0, y0, x1, y1), landmarks=None)


def are_alike(one: SeenFrame, other: SeenFrame, least: float = FAMILIAR) -> bool:
    """Whether two frames show the same person where their faces are."""
    descriptors = [
        appearance_descriptor(thumbnail(seen.frame, seen.face.points))[None] for seen in (one, other) if seen.face
    ]
    return len(descriptors) == 2 and float(similarities(*descriptors)[0, 0]) >= least


class FaceMeter:
    """Measures the faces of one clip, frame by frame."""

    def __init__(self) -> None:
        self.sides_px: list[float] = []  # one for each frame in which the detector finds a face
        self.frames = self.others = 0
        self.persons = 0  # number of people followed one after another
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
        """Count the faces of the next frame and return the followed one."""
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
        """The scores of stages 5 and 6; `faceless_sec` counts from the clip's start, -1 if every frame shows a face."""
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
