"""Face detector without weights of its own: OpenCV's Haar cascades (Viola and Jones, 2001) and optical flow.

A face is searched in the whole frame once; from then on each frame is looked at through a small upright patch of fixed
scale around the last eyes. Optical flow (Lucas and Kanade, 1981) of the rigid upper face says how the head moved since
the last frame, which does not lag; the eyes found by the cascade correct it by a share, which takes out their jitter.
The alignment points follow from the eyes by the proportions of an average face.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from latentsync.face.align import FloatArray, FrameArray, invert_matrix, transform_points
from latentsync.face.detect import AlignmentPoints

SEARCH_SIDE = 640  # longer side of the grey frame in which a face is searched
SEARCH_MIN_FACE = (24, 24)  # smallest face there
FACE_NEIGHBOURS, SURE_NEIGHBOURS = 3, 8  # overlapping cascade hits that make a face, and one beyond doubt
PATCH = 192  # side of the upright patch
EYE_DISTANCE = 56.0  # between the eyes in the patch
PATCH_MIN_FACE = (96, 96)  # smallest face in the patch; the usual one is 130
PATCH_EYES = np.array([[68.0, 72.0], [124.0, 72.0]], dtype=np.float32)
BOX_EYES = np.array([[0.295, 0.40], [0.705, 0.40]], dtype=np.float32)  # eyes in the face cascade's box
CORRECTION = 0.1  # share of the measured eyes in the tracked ones, once the track has settled
OFF_TRACK = 6.0  # patch pixels between measured and tracked eyes from which the measured ones are taken as they are
MAX_MISSED = 12  # frames (half a second) that are bridged by the flow alone
WIDE_REACH = (28, 24)  # half width and height of the patch's window in which an eye is searched first
NEAR_REACH = (22, 20)  # the same around an eye that is being followed
MIN_EYE, MAX_EYE = (22, 22), (44, 44)  # sizes of an eye in the patch
MIN_EYE_HITS = 3  # overlapping cascade hits that make an eye
RIGID_PART = (48, 30, 144, 112)  # x0, y0, x1, y1 in the patch: forehead to nose, which speech does not move
FLOW_SLACK = 2.5  # patch pixels between a feature and the common motion: heads also turn out of the plane
MIN_FLOW_SHARE = 0.4  # of the features that must agree on one motion

# Alignment points in the eyes' own axes: origin midway, unit = eye distance, x along the eyes, y down the face.
POINTS_FROM_EYES = np.array([[-0.53, -0.33], [0.53, -0.33], [0.0, 0.50]], dtype=np.float32)
FACE_BOX_FROM_EYES = np.array([[-1.1, -0.6], [1.1, 1.9]], dtype=np.float32)


@dataclass
class Track:
    """The face as of the last frame."""

    eyes: FloatArray  # [2, 2] in frame pixels: left, right in the image
    matrix: FloatArray  # [2, 3] frame -> patch of the last frame
    patch: FrameArray  # h w, grey
    frames: int = 1  # seen so far
    missed: int = 0  # frames since the cascades last saw the face


def upright_matrix(eyes: FloatArray) -> FloatArray:
    """Similarity [2, 3] from the frame to the patch that puts `eyes` [2, 2] on `PATCH_EYES`."""
    across = eyes[1] - eyes[0]
    a, b = EYE_DISTANCE * across / float(across @ across)
    linear = np.array([[a, b], [-b, a]])
    return np.concatenate([linear, (PATCH_EYES.mean(0) - linear @ eyes.mean(0))[:, None]], axis=1).astype(np.float32)


def grey_patch(frame: FrameArray, matrix: FloatArray) -> FrameArray:
    """The upright grey patch of a frame, averaged down where the face is large."""
    corners = transform_points(invert_matrix(matrix), np.array([[0, 0], [PATCH, 0], [0, PATCH], [PATCH, PATCH]]))
    limit = np.array(frame.shape[1::-1])
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, limit - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, low + 1, limit)
    region = frame[low[1] : high[1], low[0] : high[0]]
    step = max(1, int(1 / np.hypot(*matrix[0, :2])))
    small = cv2.resize(region, (-(-region.shape[1] // step), -(-region.shape[0] // step)), interpolation=cv2.INTER_AREA)
    ratio = np.array([region.shape[1] / small.shape[1], region.shape[0] / small.shape[0]])
    linear = matrix[:, :2].astype(np.float64) * ratio
    offset = matrix[:, :2] @ (low + (ratio - 1) / 2) + matrix[:, 2]
    inner = np.concatenate([linear, offset[:, None]], axis=1)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    patch = cv2.warpAffine(grey, inner, (PATCH, PATCH), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(patch, dtype=np.uint8)


def flow_between(before: FrameArray, after: FrameArray) -> FloatArray | None:
    """Similarity [2, 3] of the rigid upper face from one patch to the next; None where it is lost (a cut)."""
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
    """Eyes [2, 2] between flow and cascade: an average at first, then mostly the flow, the cascade where they part."""
    parted = float(np.abs(measured - predicted).max()) / OFF_TRACK
    share = min(1.0, max(CORRECTION, 1 / (frames + 1), parted**2))
    return predicted + np.float32(share) * (measured - predicted)


def points_from_eyes(eyes: FloatArray) -> AlignmentPoints:
    """Alignment points and the face's box from the eyes [2, 2], by the proportions of an average frontal face."""
    across = eyes[1] - eyes[0]
    basis = np.stack([across, np.array([-across[1], across[0]])])  # x along the eyes, y down the face
    centre = eyes.mean(axis=0)
    points = (centre + POINTS_FROM_EYES @ basis).astype(np.float32)
    (left, top), (right, bottom) = centre + FACE_BOX_FROM_EYES * np.hypot(*across)
    return AlignmentPoints(points, (float(left), float(top), float(right), float(bottom)), 1.0)


class CascadeDetector:
    """Face detector by Haar cascades and optical flow, without weights; for frontal faces tilted up to 20 degrees."""

    def __init__(self) -> None:
        self.face_cascade = load_cascade("haarcascade_frontalface_alt2.xml")
        self.eye_cascade = load_cascade("haarcascade_eye_tree_eyeglasses.xml")
        self.track: Track | None = None

    def reset(self) -> None:
        self.track = None

    def points(self, frame: FrameArray) -> AlignmentPoints | None:
        """The face followed so far, or else the largest, of the next frame (uint8 h w 3, RGB); None without one."""
        followed = self.follow(frame, self.track) if self.track else None
        self.track = followed or self.search(frame)
        if self.track is None:
            return None
        return replace(points_from_eyes(self.track.eyes), score=1 - self.track.missed / (MAX_MISSED + 1))

    def search(self, frame: FrameArray) -> Track | None:
        """The largest face of the frame with an eye to be seen, or else the largest that the cascade is sure of."""
        scale = min(1.0, SEARCH_SIDE / max(frame.shape[:2]))
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        for neighbours in (FACE_NEIGHBOURS, SURE_NEIGHBOURS):
            boxes = largest_first(self.face_cascade.detectMultiScale(grey, 1.1, neighbours, minSize=SEARCH_MIN_FACE))
            for box in boxes:
                eyes = (box[:2] + BOX_EYES * box[2:]) / scale
                track = self.settle(frame, eyes, needs_eyes=neighbours == FACE_NEIGHBOURS)
                if track is not None:
                    return track
            if not len(boxes):
                return None
        return None

    def settle(self, frame: FrameArray, eyes: FloatArray, needs_eyes: bool) -> Track | None:
        """A new track from the roughly known `eyes`; None if an eye must be seen there and is not."""
        for _ in range(2):
            matrix = upright_matrix(eyes)
            patch = grey_patch(frame, matrix)
            measured = self.measure(patch, PATCH_EYES, WIDE_REACH)
            if measured is None:
                return None if needs_eyes else Track(eyes, matrix, patch)
            eyes = transform_points(invert_matrix(matrix), measured)
        return Track(eyes, matrix, patch)

    def follow(self, frame: FrameArray, track: Track) -> Track | None:
        """The track one frame on; None once the face is lost."""
        matrix = upright_matrix(track.eyes)
        patch = grey_patch(frame, matrix)
        motion = flow_between(track.patch, patch)
        if motion is None:
            return None
        predicted = transform_points(motion, transform_points(track.matrix, track.eyes))
        measured = self.measure(patch, predicted, NEAR_REACH)
        missed = track.missed + 1 if measured is None and not self.sees_face(patch) else 0
        if missed > MAX_MISSED:
            return None
        if measured is not None:
            predicted = corrected(predicted, measured, track.frames)
        eyes = transform_points(invert_matrix(matrix), predicted)
        return Track(eyes, matrix, patch, track.frames + 1, missed)

    def sees_face(self, patch: FrameArray) -> bool:
        """Whether a face of about the patch's scale is in it: closed eyes and dark glasses must not end a track."""
        return len(self.face_cascade.detectMultiScale(patch, 1.1, FACE_NEIGHBOURS, minSize=PATCH_MIN_FACE)) > 0

    def measure(self, patch: FrameArray, near: FloatArray, reach: tuple[int, int]) -> FloatArray | None:
        """Eyes [2, 2] in the patch close to `near`; an unseen one moves with the other; None if neither is seen."""
        found = [self.find_eye(patch, eye, reach) for eye in near]
        shifts = [eye - guess for eye, guess in zip(found, near, strict=True) if eye is not None]
        if not shifts:
            return None
        shift = np.mean(shifts, axis=0)
        return np.stack([guess + shift if eye is None else eye for eye, guess in zip(found, near, strict=True)])

    def find_eye(self, patch: FrameArray, near: FloatArray, reach: tuple[int, int]) -> FloatArray | None:
        """Centre [2] of the cascade's hits around `near` in the patch: their median, which is finer than one hit."""
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
    """The cascade's boxes x, y, w, h as an array [n, 4], the widest first."""
    found = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return found[np.argsort(-found[:, 2], kind="stable")]


def load_cascade(name: str) -> cv2.CascadeClassifier:
    """A cascade that ships with OpenCV's wheel; ValueError if this OpenCV has none."""
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    cascade = cv2.CascadeClassifier(str(Path(folder) / name)) if folder else None
    if cascade is None or cascade.empty():
        raise ValueError(f"OpenCV {cv2.__version__} comes without {name}: install opencv-python 4.x from its wheel.")
    return cascade
