"""Face detector with a mesh of 468 points (FaceMesh, Kartynnik et al., 2019): CPU, weights of 1.7 MB under free licences.

The whole frame is searched at intervals, see `finders`. In between, a face is followed in an upright patch around its last place:
optical flow moves the patch with the head, and the mesh is measured in it, see `motion`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from latentsync.face.align import CloseUp, FloatArray, FrameArray, close_up, invert_matrix, transform_points
from latentsync.face.detection.detector import Box, Face
from latentsync.face.detection.finders import BlazeFace, Candidate, YuNet, brightened, grey_of, planes, read_tflite
from latentsync.face.detection.landmarks import points_from_landmarks
from latentsync.face.detection.mesh_points import (
    EYE_CORNERS,
    eye_centres,
    landmarks_of_mesh,
    rigid_mask,
    truth_of_mesh,
)
from latentsync.face.detection.motion import head_motion, steadied
from latentsync.face.detection.tracking import Effort, TrackingDetector, is_known, overlap
from latentsync.weights.hub import file_state
from latentsync.weights.table import DEFAULT_ALIGNMENT, FACES, FETCH, PUBLIC_FILES, Alignment, place_of

WEIGHT_FILES = BLAZEFACE_FILE, MESH_FILE, YUNET_FILE = (
    "face_detection_short_range.tflite",
    "face_landmark.tflite",
    "face_detection_yunet_2023mar.onnx",
)
PATCH = 192  # side of the network's input
PATCH_SIZE = (PATCH, PATCH)
AROUND = 16  # patch pixels around a patch that are reduced with it, so that the next ones need no other
MARGIN = 1.5  # side of the patch over that of the face
MIN_SCORE = 0.5  # of the mesh, from which a face is one
LEAST_SCORE = 0.2  # of a first measurement, and of BlazeFace in a hard search
# Meshes of one face in slightly different patches agree, those of something else do not: root mean square distance in patch pixels.
# Upright faces 0.3 to 0.6, with a mask up to 1.4; faces that are taken for upright 1.5 to 6; things taken for a face 1.6 and more.
SURE_SPREAD, MAX_SPREAD = 1.0, 1.75
SURE_SCORE, DOUBTFUL_SCORE = 0.9, 0.3  # mean of the measurements: from which a face is sure, from which it may be one
CONFIRMED_SCORE = 0.6  # of BlazeFace in the patch of a face that is not sure
SAME_EYES = 0.4  # of the eyes' distance, up to which both networks see the same eyes
TOUCHING = 0.05  # intersection over union from which two boxes touch
MAX_MISSED = 12  # frames (half a second) that are followed by the flow only
PATCH_GAIN = 0.15  # share of the patch's misplacement that is corrected in a frame
MISPLACED = 0.12  # of the patch's side, from which it is placed anew
OFF_CENTRE, OFF_SIZE = 0.3, 1.8  # of a mesh in its patch, from which it is implausible
GROWTH = 1.2  # of a mesh in a patch that moved with it, from which it is another face
STILL = 0.5  # patch pixels by which the head may move without the patch
SHIFTS = (
    (0.0, 0.0, 1.0, 0.0),
    (2.0, 1.0, 1.02, 1.5),
    (-2.0, -1.0, 0.98, -1.5),
    (1.0, -2.0, 0.99, 2.0),
    (-1.0, 2.0, 1.01, -2.0),
)
UNMOVED = np.eye(2, 3, dtype=np.float32)
Attempts = tuple[tuple[float, float], ...]  # sizes and turns (degrees) of patches relative to a candidate
UPRIGHT: Attempts = ((1.0, 0.0), (0.85, 0.0))
TURNED: Attempts = (*UPRIGHT, (1.0, 180.0), (1.0, 90.0), (1.0, -90.0))  # the networks can be wrong by quarter turns
SEARCH_SIDES = {Effort.QUICK: 320, Effort.FULL: 640, Effort.HARD: 960}  # longer side in pixels of YuNet's copy
TURNS_DEG = (45.0, -45.0, 90.0, -90.0, 180.0)  # of a hard search


@dataclass(frozen=True)
class Measurement:
    """The mesh measured in one patch."""

    mesh: FloatArray  # [468, 3] in patch pixels
    score: float  # 0..1


@dataclass(frozen=True)
class MeshTrack:
    """One face in the last frame."""

    points: FloatArray  # [3, 2] alignment points in frame pixels, steady
    mesh: FloatArray  # [468, 3] in frame pixels, as measured
    matrix: FloatArray  # [2, 3] frame -> patch
    patch: FrameArray  # grey, uint8 [PATCH, PATCH]
    score: float
    pending: FloatArray  # [3, 2] see `steadied`
    correction: FloatArray = field(
        default_factory=lambda: UNMOVED
    )  # [2, 3] from the patch to where the next one is placed
    missed: int = 0  # frames since the mesh was last measured

    @cached_property
    def face(self) -> Face:
        truth, landmarks = truth_of_mesh(self.mesh), landmarks_of_mesh(self.mesh)
        (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
        box = (float(left), float(top), float(right), float(bottom))
        score = self.score * (1 - self.missed / (MAX_MISSED + 1))
        return Face(self.points, box, score, 0, truth.yaw_deg, truth.pitch_deg, truth.opening, landmarks)


@dataclass(frozen=True)
class Settled:
    """A new track, and how far the measurements of it are apart."""

    track: MeshTrack
    spread: float  # see `SURE_SPREAD`

    @property
    def is_sure(self) -> bool:
        return self.spread < SURE_SPREAD and self.track.score > SURE_SCORE


def make_backend(weights_dir: Path | None, device: str, alignment: Alignment) -> "MeshDetector":
    """See `latentsync.face.detection.detector`; it runs on the CPU."""
    return MeshDetector(weights_dir, alignment)


def file_problems(weights_dir: Path | None = None) -> list[tuple[Path, str]]:
    """The files of the set `faces`, each with its problem: a sentence without full stop, or an empty string."""
    if weights_dir:
        return [(weights_dir / name, "" if (weights_dir / name).is_file() else "is missing") for name in WEIGHT_FILES]
    states = [file_state(file) for file in PUBLIC_FILES if "faces" in file.sets]
    return [
        (place_of(state.file.path), "" if state.state == "there" else state.detail or "is missing") for state in states
    ]


class MeshDetector(TrackingDetector[MeshTrack]):
    """Face detector with a mesh of 468 points. Raises ValueError if `weights_dir` (default: checkpoints/face) lacks a file."""

    def __init__(self, weights_dir: Path | None = None, alignment: Alignment = DEFAULT_ALIGNMENT) -> None:
        super().__init__(alignment)
        folder = weights_dir or place_of(f"{FACES}/{MESH_FILE}").parent
        missing = [name for name in WEIGHT_FILES if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"the mesh detector needs {', '.join(missing)} in {folder}: fetch the weights with "
                f"`{FETCH} faces`, or choose another detector."
            )
        self.blazeface, self.yunet = BlazeFace(folder / BLAZEFACE_FILE), YuNet(folder / YUNET_FILE)
        self.network = read_tflite(folder / MESH_FILE)

    def face(self, state: MeshTrack) -> Face:
        """The `Face` of a state."""
        return state.face

    def alignment_points(self, mesh: FloatArray) -> FloatArray:
        """Alignment points [3, 2] of a mesh, by its 68 landmarks."""
        return points_from_landmarks(landmarks_of_mesh(mesh), 1.0, self.alignment).points

    def follow(self, frame: FrameArray, states: list[MeshTrack]) -> list[MeshTrack | None]:
        """The same faces in the next frame; None for a lost face."""
        return [self.follow_one(frame, state) for state in states]

    def search(self, frame: FrameArray, effort: Effort, known: list[Box]) -> list[MeshTrack]:
        """All faces of the frame that are not at `known` boxes, the largest first."""
        found: list[MeshTrack] = []
        for candidates in self.candidates(frame, effort):
            for attempts in (UPRIGHT, TURNED):
                for candidate in candidates:
                    boxes = known + [self.face(state).box for state in found]
                    if is_known(box_of(candidate), boxes):
                        continue
                    state = self.settle(frame, candidate, attempts, boxes)
                    if state is not None and not is_known(self.face(state).box, boxes):
                        found.append(state)
            if found:
                break
        return sorted(found, key=lambda state: -self.face(state).face_px)

    def candidates(self, frame: FrameArray, effort: Effort) -> Iterator[list[Candidate]]:
        """Faces that the networks find in the whole frame, upright first; the next ones are needed if none of these is a face."""
        side = SEARCH_SIDES[effort]
        if effort is not Effort.HARD:
            yield self.yunet.find(frame, side) + self.blazeface.find(frame)
            return
        bright = brightened(frame)
        yield self.yunet.find(bright, side) + self.blazeface.find(bright, least=LEAST_SCORE)
        for turn in TURNS_DEG:
            yield self.blazeface.find(bright, turn) + self.yunet.find(bright, SEARCH_SIDES[Effort.FULL], turn)

    def measure(self, patch: FrameArray) -> Measurement:
        """The mesh in a patch, uint8 [PATCH, PATCH, 3], see `bright_patch`."""
        self.network.setInput(planes(patch, 0, 1))
        logit, points = self.network.forward(["conv2d_31", "conv2d_21"])
        score = 1 / (1 + np.exp(-float(np.ravel(logit)[0])))
        mesh = np.array(points, dtype=np.float32).reshape(-1, 3)
        return Measurement(mesh, score if is_plausible(mesh) else 0.0)

    def settle(self, frame: FrameArray, candidate: Candidate, attempts: Attempts, known: list[Box]) -> MeshTrack | None:
        """A new track at a candidate, the best of several attempts; None if there is no face.

        A face that is not sure must not touch one at `known` boxes: it would be a part of that.
        """
        best: Settled | None = None
        for size, turn in attempts:
            found = self.settled(frame, patch_of(candidate, size, turn))
            if found is not None and (best is None or found.spread < best.spread):
                best = found
            if best is not None and best.is_sure:
                break
        if best is None or best.spread > MAX_SPREAD:
            return None
        if best.is_sure:
            return best.track
        is_apart = all(overlap(self.face(best.track).box, box) < TOUCHING for box in known)
        return best.track if attempts is TURNED and is_apart and self.is_confirmed(frame, best.track) else None

    def settled(self, frame: FrameArray, matrix: FloatArray) -> "Settled | None":
        """A track from a patch's matrix; several measurements are averaged. None if the scores are low."""
        around = surroundings(frame, matrix)
        for _ in range(2):
            measured = self.measure(bright_patch(around, matrix))
            if measured.score < LEAST_SCORE:
                return None
            matrix = placed_patch(measured.mesh, matrix)
            around = surroundings(frame, matrix, around)
        moved = [moved_patch(matrix, *shift) for shift in SHIFTS]
        patches = [bright_patch(around, each) for each in moved]
        measurements = [self.measure(patch) for patch in patches]
        score = float(np.mean([measured.score for measured in measurements]))
        if score < DOUBTFUL_SCORE:
            return None
        meshes = np.stack([in_frame(measured.mesh, each) for measured, each in zip(measurements, moved, strict=True)])
        mesh = meshes.mean(axis=0)
        away = (meshes - mesh)[..., :2] * np.hypot(*matrix[0, :2])
        spread = float(np.sqrt((away**2).sum(axis=-1).mean()))
        points = self.alignment_points(mesh)
        return Settled(
            MeshTrack(points, mesh, matrix, grey_of(patches[0]), score, np.zeros((3, 2), np.float32)), spread
        )

    def is_confirmed(self, frame: FrameArray, track: MeshTrack) -> bool:
        """Whether BlazeFace finds the face of a track too, with the eyes at the same places."""
        wider = moved_patch(track.matrix, 0.0, 0.0, 1.5, 0.0)
        eyes = transform_points(wider, eye_centres(track.mesh))
        distance = float(np.hypot(*(eyes[1] - eyes[0])))
        seen = self.blazeface.find(close_up(frame, wider, PATCH_SIZE).patch(wider, PATCH_SIZE), least=CONFIRMED_SCORE)
        return any(float(np.hypot(*(each.eyes - eyes).T).max()) < SAME_EYES * distance for each in seen)

    def follow_one(self, frame: FrameArray, track: MeshTrack) -> MeshTrack | None:
        """The track in the next frame; None if the face is lost."""
        around = surroundings(frame, track.matrix)
        patch = bright_patch(around, track.matrix)
        rigid = rigid_mask(in_patch(track.mesh, track.matrix), PATCH_SIZE)
        motion = head_motion(track.patch, grey_of(patch), rigid)
        if motion is None:
            return self.find_again(frame, track)
        matrix, change = track.matrix, chained(track.correction, invert_matrix(motion))
        if reach(change) > STILL:  # the patch moves with the head
            matrix = chained(change, matrix)
            patch = bright_patch(surroundings(frame, matrix, around), matrix)
        head = chained(invert_matrix(track.matrix), chained(motion, track.matrix))  # from the last frame to this one
        points = transform_points(head, track.points)
        track = replace(track, matrix=matrix, patch=grey_of(patch), correction=UNMOVED)
        measured = self.measure(patch)
        if measured.score < MIN_SCORE or not has_kept_size(measured.mesh):
            is_lost = track.missed >= MAX_MISSED
            mesh = moved_mesh(track.mesh, head)
            return None if is_lost else replace(track, points=points, mesh=mesh, missed=track.missed + 1)
        here = transform_points(matrix, points)
        steady, pending = steadied(here, self.alignment_points(measured.mesh), track.pending)
        return replace(
            track,
            points=transform_points(invert_matrix(matrix), steady),
            mesh=in_frame(measured.mesh, matrix),
            score=measured.score,
            pending=pending,
            correction=correction(measured.mesh),
            missed=0,
        )

    def find_again(self, frame: FrameArray, track: MeshTrack) -> MeshTrack | None:
        """The track after a motion that the flow does not show: several measurements must find the mesh near its last place."""
        found = self.settled(frame, track.matrix)
        if found is None or found.spread > MAX_SPREAD:
            return None
        return found.track if is_known(self.face(found.track).box, [self.face(track).box]) else None


def surroundings(frame: FrameArray, matrix: FloatArray, around: CloseUp | None = None) -> CloseUp:
    """A close-up of the frame that contains the patch by `matrix`: `around`, if it does."""
    return around if around and around.covers(matrix, PATCH_SIZE) else close_up(frame, matrix, PATCH_SIZE, AROUND)


def bright_patch(around: CloseUp, matrix: FloatArray) -> FrameArray:
    """The patch of the frame by `matrix`, uint8 [PATCH, PATCH, 3], brightened if it is dark."""
    return brightened(around.patch(matrix, PATCH_SIZE))


def is_plausible(mesh: FloatArray) -> bool:
    """Whether a mesh [468, 3] in patch pixels is about where a face must be in its patch."""
    low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
    off_centre = np.abs((low + high) / 2 - PATCH / 2).max() / PATCH
    size = float((high - low).max()) * MARGIN / PATCH
    return bool(off_centre < OFF_CENTRE and 1 / OFF_SIZE < size < OFF_SIZE)


def has_kept_size(mesh: FloatArray) -> bool:
    """Whether a mesh in a patch that moved with its head is about as large as before, and not over two faces."""
    size = placement(mesh)[1] * MARGIN / PATCH
    return 1 / GROWTH < size < GROWTH


def box_of(candidate: Candidate) -> Box:
    """Box x0, y0, x1, y1 of a candidate, about from the brows to the chin."""
    (x, y), half = candidate.centre, candidate.side / 2.4
    return float(x - half), float(y - half), float(x + half), float(y + half)


def patch_of(candidate: Candidate, size: float, turn_deg: float) -> FloatArray:
    """Matrix [2, 3] from the frame to the patch of a candidate, whose side is scaled and to whose tilt `turn_deg` is added."""
    across = candidate.eyes[1] - candidate.eyes[0]
    roll = float(np.arctan2(across[1], across[0]) + np.radians(turn_deg))
    return patch_matrix(candidate.centre, candidate.side * size * MARGIN, roll)


def patch_matrix(centre: FloatArray, side: float, roll: float) -> FloatArray:
    """Matrix [2, 3] from the frame to a patch around `centre` [2], `side` frame pixels wide, of a head tilted by `roll` radians."""
    scale = PATCH / max(side, 1.0)
    linear = scale * np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    offset = np.array([(PATCH - 1) / 2] * 2) - linear @ centre
    return np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)


def placement(mesh: FloatArray) -> tuple[FloatArray, float, float]:
    """Middle [2], longer side and roll (radians) of the upright box around a mesh, in its own pixels."""
    corners = mesh[list(EYE_CORNERS), :2]
    across = corners[2:].mean(axis=0) - corners[:2].mean(axis=0)
    roll = float(np.arctan2(across[1], across[0]))
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    upright = mesh[:, :2] @ turn.T
    low, high = upright.min(axis=0), upright.max(axis=0)
    return (((low + high) / 2) @ turn).astype(np.float32), float((high - low).max()), roll


def placed_patch(mesh: FloatArray, matrix: FloatArray) -> FloatArray:
    """The matrix of the patch around a mesh [468, 3] that was measured in the patch of `matrix`."""
    centre, side, roll = placement(mesh)
    return chained(patch_matrix(centre, side * MARGIN, roll), matrix)


def correction(mesh: FloatArray) -> FloatArray:
    """Matrix [2, 3] from a patch to one that is drawn a little to the place of the mesh in it; at once if it is far off."""
    centre, side, roll = placement(mesh)
    away = centre - (PATCH - 1) / 2
    grown = side * MARGIN / PATCH
    is_far = max(float(np.abs(away).max()) / PATCH, abs(grown - 1), abs(roll)) > MISPLACED
    share = 1.0 if is_far else PATCH_GAIN
    return patch_matrix((PATCH - 1) / 2 + share * away, PATCH * grown**share, share * roll)


def reach(change: FloatArray) -> float:
    """How far a matrix [2, 3] of patch pixels moves the patch's corners, in pixels."""
    corners = np.array([[0, 0], [PATCH, 0], [0, PATCH], [PATCH, PATCH]], np.float32)
    return float(np.hypot(*(transform_points(change, corners) - corners).T).max())


def moved_patch(matrix: FloatArray, x: float, y: float, size: float, turn_deg: float) -> FloatArray:
    """The matrix of a patch next to that of `matrix`: its middle moved, its side scaled, turned."""
    centre = np.array([(PATCH - 1) / 2 + x, (PATCH - 1) / 2 + y], np.float32)
    return chained(patch_matrix(centre, PATCH * size, float(np.radians(turn_deg))), matrix)


def chained(second: FloatArray, first: FloatArray) -> FloatArray:
    """The affine matrix [2, 3] of `first` and then `second`."""
    linear = second[:, :2].astype(np.float64) @ first[:, :2]
    offset = second[:, :2].astype(np.float64) @ first[:, 2] + second[:, 2]
    return np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)


def in_frame(mesh: FloatArray, matrix: FloatArray) -> FloatArray:
    """A mesh [468, 3] of the patch of `matrix`, in frame pixels."""
    return moved_mesh(mesh, invert_matrix(matrix))


def in_patch(mesh: FloatArray, matrix: FloatArray) -> FloatArray:
    """A mesh [468, 3] in frame pixels, in the pixels of a patch."""
    return moved_mesh(mesh, matrix)


def moved_mesh(mesh: FloatArray, matrix: FloatArray) -> FloatArray:
    """A mesh [468, 3] under a similarity [2, 3], which scales its depth too."""
    scale = np.float32(np.hypot(*matrix[0, :2]))
    return np.concatenate([transform_points(matrix, mesh[:, :2]), mesh[:, 2:] * scale], axis=1)
