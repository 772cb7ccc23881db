"""Appearance descriptors: short vectors that distinguish the people of one video without a network's weights.

A descriptor is computed from an upright thumbnail: colours of hair, skin and chin (means in CIELAB, lightness relative to the
skin) and histograms of oriented gradients (Dalal and Triggs, 2005) of brows, eyes, nose and hairline. The mouth is left out,
because it moves in speech. Descriptors distinguish people who differ in hair, skin, glasses or beard under similar light. They
are not face recognition: relatives with the same hair are similar, and strong coloured light changes the descriptor.
"""

import cv2
import numpy as np

from latentsync.face.align import TEMPLATE, FloatArray, FrameArray, normalise_points, rotation_between, warp_region

THUMBNAIL = 96  # side in pixels
# brows and nose in the thumbnail
THUMBNAIL_POINTS = ((TEMPLATE - TEMPLATE[2]) * 0.67 + np.array([47.5, 46.5])).astype(np.float32)
REGIONS = (  # x0, y0, x1, y1 in the thumbnail
    (38, 12, 58, 18),  # hair above the forehead, or a bald head
    (24, 24, 29, 40),  # temple, left
    (67, 24, 72, 40),  # and right
    (36, 19, 60, 29),  # forehead
    (28, 30, 68, 43),  # brows and eyes
    (26, 48, 38, 62),  # cheeks
    (58, 48, 70, 62),
    (36, 82, 60, 92),  # chin
)
SKIN = (3, 5, 6)  # regions whose mean lightness is subtracted from all
COLOUR_UNIT = 12.0  # CIELAB units per unit of the descriptor
GRADIENT_PART = (20, 8, 76, 64)  # hairline to nose
CELL, ORIENTATIONS = 8, 8
CELLS = (GRADIENT_PART[2] - GRADIENT_PART[0]) // CELL  # along each side
BINS = CELLS * CELLS * ORIENTATIONS
ROWS, COLUMNS = np.indices((CELLS * CELL, CELLS * CELL)) // CELL
FIRST_BIN = (ROWS * CELLS + COLUMNS) * ORIENTATIONS  # [h, w] of each pixel's cell
MOST_APART = 3.0  # limit of the squared difference of one colour: beside a narrow head it may be of the background
COLOUR_SHARE = 0.35  # weight of the colours in the similarity; that of the gradients is 1 - COLOUR_SHARE


def thumbnail(frame: FrameArray, points: FloatArray) -> FrameArray:
    """The upright face with hair, uint8 [96, 96, 3], of a frame uint8 h w 3; `points` [3, 2] are its alignment points."""
    return warp_region(frame, thumbnail_matrix(points), (THUMBNAIL, THUMBNAIL))


def thumbnail_matrix(points: FloatArray) -> FloatArray:
    """Similarity [2, 3] from the frame to the thumbnail."""
    source, centre, deviation = normalise_points(points.astype(np.float32))
    target, target_centre, target_deviation = normalise_points(THUMBNAIL_POINTS)
    linear = target_deviation / max(deviation, np.float32(1e-3)) * rotation_between(source, target)
    return np.concatenate([linear, (target_centre - linear @ centre)[:, None]], axis=1).astype(np.float32)


def appearance_descriptor(face: FrameArray) -> FloatArray:
    """The appearance descriptor [d], float32, of a thumbnail: colours, then gradients of unit norm."""
    return np.concatenate([region_colours(face), gradients(face)]).astype(np.float32)


def region_colours(face: FrameArray) -> FloatArray:
    """Mean CIELAB colour of each of r regions, lightness relative to the skin, in units of `COLOUR_UNIT`; [3 r]."""
    lab = cv2.cvtColor(face.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    means = np.array([cv2.mean(lab[y0:y1, x0:x1])[:3] for x0, y0, x1, y1 in REGIONS])
    skin = means[list(SKIN), 0].mean()
    means[:, 0] -= skin
    absolute = 0.5 * (skin - 60)  # the lightness of the skin depends on the light too, so it counts half
    means[list(SKIN[:1]), 0] += absolute
    return (means / COLOUR_UNIT).ravel().astype(np.float32)


def gradients(face: FrameArray) -> FloatArray:
    """Histograms of oriented gradients over cells, [cells * ORIENTATIONS]: square root, zero mean, unit norm."""
    x0, y0, x1, y1 = GRADIENT_PART
    grey = cv2.GaussianBlur(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), (0, 0), 1.2).astype(np.float32)[y0:y1, x0:x1]
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength, angle = cv2.cartToPolar(dx, dy)
    place = np.asarray(angle) * (ORIENTATIONS / np.pi) % ORIENTATIONS
    whole = np.floor(place)
    lower, share = whole.astype(int) % ORIENTATIONS, place - whole
    strong = np.asarray(strength)
    bins = np.bincount((FIRST_BIN + lower).ravel(), (strong * (1 - share)).ravel(), BINS)
    bins += np.bincount((FIRST_BIN + (lower + 1) % ORIENTATIONS).ravel(), (strong * share).ravel(), BINS)
    limited = np.sqrt(bins)
    limited -= limited.mean()
    return (limited / max(float(np.linalg.norm(limited)), 1e-6)).astype(np.float32)


COLOURS = 3 * len(REGIONS)


def similarities(first: FloatArray, second: FloatArray) -> FloatArray:
    """Pairwise similarity of descriptors [n, d] and [m, d]: [n, m], 1 for equal ones, about 0 for different people."""
    apart = np.minimum(np.square(first[:, None, :COLOURS] - second[None, :, :COLOURS]), MOST_APART).mean(axis=2)
    alike = first[:, COLOURS:] @ second[:, COLOURS:].T
    return (COLOUR_SHARE * np.exp(-apart) + (1 - COLOUR_SHARE) * alike).astype(np.float32)


def similarity(first: FloatArray, second: FloatArray) -> float:
    """Similarity of two sets of descriptors [n, d] and [m, d]: mean of the higher half of each descriptor's best match."""
    pairs = similarities(first, second)
    best = sorted([*pairs.max(axis=1), *pairs.max(axis=0)], reverse=True)
    return float(np.mean(best[: max(1, len(best) // 2)]))
