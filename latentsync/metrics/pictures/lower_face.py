"""The shape and the person of the repainted region: position of the jaw line, colours of the lower face.

Legend: faces are uint8 [t, r, r, 3] RGB, aligned with the same matrices. An aligned face is stretched to a square (see
`latentsync.face.align`); distances here are in pixels of the crop before that, in which circles are round.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import crop_size
from latentsync.face.masks import GENERATED_ROWS, MASK_SIZE
from latentsync.metrics.pictures.border import to_lab
from latentsync.metrics.pictures.detail import cells
from latentsync.metrics.pictures.image_quality import FrameArray
from latentsync.metrics.regions import face_region

MOUTH = (0.5, 0.65)  # x, y of the mouth's centre, fractions of the side
RAYS = np.linspace(np.deg2rad(-15), np.deg2rad(195), 43)  # directions from it, clockwise from the image's right
SAMPLES = 2  # per pixel of the crop
LIPS = (0.25, 0.2)  # half axes of an ellipse around the lips, fractions of the side; the jaw is searched outside of it
BEYOND = 1.05  # and up to here: share of the distance to the region's border
HALF_WINDOW = 0.05  # of the side: half the stretch of a profile that is compared
REACH = 0.06  # of the side: largest displacement that is found; a jaw that is not found counts as this far away
LEAST_EDGE = 10.0  # ΔE across a jaw line that is clear enough to be measured
LEAST_CORRELATION = 0.5  # of the profiles of a jaw line that was found
BLUR = 1 / 128  # of the side: standard deviation of the Gaussian before profiles are read
PERSON_CELLS = 16  # along each side

Profiles = NDArray[np.float32]


def jaw_error(output: FrameArray, truth: FrameArray) -> float | None:
    """Mean distance of the jaw line from that in the true picture, as a fraction of the face's width; 0 = equal.

    Along rays from the mouth, the stretch around the strongest edge of the true colour profile is searched in the profile of the
    output: the displacement with the highest correlation, between samples by a parabola. Rays without a clear edge are left
    out. A difference in colour or sharpness alone does not count. The face's width is that of the repainted region. None if no
    frame of the truth shows a clear jaw line.
    """
    side = output.shape[1]
    rays = jaw_rays(side)
    found = [rays.displacements(rays.profiles(a), rays.profiles(b)) for a, b in zip(output, truth, strict=True)]
    distances = np.concatenate(found)
    return float(distances.mean() / face_width(side)) if len(distances) else None


@dataclass(frozen=True)
class JawRays:
    """Positions along n rays from the mouth: m samples that are `1 / SAMPLES` pixels of the crop apart."""

    x: NDArray[np.float32]  # [n, m] in the aligned face
    y: NDArray[np.float32]
    first: NDArray[np.int64]  # [n] samples between which the jaw is searched
    last: NDArray[np.int64]
    half: int  # samples on each side of a jaw line that are compared
    reach: int  # samples by which it may be displaced

    def profiles(self, face: NDArray[np.uint8]) -> Profiles:
        """Colours along the rays, [n, m, 3]."""
        smooth = cv2.GaussianBlur(face.astype(np.float32), (0, 0), BLUR * len(face))
        read = cv2.remap(smooth, self.x, self.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return to_lab(np.asarray(read, np.float32))

    def displacements(self, output: Profiles, truth: Profiles) -> NDArray[np.float64]:
        """Distances of the jaw line from the true one in pixels of the crop, of the rays that have a clear one."""
        slope = np.linalg.norm(np.gradient(truth, axis=1), axis=-1)
        edge, found = max(1, self.half // 2), []
        for ray, (first, last) in enumerate(zip(self.first, self.last, strict=True)):
            middle = first + int(slope[ray, first : last + 1].argmax())
            window = truth[ray, middle - self.half : middle + self.half + 1]
            is_clear = np.linalg.norm(window[-edge:].mean(axis=0) - window[:edge].mean(axis=0)) >= LEAST_EDGE
            if first < middle < last and is_clear:
                wider = self.half + self.reach
                found.append(abs(displacement(output[ray, middle - wider : middle + wider + 1], window)) / SAMPLES)
        return np.array(found, np.float64)


@lru_cache(maxsize=8)
def jaw_rays(side: int) -> JawRays:
    """The rays of aligned faces of `side` pixels."""
    w, h = crop_size(side)
    along = np.arange(side * SAMPLES) / SAMPLES  # pixels of the crop
    x = MOUTH[0] * side + np.outer(np.cos(RAYS), along) * side / w
    y = MOUTH[1] * side + np.outer(np.sin(RAYS), along) * side / h
    at_x, at_y = (np.clip(np.round(each), 0, side - 1).astype(int) for each in (x, y))
    border = (face_region(side)[at_y, at_x] == 0).argmax(axis=1)
    lips = 1 / np.hypot(np.cos(RAYS) / (LIPS[0] * w), np.sin(RAYS) / (LIPS[1] * h))
    first, last = (lips * SAMPLES).astype(np.int64), (BEYOND * border).astype(np.int64)
    half, reach = (round(share * side * SAMPLES) for share in (HALF_WINDOW, REACH))
    count = int(last.max()) + half + reach + 1
    return JawRays(x[:, :count].astype(np.float32), y[:, :count].astype(np.float32), first, last, half, reach)


def displacement(profile: Profiles, window: Profiles) -> float:
    """Displacement, in samples, of the stretch of `profile` [m + 2 k, 3] that is most like `window` [m, 3].

    It is 0 in the middle; k if no stretch is similar.
    """
    reach = (len(profile) - len(window)) // 2
    stretches = np.lib.stride_tricks.sliding_window_view(profile, len(window), axis=0)  # [2 k + 1, 3, m]
    varied = (stretches - stretches.mean(axis=2, keepdims=True)).reshape(len(stretches), -1)
    wanted = (window - window.mean(axis=0)).T.ravel()
    norms = np.linalg.norm(varied, axis=1) * np.linalg.norm(wanted)
    correlations = varied @ wanted / np.maximum(norms, 1e-6)
    best = int(correlations.argmax())
    if correlations[best] < LEAST_CORRELATION:
        return float(reach)
    if 0 < best < len(correlations) - 1:
        before, peak, after = (float(value) for value in correlations[best - 1 : best + 2])
        curvature = before - 2 * peak + after
        return best - reach + (0.5 * (before - after) / curvature if curvature < 0 else 0.0)
    return float(best - reach)


def face_width(side: int) -> float:
    """Width of the repainted region in pixels of the crop."""
    _, _, start, *_, end = GENERATED_ROWS[0]
    return (end - start) / MASK_SIZE * crop_size(side)[0]


def person_difference(output: FrameArray, reference: FrameArray) -> float:
    """Difference in colour between the lower faces of output and reference, each averaged over the clip, in ΔE; 0 = same person.

    The mean over cells of 1/16 of the side that lie in the repainted region: skin, beard, lips, outline. Averaging removes most
    of the movement of the lips. It is not face recognition: it finds another skin, beard, or form of mouth and jaw.
    """
    inside = cells(face_region(output.shape[1]), PERSON_CELLS) > 0.99
    means = [to_lab(cells(faces.mean(axis=0, dtype=np.float32), PERSON_CELLS))[inside] for faces in (output, reference)]
    return float(np.linalg.norm(means[0] - means[1], axis=-1).mean())
