"""The shape of pixels, and the size at which a picture that is stored with others is shown with square ones."""

from fractions import Fraction

Size = tuple[int, int]  # width, height in pixels

SQUARE_TOLERANCE = 0.01  # of a pixel's aspect; less is the rounding of containers
MAX_ASPECT = 8  # no camera or disc has pixels so long; what claims more is a damaged header


def plausible_aspect(stated: Fraction | None) -> Fraction:
    """Width of a pixel over its height as a file states it; 1 where it states none or nonsense."""
    if stated is None or not Fraction(1, MAX_ASPECT) <= stated <= MAX_ASPECT:
        return Fraction(1)
    return stated


def square_size(stored: Size, aspect: Fraction) -> Size:
    """Width and height with square pixels of a picture whose stored pixels are `aspect` times as wide as high.

    The shorter way is stretched, so that no detail is lost, to an even number, which video files keep best.
    """
    width, height = stored
    if max(aspect, 1 / aspect) < 1 + SQUARE_TOLERANCE:
        return stored
    if aspect > 1:
        return 2 * round(width * aspect / 2), height
    return width, 2 * round(height / aspect / 2)
