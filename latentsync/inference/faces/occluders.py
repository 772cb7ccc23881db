"""What is in front of the chosen face in each frame: found in the video itself, or given as masks; see `latentsync.face.occlusion`.

The frames of the plan are read once more, in parts of at most `PART` frames of one shot, so that memory does not grow with the
length of the video. A mask is kept of those frames alone in which something is in front.

Legend: n frames of the video, k frames with a mask, s side of a mask.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray, align_matrix
from latentsync.face.occlusion import (
    FACE_MARGIN,
    SIDE,
    SKIN_MARGIN,
    find_occluders,
    hidden_mouths,
    in_aligned_face,
    lower_face,
    patch_matrix,
    patch_of,
)
from latentsync.face.outline import in_face
from latentsync.media.video.mux import atomic_output

if TYPE_CHECKING:
    from latentsync.inference.faces.plan import FacePlan  # which holds the occluders

PART = 1000  # frames whose patches are in memory together
BLACK = 32  # levels below this are black, as encoded masks have noise
TINT, TINT_SHARE = (255, 60, 200), 0.6  # RGB, on the preflight sheet
MaskArray = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]
ReadFrames = Callable[[int, int], Iterator[FrameArray]]  # frames start ... stop - 1, uint8 h w 3


@dataclass(frozen=True)
class Occluders:
    """Masks of what is in front of a face, in the patches of `latentsync.face.occlusion`, by frame of the video."""

    frame: NDArray[np.int32]  # [k], rising
    mask: MaskArray  # [k, s, s]: 255 in front, 0 not
    hidden: BoolArray  # [n]: whether the mouth is mostly hidden

    def of(self, frame: int) -> FloatArray | None:
        """The mask of a frame, float32 [s, s] in [0, 1]; None if nothing is in front."""
        place = int(np.searchsorted(self.frame, frame))
        if place == len(self.frame) or self.frame[place] != frame:
            return None
        return self.mask[place].astype(np.float32) / 255

    def visible(self, frame: int, points: FloatArray, matrix: FloatArray, resolution: int) -> FloatArray | None:
        """How far the face can be seen, [r, r] in its aligned face by `matrix`: 0 where something is in front; None: everywhere.

        The mask is that of the frame, and of its neighbours in part; it is a little larger than the object, with a soft edge.
        """
        near = [self.of(index) for index in (frame - 1, frame, frame + 1)]
        if all(mask is None for mask in near):
            return None
        wide = [np.zeros((SIDE, SIDE), np.float32) if mask is None else widened(mask) for mask in near]
        front = np.maximum(wide[1], (wide[0] + wide[1] + wide[2]) / 3)
        return np.asarray(1 - in_aligned_face(front, points, matrix, resolution).clip(0, 1), np.float32)

    def marked(self, picture: FrameArray, frame: int, points: FloatArray) -> FrameArray:
        """A picture of the video, uint8 h w 3, with what is in front of the face at these alignment points tinted."""
        mask = self.of(frame)
        if mask is None:
            return picture
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        share = TINT_SHARE * cv2.warpAffine(mask, patch_matrix(points), picture.shape[1::-1], flags=flags)[..., None]
        return np.asarray(picture * (1 - share) + np.array(TINT) * share, np.uint8)

    def save(self, path: Path) -> None:
        """Write to `path` (NPZ without pickled objects), atomically."""
        with atomic_output(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, frame=self.frame, mask=self.mask, hidden=self.hidden)

    @classmethod
    def load(cls, path: Path) -> "Occluders":
        """Read a file of `save`; ValueError if it is damaged or of another kind."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(stored["frame"], stored["mask"], stored["hidden"])
        except (OSError, KeyError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is not a file of masks ({error}): delete it, then they are made again."
            ) from error


def widened(mask: FloatArray) -> FloatArray:
    """A mask [s, s], one pixel wider, with a soft edge outside of that."""
    hard, soft = (cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) for side in (3, 5))
    return np.asarray(np.maximum(hard, cv2.GaussianBlur(soft, (0, 0), 1)), np.float32)


def detect_occluders(
    read: ReadFrames, plan: "FacePlan", usual: BoolArray, known: BoolArray, on_frame: Callable[[int], None]
) -> Occluders:
    """Search the frames of a plan; `usual` and `known` [n] as in `find_occluders`. `on_frame` gets the number of frames read."""

    def masks_of(part: range, frames: Iterator[FrameArray]) -> MaskArray:
        some = slice(part.start, part.stop)
        patches = np.stack([patch_of(frame, points) for frame, points in zip(frames, plan.points[some], strict=True)])
        skin, face = (
            np.stack([region(plan, index, margin) for index in part]) for margin in (SKIN_MARGIN, FACE_MARGIN)
        )
        found = find_occluders(patches, usual[some], known[some], plan.opening[some], skin, face)
        return found.astype(np.uint8) * 255

    return _collected(read, plan, masks_of, on_frame)


def region(plan: "FacePlan", frame: int, margin: int) -> BoolArray:
    """bool [s, s]: the lower face of a frame; with the margin of the whole face also the room below the chin of an open mouth."""
    matrix = align_matrix(plan.points[frame], 4 * SIDE)
    if margin == FACE_MARGIN:
        return lower_face(plan.outline(frame, matrix, 4 * SIDE), margin)
    jaw = plan.jaw[frame]
    return lower_face(None if np.isnan(jaw).any() else in_face(jaw, matrix, 4 * SIDE), margin)


def given_occluders(read: ReadFrames, plan: "FacePlan", on_frame: Callable[[int], None]) -> Occluders:
    """The masks that `read` returns, as large as the video's frames: white is in front."""

    def masks_of(part: range, frames: Iterator[FrameArray]) -> MaskArray:
        places = zip(frames, plan.points[part.start : part.stop], strict=True)
        masks = np.stack([patch_of(frame, points)[..., 1] for frame, points in places])
        return np.asarray(np.where(masks < BLACK, 0, masks), np.uint8)

    return _collected(read, plan, masks_of, on_frame)


def _collected(
    read: ReadFrames,
    plan: "FacePlan",
    masks_of: Callable[[range, Iterator[FrameArray]], MaskArray],
    on_frame: Callable[[int], None],
) -> Occluders:
    """The masks of all parts, of frames that have any."""
    hidden, numbers, masks, done = np.zeros(len(plan), np.bool_), [], [], 0
    for part in parts_of(plan.segments):
        found = masks_of(part, read(part.start, part.stop))
        hidden[part.start : part.stop] = hidden_mouths(np.asarray(found / 255, np.float32))
        for index in np.flatnonzero(found.any(axis=(1, 2))).tolist():
            numbers.append(part.start + index)
            masks.append(found[index])
        done += len(part)
        on_frame(done)
    return Occluders(np.array(numbers, np.int32), np.array(masks, np.uint8).reshape(-1, SIDE, SIDE), hidden)


def parts_of(segments: Sequence[range]) -> Iterator[range]:
    """Consecutive frames that are searched together: whole segments, divided evenly if they have more than `PART` frames."""
    for segment in segments:
        count = -(-len(segment) // PART)
        borders = [segment.start + len(segment) * index // count for index in range(count + 1)]
        yield from (range(start, stop) for start, stop in zip(borders, borders[1:], strict=False))
