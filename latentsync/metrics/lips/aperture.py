"""Lip opening from the pixels of an aligned face: the height of the opening in the middle of the mouth.

Dark pixels around the mouth count as opening, and so do the upper teeth: pale pixels right above the dark ones. Both are
relative to the skin of the same face, which makes the measure independent of skin tone and light.
"""

import numpy as np
from numpy.typing import NDArray

MOUTH_ROWS, MOUTH_COLUMNS = (
    (0.54, 0.92),
    (0.30, 0.70),
)  # position of the lips in an aligned face, as fractions of its side
SKIN_ROWS, SKIN_COLUMNS = (0.40, 0.54), (0.28, 0.72)  # cheeks and nose, which do not move in speech
OPENING, LIPS = (
    0.36,
    0.58,
)  # brightness relative to the skin: an opening has at most the first, lips at least the second
PALE, COLOURED = 0.40, 0.75  # saturation relative to the skin: teeth have at most the first, lips at least the second
TEETH_REACH = 0.055  # fraction of the side: how far above the dark pixels teeth are searched
MIDDLE_HALF_WIDTH = 0.04  # fraction of the side: columns around the middle of the opening that are averaged

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def lip_aperture(face: NDArray[np.uint8]) -> float:
    """Height of the mouth opening as a fraction of the face height, 0 for closed lips.

    `face` is an aligned face, uint8 [r, r, 3] RGB (see `latentsync.face.align`).
    """
    colours = face.astype(np.float32)
    luma, saturation = colours @ LUMA, _saturation(colours)
    dark = _ramp(_against_skin(luma), LIPS, OPENING)  # [rows, columns] of the mouth's surroundings
    if dark.sum(axis=0).max() < 1e-3:
        return 0.0
    heights = dark.sum(axis=0)
    columns = np.arange(len(heights))
    middle = float((heights**2 * columns).sum() / (heights**2).sum())
    near = np.abs(columns - middle) <= max(1.0, MIDDLE_HALF_WIDTH * len(luma))
    dark, pale = dark[:, near], _ramp(_against_skin(saturation), COLOURED, PALE)[:, near]
    return float((dark + _right_above(dark, pale, round(TEETH_REACH * len(luma)))).sum(axis=0).mean()) / len(luma)


def lip_apertures(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`lip_aperture` of each face of a clip: uint8 [t, r, r, 3] -> [t]."""
    return np.array([lip_aperture(face) for face in faces], np.float32)


def correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Pearson correlation of two series of equal length; 0 if one of them is constant."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-12 else 0.0


def _saturation(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 - colours.min(axis=-1) / np.maximum(colours.max(axis=-1), 1)


def _against_skin(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values around the mouth, divided by the median of the skin."""
    skin = float(np.median(_part(values, SKIN_ROWS, SKIN_COLUMNS)))
    return _part(values, MOUTH_ROWS, MOUTH_COLUMNS) / max(skin, 1e-2)


def _ramp(values: NDArray[np.float32], none: float, full: float) -> NDArray[np.float32]:
    """0 where a value is `none` or beyond, 1 where it is `full` or beyond, linear between."""
    return np.clip((none - values) / (none - full), 0, 1)


def _right_above(dark: NDArray[np.float32], pale: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Pale pixels [rows, columns] within `reach` rows above the first dark pixel of their column."""
    rows = np.arange(len(dark))[:, None]
    top = (dark > 0.5).argmax(axis=0)
    above = (rows < top) & (rows >= top - reach)
    return np.where(above, np.minimum(pale, 1 - dark), 0)


def _part(image: NDArray[np.float32], rows: tuple[float, float], columns: tuple[float, float]) -> NDArray[np.float32]:
    height, width = image.shape
    return image[int(rows[0] * height) : int(rows[1] * height), int(columns[0] * width) : int(columns[1] * width)]
