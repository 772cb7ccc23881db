"""What the eye finds at the border of the repainted region: a step of colour along it, and the bars beside the nose.

Both compare an output with a reference that shows the same head without a border: the true picture, or else the input. What the
reference has at the same place, such as the shading of a cheek, does not count. Both are 0 for an output that equals its reference.

Legend: faces are uint8 [t, r, r, 3] RGB, aligned with the same matrices; colours are CIELAB, differences Euclidean (CIE 1976 ΔE).
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.masks import GENERATED_ROWS, MASK_SIZE
from latentsync.metrics.pictures.image_quality import FrameArray
from latentsync.metrics.regions import face_region

GAP, WIDTH = 1 / 64, 1 / 32  # of the side: distance of a ring from the border, which is blended, and width of the ring
SEGMENTS = 40  # of the border, of equal length
UPPER = 0.42  # of the side: the upper border extends so far from the middle
STEP_FRAMES = 16  # a step of colour is averaged over so many frames, which removes the camera's noise
CHEEK = 0.2  # of the side: skin beside a bar's edge, from which the natural variation is taken
LEAST_VARIATION = 0.2  # ΔE: smoother skin counts as having this variation, as no eye finds a smaller step
DEVIATIONS = 1.4826  # standard deviation of a normal distribution, divided by its median absolute deviation

Lab = NDArray[np.float32]


def to_lab(levels: NDArray[np.floating] | FrameArray) -> Lab:
    """CIELAB of sRGB levels [..., 3], 0 ... 255: L 0 ... 100, a and b about -100 ... 100; float32."""
    flat = np.ascontiguousarray(levels, np.float32).reshape(-1, 1, 3) / 255
    return np.asarray(cv2.cvtColor(flat, cv2.COLOR_RGB2LAB), np.float32).reshape(levels.shape)


def border_steps(output: FrameArray, reference: FrameArray) -> tuple[float, float]:
    """Step of colour across the whole border of the repainted region, and across its upper part on the skin, in ΔE.

    0 = none, about 1 is just visible. The colour of a ring inside the border minus that of a ring outside, in the output, minus
    the same in the reference. It is measured in segments of the border, each averaged over `STEP_FRAMES` frames; the results are
    mean lengths of this difference. The whole border also crosses the outline of the face, where a blurred outline counts too.
    """
    rings = border_rings(output.shape[1])
    steps = np.linalg.norm(_ring_steps(output, rings) - _ring_steps(reference, rings), axis=-1).mean(axis=0)
    return float(steps.mean()), float(steps[rings.is_upper].mean())


@dataclass(frozen=True)
class BorderRings:
    """Flat positions of the pixels of the ring inside and of the ring outside, for each of n segments of the border."""

    inner: list[NDArray[np.int64]]
    outer: list[NDArray[np.int64]]
    is_upper: NDArray[np.bool_]  # [n]: above the bars and beside the nose


def _ring_steps(faces: FrameArray, rings: BorderRings) -> Lab:
    """Colour inside minus colour outside, [windows, segments, 3]."""
    flat = faces.reshape(len(faces), -1, 3)
    starts = range(0, len(faces), STEP_FRAMES)
    inner, outer = (
        np.stack([np.stack([flat[i : i + STEP_FRAMES, place].mean(axis=(0, 1)) for place in ring]) for i in starts])
        for ring in (rings.inner, rings.outer)
    )
    return np.asarray(to_lab(inner) - to_lab(outer), np.float32)


@lru_cache(maxsize=8)
def border_rings(side: int) -> BorderRings:
    """The rings of aligned faces of `side` pixels; segments at the edge of the face, which have no ring outside, are left out."""
    region = face_region(side).astype(np.uint8)
    contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = np.asarray(max(contours, key=len)[:, 0], np.int32)  # [n, 2] x, y, in order
    inner, outer = (_ring_segments(part, contour) for part in (region, 1 - region))
    kept = [k for k in range(SEGMENTS) if len(inner[k]) and len(outer[k])]
    middles = np.array([contour[np.arange(len(contour)) * SEGMENTS // len(contour) == k].mean(axis=0) for k in kept])
    # without the part below the nose, which touches the upper lip: that moves
    last_row = (GENERATED_ROWS[0][1] - 2) / MASK_SIZE * side
    is_upper = (middles[:, 1] < last_row) & (np.abs(middles[:, 0] / side - 0.5) < UPPER)
    return BorderRings([inner[k] for k in kept], [outer[k] for k in kept], is_upper)


def _ring_segments(part: NDArray[np.uint8], contour: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """The ring in `part` [r, r] along the border of it, divided by the nearest point of the contour."""
    side = len(part)
    distance = cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rows, columns = np.nonzero((distance > GAP * side) & (distance <= (GAP + WIDTH) * side))
    apart = np.square(columns[:, None] - contour[:, 0]) + np.square(rows[:, None] - contour[:, 1])
    segment = apart.argmin(axis=1) * SEGMENTS // len(contour)
    return [(rows * side + columns)[segment == k] for k in range(SEGMENTS)]


def bar_visibility(output: FrameArray, reference: FrameArray) -> float:
    """Step of colour at the upright edges of the bars beside the nose, divided by the natural variation of the cheek.

    At most 1: invisible, as any two neighbouring strips of this skin differ as much. The step is the colour of the strip right of
    the edge minus that of the strip left of it, minus the same in the reference; root mean square over the frames, of the more
    visible edge. The natural variation is how much the step between neighbouring strips of the same size varies over the cheek
    of the reference, also with the camera's noise.
    """
    return max(_edge_visibility(output, reference, outwards) for outwards in (-1, 1))


def _edge_visibility(output: FrameArray, reference: FrameArray, outwards: int) -> float:
    """`bar_visibility` of one edge; `outwards` is the direction from the nose to the bar: -1 left, 1 right."""
    side = output.shape[1]
    edge, places = edge_columns(side, outwards)
    found, wanted = (strip_steps(faces, np.array([edge])) for faces in (output, reference))
    step = np.square(found - wanted).sum(axis=-1).mean()
    natural = strip_steps(reference, places)
    spread = np.abs(natural - np.median(natural, axis=1, keepdims=True))
    variation = DEVIATIONS * np.sqrt(np.square(np.median(spread, axis=1)).sum(axis=-1).mean())
    return float(np.sqrt(step) / max(float(variation), LEAST_VARIATION))


def edge_columns(side: int, outwards: int) -> tuple[int, NDArray[np.int64]]:
    """The column right of a bar's edge, and those of the cheek beside it from which the natural variation is taken."""
    _, _, _, left, right, _ = GENERATED_ROWS[0]
    edge = round((left if outwards < 0 else right) * side / MASK_SIZE)
    places = edge + outwards * np.arange(round((GAP + WIDTH) * side), round(CHEEK * side))
    return edge, places


def bar_rows(side: int) -> slice:
    """The rows of the bars without their corners."""
    first, last = GENERATED_ROWS[0][:2]
    return slice(round((first / MASK_SIZE + GAP) * side), round(((last + 1) / MASK_SIZE - GAP) * side))


def strip_steps(faces: FrameArray, columns: NDArray[np.int64]) -> Lab:
    """Colour of the strip right of each column minus that of the strip left of it, [t, columns, 3], on the rows of the bars."""
    side = faces.shape[1]
    gap, width = round(GAP * side), round(WIDTH * side)
    levels = faces[:, bar_rows(side)].mean(axis=1)  # [t, r, 3]
    sums = np.concatenate([np.zeros_like(levels[:, :1]), levels.cumsum(axis=1)], axis=1)
    right, left = columns + gap, columns - gap - width
    means = [(sums[:, start + width] - sums[:, start]) / width for start in (right, left)]
    return np.asarray(to_lab(means[0]) - to_lab(means[1]), np.float32)
