"""The plan between pass 1 and pass 2: which frames are edited, and where the face is in each.

A frame is edited if the chosen person's face is detected, large enough and not turned away. Short gaps inside a shot are bridged:
the points of their frames are interpolated. The frames of longer gaps are passed through unchanged, and the edit fades out before
and in after them; there is no fade at cuts or at the ends of the video. Consecutive edited frames form a segment; a segment
never spans a long gap, a cut, or a jump of the face. The plan of a frame depends only on the frames nearby.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, Smoother, align_matrix
from latentsync.face.lower_face import LENGTH, LowerFaces
from latentsync.face.outline import JAW_POINTS, face_region, in_face, lowered
from latentsync.inference.faces.occluders import Occluders
from latentsync.inference.faces.tracks import FaceTracks

IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
TimeArray = NDArray[np.float64]  # seconds

EDIT, BRIDGED, NO_FACE, TOO_SMALL, TURNED_AWAY, OTHER_PERSON, TOO_SHORT, OUTSIDE, HIDDEN = range(9)
ACTIONS = np.array(
    [
        "edit",
        "bridged",
        "no face",
        "too small",
        "turned away",
        "other person",
        "too short",
        "outside the ranges",
        "mouth hidden",
    ]
)
NOT_EDITED = -1  # segment number of frames that are passed through unchanged
MIN_DETECTIONS = 3  # frames of a track from which it counts as another person
JUMP = 0.6  # of the face width: a face that moves farther between two frames starts a new segment
RESIZE = 1.4  # size ratio between two frames from which a new segment starts
COVERED = 0.2  # share of the lower half of the face covered by another face from which it is not edited
JAW_FRAMES = 2
SLACK_SEC = 1e-6


@dataclass(frozen=True)
class FacePolicy:
    """Which faces are edited."""

    max_gap_sec: float = 0.4  # longest gap that is bridged
    fade_sec: float = 0.16  # length of a fade beside a longer gap
    min_run_sec: float = 0.2  # shorter runs of edited frames between two long gaps are passed through
    min_face_px: float = 24.0  # width of the smallest face
    max_yaw_deg: float = 60.0  # largest turn, aside or up and down together, for detectors that measure it

    def __post_init__(self) -> None:
        for name in ("max_gap_sec", "fade_sec", "min_run_sec", "min_face_px", "max_yaw_deg"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: choose a finite number, 0 or more.")


@dataclass(frozen=True)
class FacePlan:
    """The plan of every source frame; arrays [n, ...]."""

    matrices: FloatArray  # [n, 2, 3] as of `align_matrix`, from frames of square pixels; NaN where passed through
    weight: FloatArray  # [n] opacity of the edit: below 1 in fades, 0 where passed through
    segment: IntArray  # [n] segment number; -1 where passed through
    action: NDArray[np.str_]  # [n] of `ACTIONS`
    track: IntArray  # [n] track of the chosen person, -1 where not detected
    box: FloatArray  # [n, 4] box of the face, also where it is too small or turned away; NaN where not detected
    yaw: FloatArray  # [n] degrees, 0 where unknown, NaN where not detected
    pitch: FloatArray  # [n] as above, of a head that looks down
    opening: FloatArray  # [n] mouth opening over the distance of the eyes; NaN where unknown
    points: FloatArray  # [n, 3, 2] alignment points, interpolated where bridged; NaN where not detected
    jaw: FloatArray  # [n, 17, 2] jaw line, steady, see `latentsync.face.outline`; NaN where unknown
    lower_face: LowerFaces  # [n, LENGTH], 0 where unknown
    shot: IntArray  # [n]
    occluders: Occluders | None = None  # what is in front of the face; None: not searched

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def edited(self) -> BoolArray:
        """bool [n]: whether a frame is edited."""
        return np.asarray(self.segment != NOT_EDITED)

    def outline(self, frame: int, matrix: FloatArray, resolution: int) -> FloatArray | None:
        """The outline [17, 2] of the lower face of a frame in its aligned face, see `latentsync.face.outline`; None if unknown."""
        jaw = self.jaw[frame]
        if np.isnan(jaw).any():
            return None
        return in_face(lowered(jaw, float(self.opening[frame])), matrix, resolution)

    @property
    def has_occluder(self) -> BoolArray:
        """bool [n]: whether something is in front of the face in a frame."""
        found = np.zeros(len(self), np.bool_)
        if self.occluders is not None:
            found[self.occluders.frame] = True
        return found

    def visible(self, frame: int, matrix: FloatArray, resolution: int) -> FloatArray | None:
        """How far the face can be seen in a frame, [r, r] in [0, 1] in its aligned face; None: all of it.

        Where something is in front, the frame also stays as it is around the face.
        """
        if self.occluders is None:
            return None
        visible = self.occluders.visible(frame, self.points[frame], matrix, resolution)
        outline = self.outline(frame, matrix, resolution)
        return visible if visible is None or outline is None else visible * face_region(outline, resolution)

    @property
    def segments(self) -> list[range]:
        """The frames of every segment, in order."""
        return [part for part in runs(self.segment) if self.segment[part.start] != NOT_EDITED]

    @property
    def passed(self) -> list[tuple[int, int, str]]:
        """Runs [start, stop) of frames that are passed through for the same reason, with the reason."""
        codes = np.unique(self.action, return_inverse=True)[1]
        parts = runs(np.where(self.edited, -1, codes))
        return [(part.start, part.stop, str(self.action[part.start])) for part in parts if not self.edited[part.start]]


def runs(values: NDArray) -> list[range]:
    """The runs of equal values, in order."""
    if not len(values):
        return []
    borders = (np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()
    return [range(start, stop) for start, stop in zip([0, *borders], [*borders, len(values)], strict=True)]


def plan_faces(
    face_tracks: FaceTracks,
    tracks: Sequence[int],
    policy: FacePolicy,
    times_sec: Sequence[Fraction] | Sequence[float],
    resolution: int,
    wanted: Sequence[range] | None = None,
    occluders: Occluders | None = None,
) -> FacePlan:
    """Plan every frame of a video for the person of `tracks`, with faces of `resolution` x `resolution`.

    `times_sec` [n or n + 1]: presentation times of the frames and optionally the end of the last one. Without any face all
    frames are passed through; with `wanted` also all but these, and with `occluders` those in which the mouth is hidden.
    """
    times = frame_times(times_sec, face_tracks.frame_count)
    chosen = ChosenFace.gather(face_tracks, tracks)
    action = chosen.actions(face_tracks, list(tracks), policy)
    shot = face_tracks.shot
    if wanted is not None:
        action[outside(wanted, len(action))] = OUTSIDE
    if occluders is not None:
        action[occluders.hidden] = HIDDEN
    bridge_gaps(chosen, action, shot, times, face_tracks, tracks, policy)
    drop_short_runs(action, shot, times, policy)
    edited = is_edited(action)
    segment = number_segments(edited, shot, chosen.box)
    return FacePlan(
        matrices=segment_matrices(chosen.points, segment, resolution),
        weight=fade(edited, shot, times, policy),
        segment=segment,
        action=ACTIONS[action],
        track=chosen.track,
        box=chosen.box,
        yaw=chosen.yaw,
        pitch=chosen.pitch,
        opening=chosen.opening,
        points=chosen.points,
        jaw=steady(chosen.jaw, chosen.points, segment),
        lower_face=chosen.lower_face,
        shot=shot,
        occluders=occluders,
    )


def outside(wanted: Sequence[range], count: int) -> BoolArray:
    """bool [count]: whether a frame is in none of `wanted`."""
    is_outside = np.ones(count, np.bool_)
    for part in wanted:
        is_outside[part.start : part.stop] = False
    return is_outside


def frame_times(times_sec: Sequence[Fraction] | Sequence[float], count: int) -> TimeArray:
    """Times [n + 1] in seconds including the end; a missing end is extrapolated from the last two frames."""
    times = np.array([float(time) for time in times_sec[: count + 1]])
    assert len(times) >= count, "every frame has a time"
    if len(times) > count:
        return times
    return np.append(times, 2 * times[-1] - times[-2] if count > 1 else times[-1] + 0.04)


@dataclass
class ChosenFace:
    """The face of the chosen person in every frame: arrays [n, ...]; NaN (track -1) where it is not detected."""

    track: IntArray
    points: FloatArray
    box: FloatArray
    yaw: FloatArray
    pitch: FloatArray
    opening: FloatArray
    jaw: FloatArray
    lower_face: LowerFaces  # 0 where not detected

    @classmethod
    def gather(cls, face_tracks: FaceTracks, tracks: Sequence[int]) -> "ChosenFace":
        """Of several tracks of the person in one frame, the one with the highest score is used."""
        rows = np.flatnonzero(np.isin(face_tracks.track, list(tracks)))
        rows = rows[np.argsort(face_tracks.score[rows], kind="stable")]  # so that the highest score is written last
        n, frame = face_tracks.frame_count, face_tracks.frame[rows]
        track = np.full(n, -1, np.int32)
        points, box = np.full((n, 3, 2), np.nan, np.float32), np.full((n, 4), np.nan, np.float32)
        yaw, pitch, opening = (np.full(n, np.nan, np.float32) for _ in range(3))
        track[frame], points[frame], box[frame] = (
            face_tracks.track[rows],
            face_tracks.points[rows],
            face_tracks.box[rows],
        )
        yaw[frame], pitch[frame] = face_tracks.yaw[rows], face_tracks.pitch[rows]
        opening[frame] = face_tracks.opening[rows]
        jaw = np.full((n, JAW_POINTS, 2), np.nan, np.float32)
        jaw[frame] = face_tracks.jaw[rows]
        lower_face = np.zeros((n, LENGTH), np.int8)
        lower_face[frame] = face_tracks.lower_face[rows]
        return cls(track, points, box, yaw, pitch, opening, jaw, lower_face)

    @property
    def is_detected(self) -> BoolArray:
        """bool [n]: whether the face is detected in a frame."""
        return self.track >= 0

    def actions(self, face_tracks: FaceTracks, own: Sequence[int], policy: FacePolicy) -> IntArray:
        """Indices into `ACTIONS` [n] before gaps are bridged."""
        numbers, counts = np.unique(face_tracks.track, return_counts=True)
        is_other = ~np.isin(face_tracks.track, own) & np.isin(face_tracks.track, numbers[counts >= MIN_DETECTIONS])
        at, boxes = face_tracks.frame[is_other], face_tracks.box[is_other]
        action = np.full(face_tracks.frame_count, NO_FACE, np.int32)
        action[at] = OTHER_PERSON
        action[self.is_detected] = EDIT
        action[at[covered_share(self.box[at], boxes) > COVERED]] = OTHER_PERSON
        spread = np.nan_to_num(np.ptp(self.points, axis=1).max(axis=1), nan=0.0)
        action[self.is_detected & (spread < 1)] = NO_FACE  # the track is degenerate
        action[self.box[:, 2] - self.box[:, 0] < policy.min_face_px] = TOO_SMALL
        action[np.hypot(self.yaw, self.pitch) > policy.max_yaw_deg] = TURNED_AWAY
        return action


def is_edited(action: IntArray) -> BoolArray:
    """bool [n]: whether an action edits the frame."""
    return action <= BRIDGED


def gaps(action: IntArray, shot: IntArray) -> Iterator[range]:
    """Runs of frames that are not edited between edited frames of the same shot."""
    edited = is_edited(action)
    for part in runs(edited):
        inside = part.start > 0 and part.stop < len(edited) and not edited[part.start]
        if inside and shot[part.start - 1] == shot[part.stop]:
            yield part


def bridge_gaps(
    chosen: ChosenFace,
    action: IntArray,
    shot: IntArray,
    times: TimeArray,
    face_tracks: FaceTracks,
    tracks: Sequence[int],
    policy: FacePolicy,
) -> None:
    """Fill short gaps in place, unless the face reappears far away or another face covers its place."""
    others = OtherFaces(face_tracks, tracks)
    for gap in list(gaps(action, shot)):
        before, after = gap.start - 1, gap.stop
        short = times[gap.stop] - times[gap.start] <= policy.max_gap_sec + SLACK_SEC
        if (
            not short
            or np.isin(action[gap.start : gap.stop], (OUTSIDE, HIDDEN)).any()
            or jumped(chosen.box[before], chosen.box[after], len(gap))
        ):
            continue
        missing = [frame for frame in gap if action[frame] in (NO_FACE, OTHER_PERSON)]
        known = [before, *(frame for frame in gap if frame not in missing), after]
        boxes = between(chosen.box, missing, known, times)
        if others.cover(missing, boxes):
            continue
        for places in (chosen.points, chosen.jaw):  # [n, points, 2]
            flat = between(places.reshape(len(places), -1), missing, known, times)
            places[missing] = flat.reshape(-1, *places.shape[1:])
        chosen.box[missing] = boxes
        for angle in (chosen.yaw, chosen.pitch):
            angle[missing] = between(angle[:, None], missing, known, times)[:, 0]
        chosen.track[missing] = chosen.track[before]
        action[gap.start : gap.stop] = BRIDGED


def between(values: FloatArray, frames: list[int], known: list[int], times: TimeArray) -> FloatArray:
    """Values [f, d] of `frames`, interpolated linearly between those of the `known` frames; `values` [n, d]."""
    lines = [np.interp(times[frames], times[known], values[known, column]) for column in range(values.shape[1])]
    return np.stack(lines, axis=1).astype(np.float32)


class OtherFaces:
    """Faces of other people, by frame."""

    def __init__(self, face_tracks: FaceTracks, tracks: Sequence[int]):
        self.boxes = face_tracks.box
        self.is_other = ~np.isin(face_tracks.track, list(tracks))
        self.first = np.searchsorted(face_tracks.frame, np.arange(face_tracks.frame_count + 1))

    def cover(self, frames: list[int], boxes: FloatArray) -> bool:
        """Whether one of them covers the lower half of `boxes` [f, 4] in any of `frames` [f]."""
        for frame, box in zip(frames, boxes, strict=True):
            rows = np.arange(self.first[frame], self.first[frame + 1])
            others = self.boxes[rows[self.is_other[rows]]]
            if (covered_share(np.broadcast_to(box, others.shape), others) > COVERED).any():
                return True
        return False


def covered_share(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Share [m] of the lower half of each of `boxes` [m, 4] inside the box of `others` [m, 4]; NaN for NaN."""
    top = (boxes[:, 1] + boxes[:, 3]) / 2
    w = np.minimum(boxes[:, 2], others[:, 2]) - np.maximum(boxes[:, 0], others[:, 0])
    h = np.minimum(boxes[:, 3], others[:, 3]) - np.maximum(top, others[:, 1])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - top)
    return np.asarray(np.maximum(w, 0) * np.maximum(h, 0) / np.maximum(area, 1e-3), np.float32)


def drop_short_runs(action: IntArray, shot: IntArray, times: TimeArray, policy: FacePolicy) -> None:
    """Set short runs of edited frames between two gaps of one shot to `TOO_SHORT`, in place: they would look like flicker."""
    edited = is_edited(action)
    for part in runs(edited):
        inside = edited[part.start] and part.start > 0 and part.stop < len(edited)
        brief = times[part.stop] - times[part.start] < policy.min_run_sec - SLACK_SEC
        if inside and brief and shot[part.start - 1] == shot[part.stop]:
            action[part.start : part.stop] = TOO_SHORT


def jumped(before: FloatArray, after: FloatArray, frames_between: int = 0) -> bool:
    """Whether a box [4] moved or grew more than a head can between two frames.

    The allowed movement grows by half for each frame between, up to 1.5 times.
    """
    sizes = float(before[2] - before[0]), float(after[2] - after[0])
    moved = np.abs((before[:2] + before[2:]) - (after[:2] + after[2:])).max() / 2
    allowed = JUMP * min(1.5, 1 + frames_between / 2)
    return bool(moved > allowed * max(sizes) or max(sizes) > RESIZE * max(min(sizes), 1e-3))


def number_segments(edited: BoolArray, shot: IntArray, box: FloatArray) -> IntArray:
    """Segment number [n] of every frame, from 0; `NOT_EDITED` where it is not edited."""
    begins = edited.copy()
    together = edited[1:] & edited[:-1] & (shot[1:] == shot[:-1])
    size = box[:, 2] - box[:, 0]
    middle = (box[:, :2] + box[:, 2:]) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.abs(np.diff(middle, axis=0)).max(axis=1) / np.maximum(size[1:], size[:-1])
        grown = np.maximum(size[1:], size[:-1]) / np.maximum(np.minimum(size[1:], size[:-1]), 1e-3)
        begins[1:] &= ~(together & (moved <= JUMP) & (grown <= RESIZE))
    return np.where(edited, np.cumsum(begins) - 1, NOT_EDITED).astype(np.int32)


def fade(edited: BoolArray, shot: IntArray, times: TimeArray, policy: FacePolicy) -> FloatArray:
    """Opacity [n] of the edit, with a fade beside every gap within a shot."""
    weight = edited.astype(np.float32)
    for part in runs(np.where(edited, shot, -1)):
        if not edited[part.start]:
            continue
        inside = times[part.start : part.stop]
        if part.start > 0 and shot[part.start - 1] == shot[part.start]:
            since = inside - times[part.start - 1]
            weight[part.start : part.stop] *= np.clip(since / max(policy.fade_sec, SLACK_SEC), 0, 1)
        if part.stop < len(edited) and shot[part.stop] == shot[part.stop - 1]:
            until = times[part.stop] - inside
            weight[part.start : part.stop] *= np.clip(until / max(policy.fade_sec, SLACK_SEC), 0, 1)
    return weight


def steady(jaw: FloatArray, points: FloatArray, segment: IntArray) -> FloatArray:
    """Jaw lines [n, 17, 2] averaged over `JAW_FRAMES` frames before and after each in its segment; they go with the `points`."""
    head = points.mean(axis=1, keepdims=True)  # [n, 1, 2]
    total, count = np.zeros_like(jaw), np.zeros(len(jaw), np.float32)
    for shift in range(-JAW_FRAMES, JAW_FRAMES + 1):
        near = np.arange(len(jaw)) + shift
        inside = (near >= 0) & (near < len(jaw))
        inside[inside] = segment[near[inside]] == segment[inside]
        total[inside] += (jaw - head)[near[inside]]
        count += inside
    return np.asarray(total / count[:, None, None] + head, np.float32)


def segment_matrices(points: FloatArray, segment: IntArray, resolution: int) -> FloatArray:
    """Matrices [n, 2, 3] of `align_matrix`, with a new smoother for every segment; NaN outside of segments."""
    matrices = np.full((len(segment), 2, 3), np.nan, np.float32)
    for part in runs(segment):
        if segment[part.start] != NOT_EDITED:
            smoother = Smoother()
            for frame in part:
                matrices[frame] = align_matrix(points[frame], resolution, smoother)
    return matrices
