"""Face detector without weights: OpenCV's Haar cascades (Viola and Jones, 2001) and optical flow.

The whole frame is searched at intervals. In between, a face is tracked in a small upright patch of fixed scale around its last
eye positions. Optical flow (Lucas and Kanade, 1981) of the rigid upper face gives the head movement since the last frame
without lag; the eyes detected by the cascade correct the flow with a small weight, which suppresses their jitter. The alignment
points follow from the eyes by the proportions of an average face.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from latentsync.face.align import FloatArray, FrameArray, invert_matrix, transform_points, warp_grey
from latentsync.face.detection.detector import Box, Face
from latentsync.face.detection.pose import opening_of_patch
from latentsync.face.detection.tracking import Effort, TrackingDetector, is_known
from latentsync.weights.table import DEFAULT_ALIGNMENT, Alignment

SEARCH_MIN_FACE = (24, 24)  # smallest face in the grey copy of the frame
FACE_NEIGHBOURS, SURE_NEIGHBOURS = 3, 8  # overlapping cascade hits of a face, and of a certain face
PATCH = 192  # side of the upright patch in pixels
EYE_DISTANCE = 56.0  # between the eyes in the patch
PATCH_MIN_FACE = (96, 96)  # smallest face in the patch; typical is 130
PATCH_EYES = np.array([[68.0, 72.0], [124.0, 72.0]], dtype=np.float32)
BOX_EYES = np.array([[0.295, 0.40], [0.705, 0.40]], dtype=np.float32)  # eyes in the face cascade's box
CORRECTION = 0.1  # weight of the measured eyes in a track of many frames
OFF_TRACK = 6.0  # patch pixels between measured and tracked eyes from which the measured ones replace the tracked
MAX_DOUBTFUL = 5  # frames that a track continues without both eyes before the face is searched in the patch
MAX_MISSED = 12  # frames (half a second) that are tracked by the flow only
WIDE_REACH = (28, 24)  # half width and height of the window of the patch in which an eye is first searched
NEAR_REACH = (22, 20)  # the same for an eye that is tracked
MIN_EYE, MAX_EYE = (22, 22), (44, 44)  # sizes of an eye in the patch
MIN_EYE_HITS = 3  # overlapping cascade hits of an eye
RIGID_PART = (48, 30, 144, 112)  # x0, y0, x1, y1 in the patch: forehead to nose, which do not move in speech
FLOW_SLACK = 2.5  # tolerance of the common motion in patch pixels: heads also turn out of the plane
MIN_FLOW_SHARE = 0.4  # least share of the features that agree with the common motion

# Alignment points in the coordinates of the eyes: origin midway, unit = eye distance, x along the eyes, y down the face.
BROWS_FROM_EYES = np.array([[-0.53, -0.33], [0.53, -0.33]], dtype=np.float32)
# The nose tip was measured relative to the eyes of this detector. In the mean shape of annotated faces the landmarks 27 to 35 are
# -0.02, 0.17, 0.37, 0.57, 0.70, 0.74, 0.78, 0.74 and 0.70 eye distances below the eyes: their mean is 0.528, that of the tip
# (29, 30, 31, 35) 0.584. The centre of the whole nose is placed in the same ratio to the measured tip, 0.90.
NOSE_FROM_EYES: dict[Alignment, float] = {"nose_tip": 0.50, "whole_nose": 0.50 * 0.90}
FACE_BOX_FROM_EYES = np.array([[-1.1, -0.6], [1.1, 1.9]], dtype=np.float32)


@dataclass
class EyeTrack:
    """Eyes and patch of one face in the last frame."""

    eyes: FloatArray  # [2, 2] in frame pixels: left, right in the image
    matrix: FloatArray  # [2, 3] frame -> patch of the last frame
    patch: FrameArray  # h w, grey
    frames: int = 1  # tracked so far
    missed: int = 0  # frames since the cascades last detected the face
    doubtful: int = 0  # frames since both eyes were last detected
    opening: float = math.nan  # mouth opening, see `opening_of_patch`


def upright_matrix(eyes: FloatArray) -> FloatArray:
    """Similarity [2, 3] from the frame to the patch that maps `eyes` [2, 2] to `PATCH_EYES`."""
    across = eyes[1] - eyes[0]
    a, b = EYE_DISTANCE * across / float(across @ across)
    linear = np.array([[a, b], [-b, a]])
    return np.concatenate([linear, (PATCH_EYES.mean(0) - linear @ eyes.mean(0))[:, None]], axis=1).astype(np.float32)


def flow_between(before: FrameArray, after: FrameArray) -> FloatArray | None:
    """Motion of the rigid upper face from one patch to the next, a similarity [2, 3]; None if too few features agree (a cut)."""
    x0, y0, x1, y1 = RIGID_PART
    mask = np.zeros_like(before)
    mask[y0:y1, x0:x1] = 255
    features = cv2.goodFeaturesToTrack(before, maxCorners=60, qualityLevel=0.01, minDistance=5, mask=mask)
    if features is None or len(features) < 8:
        return None
    start = np.asarray(features, dtype=np.float32)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start, start.copy(), winSize=(21, 21), maxLevel=2)
    kept = np.asarray(found).ravel() == 1
    if kept.sum() < 8:
        return None
    end = np.asarray(moved)[kept]
    motion, agreeing = cv2.estimateAffinePartial2D(start[kept], end, ransacReprojThreshold=FLOW_SLACK)
    if motion is None or agreeing.sum() < MIN_FLOW_SHARE * len(features):
        return None
    return motion.astype(np.float32)


def corrected(predicted: FloatArray, measured: FloatArray, frames: int) -> FloatArray:
    """Eyes [2, 2] from flow and cascade: first their average, later mostly the flow, and the cascade where the two disagree."""
    disagreement = float(np.abs(measured - predicted).max()) / OFF_TRACK
    share = min(1.0, max(CORRECTION, 1 / (frames + 1), disagreement**2))
    return predicted + np.float32(share) * (measured - predicted)


def face_from_eyes(eyes: FloatArray, alignment: Alignment = DEFAULT_ALIGNMENT) -> Face:
    """Alignment points and box of a face from its eyes [2, 2], by the proportions of an average frontal face."""
    across = eyes[1] - eyes[0]
    basis = np.stack([across, np.array([-across[1], across[0]])])  # x along the eyes, y down the face
    centre = eyes.mean(axis=0)
    nose = np.array([[0.0, NOSE_FROM_EYES[alignment]]], dtype=np.float32)
    points = (centre + np.concatenate([BROWS_FROM_EYES, nose]) @ basis).astype(np.float32)
    (left, top), (right, bottom) = centre + FACE_BOX_FROM_EYES * np.hypot(*across)
    return Face(points, (float(left), float(top), float(right), float(bottom)), 1.0)


@dataclass(frozen=True)
class View:
    """Scale, rotation and contrast of a grey copy of the frame in which faces are searched."""

    side: int  # largest length of its longer side in pixels
    step: float  # scale factor between two face sizes
    turn_deg: float = 0.0  # for heads that are tilted
    is_equalised: bool = False  # histogram equalised, for dark frames


VIEWS = {
    Effort.QUICK: [View(320, 1.2)],
    Effort.FULL: [View(640, 1.1)],
    Effort.HARD: [View(640, 1.2, is_equalised=True), View(640, 1.2, 30), View(640, 1.2, -30), View(1280, 1.2)],
}


def make_backend(weights_dir: Path | None, device: str, alignment: Alignment) -> "CascadeDetector":
    """See `latentsync.face.detection.detector`; there are no weights, and it runs on the CPU."""
    return CascadeDetector(alignment)


def file_problems(weights_dir: Path | None = None) -> list[tuple[Path, str]]:
    """Empty where the cascades ship with OpenCV, as they do in version 4."""
    if hasattr(cv2, "CascadeClassifier"):
        return []
    return [(Path("opencv-python"), f"version {cv2.__version__} has no cascades: choose the detector mesh")]


class CascadeDetector(TrackingDetector[EyeTrack]):
    """Face detector with Haar cascades and optical flow, for frontal faces tilted up to 20 degrees.

    Faces tilted up to 50 degrees are detected too, but only while there is no other face in the frame.
    """

    def __init__(self, alignment: Alignment = DEFAULT_ALIGNMENT) -> None:
        super().__init__(alignment)
        self.face_cascade = load_cascade("haarcascade_frontalface_alt2.xml")
        self.eye_cascade = load_cascade("haarcascade_eye_tree_eyeglasses.xml")

    def face(self, state: EyeTrack) -> Face:
        """The `Face` of a state."""
        score = 1 - state.missed / (MAX_MISSED + 1)
        return replace(face_from_eyes(state.eyes, self.alignment), score=score, opening=state.opening)

    def follow(self, frame: FrameArray, states: list[EyeTrack]) -> list[EyeTrack | None]:
        """The same faces in the next frame; None for a lost face."""
        return [self.follow_one(frame, state) for state in states]

    def search(self, frame: FrameArray, effort: Effort, known: list[Box]) -> list[EyeTrack]:
        """All faces with at least one detected eye, the largest first; if there is none, the largest certain face.

        If a face is known or was detected before, further faces need both eyes.
        """
        found: list[EyeTrack] = []
        for view in VIEWS[effort]:
            for neighbours in (FACE_NEIGHBOURS, SURE_NEIGHBOURS):
                candidates = self.candidates(frame, view, neighbours)
                for eyes in candidates:
                    boxes = known + [face_from_eyes(state.eyes).box for state in found]
                    if is_known(face_from_eyes(eyes).box, boxes):
                        continue
                    sure = neighbours == SURE_NEIGHBOURS and effort is Effort.FULL and not boxes
                    state = self.settle(frame, eyes, eyes_needed=0 if sure else 2 if boxes or view.turn_deg else 1)
                    if state is not None and not is_known(face_from_eyes(state.eyes).box, boxes):
                        found.append(state)
                if found or known or not candidates:
                    break
            if found:
                break
        return found

    def candidates(self, frame: FrameArray, view: View, neighbours: int) -> list[FloatArray]:
        """Estimated eyes [2, 2] of every face that the cascade detects in a view of the frame, the largest face first."""
        scale = min(1.0, view.side / max(frame.shape[:2]))
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        if view.is_equalised:
            grey = cv2.equalizeHist(grey)
        turn = cv2.getRotationMatrix2D((grey.shape[1] / 2, grey.shape[0] / 2), view.turn_deg, 1.0).astype(np.float32)
        if view.turn_deg:
            grey = cv2.warpAffine(grey, turn, grey.shape[1::-1])
        boxes = largest_first(self.face_cascade.detectMultiScale(grey, view.step, neighbours, minSize=SEARCH_MIN_FACE))
        back = invert_matrix(turn)
        eyes = [box[:2] + BOX_EYES * box[2:] for box in boxes]
        return [(transform_points(back, pair) if view.turn_deg else pair) / scale for pair in eyes]

    def settle(self, frame: FrameArray, eyes: FloatArray, eyes_needed: int) -> EyeTrack | None:
        """A new track from estimated `eyes` [2, 2]; None if fewer than `eyes_needed` eyes are detected there."""
        for _ in range(2):
            matrix = upright_matrix(eyes)
            patch = warp_grey(frame, matrix, (PATCH, PATCH))
            measured, eyes_found = self.measure(patch, PATCH_EYES, WIDE_REACH)
            if eyes_found < eyes_needed:
                return None
            if measured is None:
                return EyeTrack(eyes, matrix, patch, doubtful=MAX_DOUBTFUL)
            eyes = transform_points(invert_matrix(matrix), measured)
        if eyes_needed > 1 and not self.has_face(patch):
            return None
        doubtful = 0 if eyes_found == 2 else MAX_DOUBTFUL
        return EyeTrack(eyes, matrix, patch, 1, 0, doubtful, opening_of_patch(patch, transform_points(matrix, eyes)))

    def follow_one(self, frame: FrameArray, track: EyeTrack) -> EyeTrack | None:
        """The track in the next frame; None if the face is lost."""
        matrix = upright_matrix(track.eyes)
        patch = warp_grey(frame, matrix, (PATCH, PATCH))
        motion = flow_between(track.patch, patch)
        if motion is None:
            return None
        predicted = transform_points(motion, transform_points(track.matrix, track.eyes))
        measured, eyes_found = self.measure(patch, predicted, NEAR_REACH)
        doubtful = 0 if eyes_found == 2 else track.doubtful + 1
        if doubtful > MAX_DOUBTFUL:
            redetected = self.redetect_eyes(patch)
            measured = measured if redetected is None else redetected
        missed = track.missed + 1 if measured is None and not self.has_face(patch) else 0
        if missed > MAX_MISSED:
            return None
        if measured is not None:
            predicted = corrected(predicted, measured, track.frames)
        eyes = transform_points(invert_matrix(matrix), predicted)
        opening = opening_of_patch(patch, predicted)
        return EyeTrack(eyes, matrix, patch, track.frames + 1, missed, doubtful, opening)

    def redetect_eyes(self, patch: FrameArray) -> FloatArray | None:
        """Both eyes [2, 2] of the largest face in the patch, independent of the track, which may have started at a wrong place."""
        boxes = self.faces_in(patch)
        if not len(boxes):
            return None
        eyes, eyes_found = self.measure(patch, boxes[0][:2] + BOX_EYES * boxes[0][2:], WIDE_REACH)
        return eyes if eyes_found == 2 else None

    def faces_in(self, patch: FrameArray) -> FloatArray:
        """Boxes x, y, w, h [n, 4] of faces of about the patch's scale, the largest first."""
        return largest_first(self.face_cascade.detectMultiScale(patch, 1.1, FACE_NEIGHBOURS, minSize=PATCH_MIN_FACE))

    def has_face(self, patch: FrameArray) -> bool:
        """Whether the patch contains a face of about its scale, also with closed eyes or dark glasses."""
        return len(self.faces_in(patch)) > 0

    def measure(self, patch: FrameArray, near: FloatArray, reach: tuple[int, int]) -> tuple[FloatArray | None, int]:
        """Eyes [2, 2] in the patch close to `near`, and the number detected; an undetected eye moves with the other."""
        found = [self.find_eye(patch, eye, reach) for eye in near]
        shifts = [eye - guess for eye, guess in zip(found, near, strict=True) if eye is not None]
        if not shifts:
            return None, 0
        shift = np.mean(shifts, axis=0)
        eyes = [guess + shift if eye is None else eye for eye, guess in zip(found, near, strict=True)]
        return np.stack(eyes), len(shifts)

    def find_eye(self, patch: FrameArray, near: FloatArray, reach: tuple[int, int]) -> FloatArray | None:
        """Median [2] of the centres of the cascade's hits around `near` in the patch; None for fewer than `MIN_EYE_HITS`."""
        low = np.clip(np.round(near).astype(int) - reach, 0, PATCH - 1)
        high = np.clip(np.round(near).astype(int) + reach, 1, PATCH)
        window = np.ascontiguousarray(patch[low[1] : high[1], low[0] : high[0]])
        found = self.eye_cascade.detectMultiScale(window, 1.15, 0, minSize=MIN_EYE, maxSize=MAX_EYE)
        hits = np.asarray(found).reshape(-1, 4)
        if len(hits) < MIN_EYE_HITS:
            return None
        centres = hits[:, :2] + (hits[:, 2:] - 1) / 2 + low
        return np.median(centres, axis=0).astype(np.float32)


def largest_first(boxes: object) -> FloatArray:
    """Boxes x, y, w, h of a cascade as an array [n, 4], the widest first."""
    found = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return found[np.argsort(-found[:, 2], kind="stable")]


def load_cascade(name: str) -> Any:
    """A cascade (cv2.CascadeClassifier) that ships with OpenCV 4; ValueError if this build lacks it."""
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    classifier = getattr(cv2, "CascadeClassifier", None)
    cascade = classifier(str(Path(folder) / name)) if folder and classifier else None
    if cascade is None or cascade.empty():
        raise ValueError(
            f"OpenCV {cv2.__version__} lacks {name}: choose the detector mesh, or install opencv-python 4.x from its wheel."
        )
    return cascade
