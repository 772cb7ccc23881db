"""Face tracks for SyncNet v2: boxes joined over time, and square crops along a track.

A box is x0, y0, x1, y1 in frame pixels; t frames, k faces of a frame.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.signal import medfilt

FrameArray = NDArray[np.uint8]
Boxes = NDArray[np.floating]

CROP_PX = 224
CROP_SHARE = 0.4  # margin around the face, in half sizes of its box
CROP_FILL = 110  # grey level outside the frame
SMOOTHING = 13  # frames of the median filter along a track
CUT_CHANGE = 27.0  # mean absolute change of hue, saturation and value from which two frames are a cut
CUT_SIDE = 256  # px; longer side of the reduced frame in which cuts are detected


class FaceBoxes(Protocol):
    """Finds the faces of a frame."""

    def __call__(self, frame: FrameArray) -> Boxes:
        """Boxes [k, 4] of the faces in a frame, uint8 [h, w, 3] RGB; k may be 0."""

    def reset(self) -> None:
        """Clear the tracking state, before the first frame of another stream."""


@dataclass(frozen=True)
class TrackRules:
    """Conditions for a face track; `PUBLISHED_RULES` are those of the published evaluation."""

    min_overlap: float = 0.5  # intersection over union of consecutive boxes
    max_missed: int = 25  # consecutive frames without the face
    min_detections: int = 25
    min_side_px: float = 60.0  # mean side of the boxes


PUBLISHED_RULES = TrackRules(min_detections=51, min_side_px=100.0)


@dataclass(frozen=True)
class FaceBoxTrack:
    """One face from `start_frame` on: a box per frame, [t, 4], interpolated where it was not detected."""

    start_frame: int
    boxes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass
class _OpenTrack:
    frames: list[int] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)


def find_tracks(
    frames: Iterable[FrameArray], find_boxes: FaceBoxes, rules: TrackRules | None = None
) -> list[FaceBoxTrack]:
    """The face tracks of consecutive frames at 25 fps; a cut ends all of them. One frame is in memory at a time."""
    rules = rules or TrackRules()
    found: list[FaceBoxTrack] = []
    open_tracks: list[_OpenTrack] = []
    before: NDArray[np.float32] | None = None
    find_boxes.reset()
    for index, frame in enumerate(frames):
        small = _small_hsv(frame)
        if before is not None and is_cut(before, small):
            find_boxes.reset()
            found, open_tracks = found + _finished(open_tracks, rules), []
        before = small
        closed = [t for t in open_tracks if index - t.frames[-1] > rules.max_missed]
        open_tracks = [t for t in open_tracks if index - t.frames[-1] <= rules.max_missed]
        found += _finished(closed, rules)
        open_tracks += _extend(open_tracks, find_boxes(frame), index, rules)
    return sorted(found + _finished(open_tracks, rules), key=lambda track: (track.start_frame, *track.boxes[0]))


def overlap(box: Boxes, boxes: Boxes) -> NDArray[np.float64]:
    """Intersection over union of one box [4] with boxes [k, 4]: [k]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(axis=1) for each in (box[None], boxes)]
    return np.asarray(common / np.maximum(areas[0] + areas[1] - common, 1e-9), np.float64)


def is_cut(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    """Whether two consecutive reduced frames (hue, saturation, value; 8 bits) belong to different shots."""
    return before.shape != after.shape or float(np.abs(after - before).mean()) >= CUT_CHANGE


def smooth_track(boxes: Boxes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres [t, 2] and half sizes [t] of a track's boxes [t, 4], median filtered over time (zeros beyond its ends)."""
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    smooth = [medfilt(values.astype(np.float64), SMOOTHING) for values in (*centres.T, half)]
    return np.stack(smooth[:2], axis=1), smooth[2]


def crop_track(frames: Iterable[FrameArray], track: FaceBoxTrack) -> Iterator[FrameArray]:
    """The face of each of a track's frames, uint8 [224, 224, 3]: from 1 half size above its centre to 1.8 below.

    `frames` start at the first frame of the track.
    """
    centres, halves = smooth_track(track.boxes)
    for frame, centre, half in zip(frames, centres, halves, strict=False):
        yield crop_face(frame, centre, max(1.0, float(half)))


def crop_face(frame: FrameArray, centre: NDArray[np.float64], half: float) -> FrameArray:
    """The square around a face at `centre` (x, y), grey beyond the frame, resized to 224 x 224."""
    margin = int(half * (1 + 2 * CROP_SHARE))
    padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), constant_values=CROP_FILL)
    x, y = centre + margin
    rows = slice(max(0, int(y - half)), max(0, int(y + half * (1 + 2 * CROP_SHARE))))
    columns = slice(max(0, int(x - half * (1 + CROP_SHARE))), max(0, int(x + half * (1 + CROP_SHARE))))
    crop = padded[rows, columns]
    if crop.size == 0:  # the smoothed box has left the frame
        return np.full((CROP_PX, CROP_PX, 3), CROP_FILL, np.uint8)
    return np.asarray(cv2.resize(crop, (CROP_PX, CROP_PX)), np.uint8)


def _small_hsv(frame: FrameArray) -> NDArray[np.float32]:
    scale = min(1.0, CUT_SIDE / max(frame.shape[:2]))
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(small, cv2.COLOR_RGB2HSV).astype(np.float32)


def _extend(tracks: list[_OpenTrack], boxes: Boxes, index: int, rules: TrackRules) -> list[_OpenTrack]:
    """Extend each open track by the box that overlaps its last one most; the other boxes start the returned tracks."""
    left = list(range(len(boxes)))
    for track in tracks:
        overlaps = overlap(track.boxes[-1], boxes[left]) if left else np.zeros(0)
        if len(overlaps) and overlaps.max() > rules.min_overlap:
            track.frames.append(index)
            track.boxes.append(boxes[left.pop(int(overlaps.argmax()))])
    return [_OpenTrack([index], [boxes[each]]) for each in left]


def _finished(tracks: list[_OpenTrack], rules: TrackRules) -> list[FaceBoxTrack]:
    """The tracks that are long and large enough, with a box per frame."""
    return [
        _filled(track)
        for track in tracks
        if len(track.frames) >= rules.min_detections and _side(track) > rules.min_side_px
    ]


def _side(track: _OpenTrack) -> float:
    boxes = np.stack(track.boxes)
    return float((boxes[:, 2:] - boxes[:, :2]).mean(axis=0).max())


def _filled(track: _OpenTrack) -> FaceBoxTrack:
    at = np.arange(track.frames[0], track.frames[-1] + 1)
    columns = [np.interp(at, track.frames, column) for column in np.stack(track.boxes).astype(np.float64).T]
    return FaceBoxTrack(track.frames[0], np.stack(columns, axis=1))
