"""Pictures of which parts are read and edited in RGB, while the rest stays in the stored pixel format.

Converting a whole frame to RGB and back takes time and loses a little colour in every pixel.
Legend: h height, w width; a part is the slices of its rows and columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

from latentsync.media.pixels.colour import (
    MATRICES,
    ColourTags,
    colour_tags,
    packed,
    rgb_planes,
    rows_of,
    stored_picture,
    unpack,
    upright_rgb,
)
from latentsync.media.pixels.filters import cropped
from latentsync.media.pixels.geometry import Orientation
from latentsync.media.pixels.pixel_format import pixel_format
from latentsync.media.pixels.upright import upright_stored

Part = tuple[slice, slice]
Edit = Callable[[np.ndarray], None]  # edits a frame uint8 h w 3 in place

REACH = 4  # pixels: largest distance from a pixel to the chroma samples that it is interpolated from
STEP = 64  # pixels: parts are enlarged to multiples of it, so that few sizes occur and converters are reused
# Change of a sample in 8-bit levels: up to SLIGHT_EDIT its lower bits beyond 8 are kept, from FULL_EDIT on replaced.
SLIGHT_EDIT, FULL_EDIT = 1.0, 8.0


@dataclass(frozen=True)
class StoredForm:
    """The pixel format and colours in which a file stores its pictures."""

    pixel_format: str
    colour: ColourTags

    def matches(self, stored: VideoFrame) -> bool:
        """Whether a picture is stored in this form; primaries and transfer do not matter."""
        own = colour_tags(stored)
        same_colours = (own.matrix, own.full_range) == (self.colour.matrix, self.colour.full_range)
        return same_colours and stored.format.name == self.pixel_format

    @property
    def is_deep(self) -> bool:
        """Whether it holds more than 8-bit RGB: more bits, or alpha."""
        return pixel_format(self.pixel_format).is_deep


class Picture(Protocol):
    """An upright, immutable frame."""

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def rgb(self) -> np.ndarray:
        """The whole frame, uint8 `h w 3`."""

    def rgb_part(self, part: Part) -> np.ndarray:
        """An array for the whole frame, uint8 `h w 3`, of which only `part` is valid. Do not write into it."""

    def edited(self, part: Part, edit: Edit) -> "Picture":
        """The picture after `edit`, which may read and write within `part` only."""

    def stored_as(self, form: StoredForm) -> VideoFrame | None:
        """The stored picture if it is in that form, else None."""


@dataclass(frozen=True)
class RgbPicture:
    """A frame in RGB, uint8 `h w 3`."""

    frame: np.ndarray

    @property
    def height_width(self) -> tuple[int, int]:
        return self.frame.shape[0], self.frame.shape[1]

    def rgb(self) -> np.ndarray:
        return self.frame

    def rgb_part(self, part: Part) -> np.ndarray:
        return self.frame

    def edited(self, part: Part, edit: Edit) -> "RgbPicture":
        frame = self.frame.copy()
        edit(frame)
        return RgbPicture(frame)

    def stored_as(self, form: StoredForm) -> None:
        return None


@dataclass(frozen=True)
class StoredPicture:
    """A decoded picture that is upright and whose size is a multiple of its chroma cells."""

    stored: VideoFrame

    @property
    def colour(self) -> ColourTags:
        return colour_tags(self.stored)

    @property
    def height_width(self) -> tuple[int, int]:
        return self.stored.height, self.stored.width

    def rgb(self) -> np.ndarray:
        return upright_rgb(self.stored, Orientation(), (self.stored.width, self.stored.height))

    def rgb_part(self, part: Part) -> np.ndarray:
        return self._rgb_around(part)[0]

    def edited(self, part: Part, edit: Edit) -> "StoredPicture":
        frame, planes, place = self._rgb_around(part)
        form = pixel_format(self.stored.format.name)
        before = self._to_stored(planes) if form.is_deep else None
        edit(frame)
        unpack(frame[place], planes)
        cells = grown(part, self.height_width, (form.cell_height, form.cell_width))
        return StoredPicture(self._with(before, self._to_stored(planes), place, cells))

    def stored_as(self, form: StoredForm) -> VideoFrame | None:
        return self.stored if form.matches(self.stored) else None

    def _rgb_around(self, part: Part) -> tuple[np.ndarray, VideoFrame, Part]:
        """A frame filled only in and around `part`, the planes that it was filled from, and the part that they cover."""
        place = grown(part, self.height_width, (STEP, STEP), REACH)
        planes = rgb_planes(cropped(self.stored, *place), self.colour.matrix)
        frame = np.empty((*self.height_width, 3), np.uint8)  # untouched memory is never allocated
        frame[place] = packed(planes)
        return frame, planes, place

    def _to_stored(self, planes: VideoFrame) -> VideoFrame:
        """RGB planes in this picture's pixel format and colours."""
        return stored_picture(planes, self.stored.format.name, self.colour)

    def _with(self, before: VideoFrame | None, after: VideoFrame, place: Part, changed: Part) -> VideoFrame:
        """A copy in which the pixels of `changed` are taken from `after`, which covers the larger part `place`.

        With `before`, the unedited `after`, samples keep the precision that 8-bit RGB lacks (see `moved`).
        """
        whole = cropped(self.stored, slice(0, self.stored.height), slice(0, self.stored.width))
        whole.make_writable()
        bits = pixel_format(whole.format.name).bits
        for number, (own, new) in enumerate(zip(whole.planes, after.planes, strict=True)):
            cell = whole.height // own.height, whole.width // own.width
            in_whole, in_place = in_cells(changed, cell), in_cells(within(changed, place), cell)
            samples, edited = samples_of(own, bits)[in_whole], samples_of(new, bits)[in_place]
            if before is None:
                samples[:] = edited
            else:
                samples[:] = moved(samples, samples_of(before.planes[number], bits)[in_place], edited, bits)
        return whole


def samples_of(plane: VideoPlane, bits: int) -> np.ndarray:
    """A view of the samples of a plane, uint8 or uint16 `h n`; the ends of the lines are padding."""
    rows = rows_of(plane)
    return rows if bits <= 8 else rows.view("<u2")


def moved(samples: np.ndarray, before: np.ndarray, after: np.ndarray, bits: int) -> np.ndarray:
    """Stored samples after an edit whose 8-bit version changed from `before` to `after`.

    `before` differs a little from what is stored. Where the edit changes nothing the samples stay the same; the larger the
    change, the less of that difference is kept, so that no trace of the old picture remains in the new one.
    """
    level = float(1 << (bits - 8))
    change = np.subtract(after, before, dtype=np.float32)
    kept = np.clip((FULL_EDIT - np.abs(change) / level) / (FULL_EDIT - SLIGHT_EDIT), 0, 1)
    kept *= np.subtract(samples, before, dtype=np.float32)
    return np.clip(np.rint(kept + after), 0, (1 << bits) - 1)


def picture_of(stored: VideoFrame, orientation: Orientation, size: tuple[int, int], form: StoredForm) -> Picture:
    """The upright form of a decoded picture, given the orientation of its stream and the size (w, h) before the turn.

    It stays in the stored pixel format if that is `form`, in which it will be written; otherwise it becomes RGB. If `form`
    has more than 8 bits or alpha, it is converted to `form`.
    """
    is_upright = orientation == Orientation() and (stored.width, stored.height) == size
    if not form.is_deep and not (is_upright and form.matches(stored) and can_change_in_parts(stored)):
        return RgbPicture(upright_rgb(stored, orientation, size))
    return StoredPicture(upright_stored(stored, orientation, size, form.pixel_format, form.colour))


def can_change_in_parts(stored: VideoFrame) -> bool:
    """Whether a picture has planes of whole chroma cells and a matrix that is supported."""
    form = pixel_format(stored.format.name)
    is_whole = form.has_planes and form.fits(stored.width, stored.height)
    return is_whole and form.has_colour and colour_tags(stored).matrix in MATRICES


def grown(part: Part, height_width: tuple[int, int], steps: tuple[int, int], reach: int = 0) -> Part:
    """`part` enlarged by at least `reach` pixels to multiples of `steps` (rows, columns), clipped to the frame."""
    rows, columns = (
        slice(max(0, (side.start - reach) // step * step), min(length, -(-(side.stop + reach) // step) * step))
        for side, length, step in zip(part, height_width, steps, strict=True)
    )
    return rows, columns


def within(part: Part, place: Part) -> Part:
    """A part of a frame in the coordinates of the larger part `place`."""
    rows, columns = (
        slice(inner.start - outer.start, inner.stop - outer.start) for inner, outer in zip(part, place, strict=True)
    )
    return rows, columns


def in_cells(part: Part, cell: tuple[int, int]) -> Part:
    """A part of whole cells (rows, columns of pixels) in units of cells."""
    rows, columns = (slice(side.start // length, side.stop // length) for side, length in zip(part, cell, strict=True))
    return rows, columns
