"""Fine detail of the repainted region in space and in time: sharpness and flicker, relative to a reference.

The reference shows the same head: the true picture, or else the input. Both are 1 for an output that equals its reference.

Legend: faces are uint8 [t, r, r, 3] RGB, aligned with the same matrices.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.metrics.pictures.border import to_lab
from latentsync.metrics.pictures.image_quality import FrameArray
from latentsync.metrics.pictures.sharpness import SMOOTH_SHARE
from latentsync.metrics.regions import face_region

MARGIN = 1 / 32  # of the side: so far from its border a region is measured
FINE, COARSE = (
    1 / 160,
    1 / 40,
)  # of the side: standard deviations of the Gaussians for details, and for the mean around a place
CELLS = 32  # along each side: flicker is measured in the means of cells, in which the camera's noise is small
LEAST_FLICKER = 0.05  # ΔE: a reference that is steadier, such as a still picture, counts as having this flicker
LEAST_DETAIL = 0.01  # levels of L: of a reference without any detail

Region = NDArray[np.bool_]


def sharpness_ratio(output: FrameArray, reference: FrameArray) -> float:
    """Contrast of fine details in the repainted region, divided by that of the reference: 1 = equally sharp, below 1 blurred."""
    repainted = repainted_region(output.shape[1])
    return detail(output, repainted) / max(detail(reference, repainted), LEAST_DETAIL)


def sharpness_to_face(output: FrameArray, reference: FrameArray) -> float:
    """`sharpness_ratio` divided by the same ratio of the untouched face around: only what the repainting changed."""
    untouched = untouched_region(output.shape[1])
    around = detail(output, untouched) / max(detail(reference, untouched), LEAST_DETAIL)
    return sharpness_ratio(output, reference) / max(around, LEAST_DETAIL)


def detail(faces: FrameArray, region: Region) -> float:
    """Contrast of fine details in a region [r, r], in levels of L (0 ... 100).

    The mean absolute Laplacian of the lightness at 1/160 of the side, minus that in the smoothest places of the region, which
    is the camera's noise. Texture such as a beard counts as well as outlines.
    """
    return max(0.0, float(np.mean([_frame_detail(face, region) for face in faces])))


def _frame_detail(face: NDArray[np.uint8], region: Region) -> float:
    side = len(face)
    lightness = np.ascontiguousarray(to_lab(face)[..., 0])
    fine = np.abs(cv2.Laplacian(cv2.GaussianBlur(lightness, (0, 0), FINE * side), cv2.CV_32F))
    nearby = cv2.GaussianBlur(fine, (0, 0), COARSE * side)[region]
    smooth = nearby <= np.quantile(nearby, SMOOTH_SHARE)
    return float(fine[region].mean() - fine[region][smooth].mean())


@lru_cache(maxsize=8)
def repainted_region(side: int) -> Region:
    """The repainted region [r, r] without its border."""
    return _without_margin(face_region(side))


@lru_cache(maxsize=8)
def untouched_region(side: int) -> Region:
    """The part of an aligned face that is not repainted, without the border."""
    return _without_margin(1 - face_region(side))


def _without_margin(region: NDArray[np.float32]) -> Region:
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance > MARGIN * len(region), np.bool_)


def flicker_ratio(output: FrameArray, reference: FrameArray) -> float | None:
    """Flicker of the repainted region, divided by that of the reference: 1 = as steady, above 1 it flickers.

    None for fewer than three frames.
    """
    if len(output) < 3:
        return None
    return flicker(output) / max(flicker(reference), LEAST_FLICKER)


def flicker(faces: FrameArray) -> float:
    """Second difference in time of the colours of the repainted region's cells, in ΔE: the median cell, averaged over the frames.

    Uniform movement has little, light that goes up and down from frame to frame has much. The median leaves out lips and outline,
    which move in speech, so two sentences of one head have the same flicker within a few percent.
    """
    inside = cells(repainted_region(faces.shape[1]).astype(np.float32)) > 0.99
    colours = np.stack([to_lab(cells(face.astype(np.float32)))[inside] for face in faces])  # [t, cells, 3]
    changes = np.linalg.norm(np.diff(colours, n=2, axis=0), axis=-1)
    return float(np.median(changes, axis=1).mean())


def cells(image: NDArray[np.float32], count: int = CELLS) -> NDArray[np.float32]:
    """The means of `count` x `count` cells of an image [r, r] or [r, r, 3]."""
    return np.asarray(cv2.resize(image, (count, count), interpolation=cv2.INTER_AREA), np.float32)
