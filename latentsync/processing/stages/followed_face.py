"""The one face of a clip that is followed: found before the first frame, and bridged where a detector misses it for moments.

A detector that misses a face in a few of 250 frames must not cost the clip. What is bridged is looked at: the picture there
must still show the person, so a hand, a turned head or a cut to something else is not taken for a face.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from latentsync.face.appearance import describe, similarities, thumbnail
from latentsync.face.detect import Face, FaceDetector
from latentsync.face.tracking import FAMILIAR
from latentsync.processing.clip import Clip
from latentsync.processing.stages.span import FrameArray, clip_frames

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
    looks = [describe(thumbnail(seen.frame, seen.face.points))[None] for seen in (one, other) if seen.face]
    return len(looks) == 2 and float(similarities(*looks)[0, 0]) >= least
