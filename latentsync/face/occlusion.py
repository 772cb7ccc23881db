"""What is in front of the lower face: a hand, a cup, a microphone.

A face is compared with itself. In frames in which it is usual (see `latentsync.inference.windows.references`) samples are taken; in
every other frame each pixel should look like the pixel of a similar sample, up to a movement of one pixel. Where it does not, by
more than what is normal for that place in the usual frames, something may be in front. Only a connected region that is far from
normal on the skin around the mouth is taken: lips, teeth and what is inside of a mouth change all the time.
Frames that are far from normal nowhere become samples too, so that a turned head is known after the first round.

Nothing is found where the object has the colour and the shading of the skin, or covers the face in most frames: it is then usual.

Legend: n frames, s `SIDE`, the side of a patch in pixels; the patch is the aligned face, not smoothed over time. h its rows from
`TOP` on; c four values of a pixel: lightness, two colours, fine detail.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray, align_matrix, crop_size, invert_matrix, warp_region
from latentsync.face.masks import shipped_mask
from latentsync.face.outline import face_region

BoolArray = NDArray[np.bool_]

SIDE = 64
TOP = 20  # first row in which something is looked for: the tip of the nose
BROWS = (slice(12, 24), slice(16, 48))  # rows, columns whose median lightness is made the same in every frame
CHEEKS = 10  # rows from `TOP` on that show how blurred or coarsely encoded a frame is
# CIELAB as floats, shifted so that light scales all three, see `latentsync.face.lower_face`
TO_CIELAB, SHIFT = np.array([100 / 255, 1, 1], np.float32), np.array([16, -128, -128], np.float32)
LIGHT, DARKEST = 76.0, 36.0
WEIGHTS = np.array([0.5, 1.3, 1.3, 0.7], np.float32)  # of the four values: shadows change lightness most
FINE = 2.0  # standard deviation of the blur that removes fine detail

# Samples; the most similar ones that are compared; frames between a frame and a sample.
SAMPLES, NEAREST, APART = 24, 6, 3
FAMILIAR = 6.0  # limit of a difference when similar samples are chosen
ROUNDS = 3
SMOOTH, SHARP = 1.5, 0.7  # standard deviations of the blurs of the difference: to find something, and for its edge
LEAST = 0.7  # difference that is normal everywhere, in the values' units
FAR, WEAK, USUAL = 2.0, 0.8, 1.6  # times normal: to find something, of its whole, and of frames that become samples
IN_MOUTH, AT_LIPS = 3.0, 1.5  # times FAR and USUAL, in the mouth
NORMAL = 0.5  # difference of most of the cheeks, times normal, above which the frame counts as blurred
# The edge of an object is at this share of the largest difference near, which counts up to `MOST`.
EDGE, MOST = 0.5, 30.0
MIN_SHARE = 0.01  # of the skin of the lower face that must be far from normal
CLOSING = 5  # width of the gaps that are closed
SKIN_MARGIN, FACE_MARGIN = 2, 1  # from the outline of the face to where something is found, and to where it ends
MOUTH, MOUTH_RADII = (0.5, 0.70), (0.22, 0.16)  # x and y, of the side: an ellipse around an open mouth
LIPS_RADII = (0.18, 0.10)  # of a mouth that is not wide open
HIDDEN, VISIBLE = 0.5, 0.3  # shares of the lips from which a mouth counts as hidden, and as visible again


def patch_matrix(points: FloatArray) -> FloatArray:
    """The matrix [2, 3] from the frame to the patch of a face with alignment points [3, 2] in frame pixels."""
    w, h = crop_size(4 * SIDE)
    scale = np.array([[SIDE / w], [SIDE / h]], np.float32)
    offset = np.concatenate([np.zeros((2, 2), np.float32), (scale - 1) / 2], axis=1)
    return np.asarray(scale * align_matrix(points, 4 * SIDE) + offset, np.float32)


def patch_of(frame: FrameArray, points: FloatArray) -> FrameArray:
    """The patch, uint8 [s, s, 3], of a face in a frame uint8 h w 3."""
    return warp_region(frame, patch_matrix(points), (SIDE, SIDE))


def in_aligned_face(mask: FloatArray, points: FloatArray, matrix: FloatArray, resolution: int) -> FloatArray:
    """A mask [s, s] of the patch of `points` in the aligned face by the `matrix` of `align_matrix`: [r, r]."""
    w, h = crop_size(resolution)
    to_crop = np.array([[w / resolution, 0, (w / resolution - 1) / 2], [0, h / resolution, (h / resolution - 1) / 2]])
    to_patch = _chained(patch_matrix(points), _chained(invert_matrix(matrix), to_crop))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    aligned = cv2.warpAffine(mask, to_patch, (resolution, resolution), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(aligned, np.float32)


def _chained(second: NDArray[np.floating], first: NDArray[np.floating]) -> NDArray[np.float64]:
    """The affine map [2, 3] of `first`, then `second`."""
    return np.vstack([second, [0, 0, 1]]).astype(np.float64)[:2] @ np.vstack([first, [0, 0, 1]])


def ellipse(radii: tuple[float, float]) -> BoolArray:
    """bool [s, s]: the patch around the mouth, by `radii` along x and y, of the side."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    return np.asarray(((x - MOUTH[0]) / radii[0]) ** 2 + ((y - MOUTH[1]) / radii[1]) ** 2 < 1)


def lower_face(outline: FloatArray | None, margin: int) -> BoolArray:
    """bool [s, s]: the part of a patch that is repainted and `margin` pixels inside of the face's outline [17, 2].

    Where the outline is unknown (None), it is the part around the mouth.
    """
    repainted = cv2.resize(shipped_mask(256), (SIDE, SIDE), interpolation=cv2.INTER_AREA) < 128
    if outline is None:
        return repainted & ellipse((0.3, 0.3))
    inside = (face_region(outline, SIDE) > 0.99).astype(np.uint8)
    kernel = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    return repainted & (cv2.erode(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0)


def find_occluders(
    patches: FrameArray,
    usual: BoolArray,
    known: BoolArray,
    opening: FloatArray,
    skin: BoolArray,
    face: BoolArray,
) -> BoolArray:
    """bool [n, s, s]: what is in front of the lower face in consecutive patches, uint8 [n, s, s, 3], of one person in one shot.

    `usual` [n]: frames in which surely nothing is; `known` [n]: frames in which the face was detected; `opening` [n] of the mouth,
    NaN where unknown. `skin` and `face` [n, s, s]: where something can be found, and can extend to, see `lower_face`.
    """
    masks = np.zeros(patches.shape[:3], np.bool_)
    if not usual.any():
        return masks
    values, rows = pixel_values(patches), slice(TOP, None)
    skin, face, samples = skin[:, rows], face[:, rows], usual
    mouth = ellipse(MOUTH_RADII)[rows]
    for _ in range(ROUNDS):
        differences = differences_from(values, spread_samples(samples, opening))
        found = in_units_of_normal(differences, SMOOTH, samples)
        strange = (found > np.where(mouth, AT_LIPS * USUAL, USUAL)) & skin
        now = samples | (known & ~strange.any(axis=(1, 2)))
        if (now == samples).all():
            break
        samples = now
    found /= whole_frame(found)
    edges = in_units_of_normal(differences, SHARP, samples)
    edges /= np.maximum(
        1, EDGE * np.stack([cv2.dilate(edge, np.ones((5, 5), np.uint8)) for edge in edges]).clip(max=MOST)
    )
    far = (found > np.where(mouth, IN_MOUTH * FAR, FAR)) & skin
    for frame in range(len(patches)):
        masks[frame, rows] = whole_objects(far[frame], found[frame], edges[frame], face[frame], skin[frame].sum())
    return most_of_three(masks)


def pixel_values(patches: FrameArray) -> FloatArray:
    """The four values of every pixel, float32 [n, h, s, c], at equal lightness of the brows."""
    values = np.empty((len(patches), SIDE - TOP, SIDE, len(WEIGHTS)), np.float32)
    for patch, value in zip(patches, values, strict=True):
        colours = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB) * TO_CIELAB + SHIFT
        gain = LIGHT / max(float(np.median(colours[BROWS][..., 0])), DARKEST)
        colours = cv2.GaussianBlur(colours, (0, 0), 0.6)[TOP:] * gain
        value[..., :3] = colours
        value[..., 3] = colours[..., 0] - cv2.GaussianBlur(colours[..., 0], (0, 0), FINE)
        value *= WEIGHTS
    return values


def spread_samples(among: BoolArray, opening: FloatArray) -> NDArray[np.intp]:
    """At most `SAMPLES` of the frames in `among` [n]: half of them spread over time, half over the opening of the mouth [n]."""
    frames = np.flatnonzero(among)
    by_opening = frames[np.argsort(np.nan_to_num(opening[frames]), kind="stable")]
    places = np.linspace(0, len(frames) - 1, SAMPLES // 2).round().astype(int)
    return np.unique(np.concatenate([frames[places], by_opening[places]]))


def differences_from(values: FloatArray, samples: NDArray[np.intp]) -> FloatArray:
    """The distance of every pixel from the nearest one of similar samples, [n, h, s]; `values` [n, h, s, c].

    Frames near in time are not compared: what is in front of both would be normal.
    """
    shifted = np.stack([one_pixel_moves(values[sample]) for sample in samples])  # [samples, 9, h, s, c]
    small = np.stack(
        [cv2.resize(value, (SIDE // 4, (SIDE - TOP) // 4), interpolation=cv2.INTER_AREA) for value in values]
    )
    distances = np.empty(values.shape[:3], np.float32)
    for frame, value in enumerate(values):
        unlike = np.square(np.minimum(np.abs(small[samples] - small[frame]), FAMILIAR)).sum(axis=(1, 2, 3))
        unlike[np.abs(samples - frame) <= APART] = np.inf
        similar = np.argsort(unlike, kind="stable")[:NEAREST]
        apart = shifted[similar] - value
        distances[frame] = np.einsum("kmhsc,kmhsc->kmhs", apart, apart).min(axis=(0, 1))
    return np.sqrt(distances)


def one_pixel_moves(value: FloatArray) -> FloatArray:
    """A picture [h, s, c], moved by one pixel in every direction or not at all: [9, h, s, c]."""
    h, s = value.shape[:2]
    wide = np.pad(value, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return np.stack([wide[y : y + h, x : x + s] for y in range(3) for x in range(3)])


def in_units_of_normal(differences: FloatArray, deviation: float, samples: BoolArray) -> FloatArray:
    """Blurred differences [n, h, s] over what nine tenths of those in the `samples` [n] do not exceed at that place."""
    blurred = np.stack([cv2.GaussianBlur(difference, (0, 0), deviation) for difference in differences])
    normal = cv2.dilate(np.quantile(blurred[samples], 0.95, axis=0).astype(np.float32), np.ones((3, 3), np.uint8))
    return np.asarray(blurred / (LEAST + cv2.GaussianBlur(normal, (0, 0), 1)), np.float32)


def whole_frame(found: FloatArray) -> FloatArray:
    """By how much the differences of each frame are too large everywhere, also on the cheeks, [n, 1, 1]: 1 is normal.

    Such frames are blurred or coarsely encoded. `found` [n, h, s] in units of normal.
    """
    cheeks = np.quantile(found[:, :CHEEKS, SIDE // 4 : -SIDE // 4], 0.25, axis=(1, 2))
    return np.asarray(np.maximum(1, cheeks / NORMAL)[:, None, None], np.float32)


def whole_objects(far: BoolArray, found: FloatArray, edges: FloatArray, face: BoolArray, skin_px: int) -> BoolArray:
    """The objects of one frame, bool [h, s]: connected regions of `face` that are not normal, and enough of them is `far`."""
    _, numbers = cv2.connectedComponents(((found > WEAK) & face).astype(np.uint8), connectivity=8)
    sizes = np.bincount(numbers[far], minlength=1)
    objects = np.flatnonzero(sizes >= max(1, MIN_SHARE * skin_px))
    here = np.isin(numbers, objects[objects > 0])
    if not here.any():
        return here
    closing = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (CLOSING, CLOSING))
    room = np.pad((here & (edges > WEAK)).astype(np.uint8), CLOSING)
    closed = cv2.morphologyEx(room, cv2.MORPH_CLOSE, closing)
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(closed, outlines, -1, 1, cv2.FILLED)
    return np.asarray((closed[CLOSING:-CLOSING, CLOSING:-CLOSING] > 0) & face)


def most_of_three(masks: BoolArray) -> BoolArray:
    """Masks [n, ...] in which each pixel is what it is in most of a frame and its two neighbours."""
    padded = np.concatenate([masks[:1], masks, masks[-1:]]).astype(np.uint8)
    return np.asarray(padded[:-2] + padded[1:-1] + padded[2:] >= 2)


def hidden_mouths(masks: FloatArray) -> BoolArray:
    """bool [n]: in which of consecutive masks [n, s, s] the mouth is mostly hidden; it counts as visible again well below that."""
    shares = masks[:, ellipse(LIPS_RADII)].mean(axis=1)
    hidden, now = np.zeros(len(masks), np.bool_), False
    for frame, share in enumerate(shares):
        now = bool(share > (VISIBLE if now else HIDDEN))
        hidden[frame] = now
    return hidden
