"""How a player shows stored pictures: turned and mirrored, and with square pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import ExifTags, Image

from latentsync.files import PathLike

Size = tuple[int, int]  # width, height in pixels

SQUARE_TOLERANCE = 0.01  # of a pixel's aspect ratio; less is the rounding of containers
MAX_ASPECT = 8  # no camera or disc has longer pixels; a larger value is a damaged header


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is turned to be upright: the signs of the display matrix, ISO/IEC 14496-12, 8.3.2.

    A stored pixel x, y is shown at a x + c y, b x + d y.
    """

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @classmethod
    def of_degrees(cls, degrees: int) -> "Orientation":
        """A turn counter-clockwise by a multiple of 90 degrees."""
        return {90: cls(0, -1, 1, 0), 180: cls(-1, 0, 0, -1), 270: cls(0, 1, -1, 0)}.get(degrees % 360, cls())

    @property
    def turned(self) -> bool:
        """Whether width and height are swapped."""
        return abs(self.a) < abs(self.b)

    @property
    def degrees(self) -> int:
        """The turn counter-clockwise (0, 90, 180, 270), ignoring mirroring."""
        if self.turned:
            return 90 if self.b < 0 else 270
        return 180 if self.d < 0 else 0

    @property
    def inverse(self) -> "Orientation":
        """How an upright picture is turned to be as it is stored."""
        return Orientation(self.a, self.c, self.b, self.d)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turn and mirror `h w 3`."""
        across, down = (self.c, self.b) if self.turned else (self.a, self.d)
        upright = pixels.transpose(1, 0, 2) if self.turned else pixels
        return upright[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


# The values 1 ... 8 of EXIF's orientation tag (Exif 2.32, 4.6.4)
EXIF_ORIENTATIONS = (
    Orientation(1, 0, 0, 1),
    Orientation(-1, 0, 0, 1),
    Orientation(-1, 0, 0, -1),
    Orientation(1, 0, 0, -1),
    Orientation(0, 1, 1, 0),
    Orientation(0, 1, -1, 0),
    Orientation(0, -1, -1, 0),
    Orientation(0, -1, 1, 0),
)


def exif_orientation(path: PathLike) -> Orientation:
    """The orientation stated by a JPEG, PNG or WebP file's EXIF data; upright without such data or if it is damaged."""
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many kinds for damaged data
        return Orientation()
    return EXIF_ORIENTATIONS[value - 1] if value in range(1, 9) else Orientation()


def matrix_orientation(matrix: Sequence[int]) -> Orientation:
    """The nearest orientation to a display matrix of nine numbers."""
    a, b, _, c, d, *_ = matrix
    return Orientation(sign(a), 0, 0, sign(d)) if abs(a) >= abs(b) else Orientation(0, sign(b), sign(c), 0)


def sign(value: int) -> int:
    return -1 if value < 0 else 1


def plausible_aspect(stated: Fraction | None) -> Fraction:
    """The stated width of a pixel over its height; 1 if none or an implausible one is stated."""
    if stated is None or not Fraction(1, MAX_ASPECT) <= stated <= MAX_ASPECT:
        return Fraction(1)
    return stated


def square_size(stored: Size, aspect: Fraction) -> Size:
    """Width and height in square pixels of a picture whose stored pixels are `aspect` times as wide as high.

    The picture is only ever enlarged, so that no detail is lost, and to an even number, which 4:2:0 video needs.
    """
    width, height = stored
    if max(aspect, 1 / aspect) < 1 + SQUARE_TOLERANCE:
        return stored
    if aspect > 1:
        return 2 * round(width * aspect / 2), height
    return width, 2 * round(height / aspect / 2)
