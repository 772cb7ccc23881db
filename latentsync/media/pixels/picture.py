"""Pictures that are seen and changed in parts: what is not changed goes from the source to the output as it is stored.

A frame of a video need not become RGB, and stored again, where nobody looks: that would take time and, in each pixel, a
little of its colour. Legend: h height, w width; a part is the slices of its rows and columns.
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
Edit = Callable[[np.ndarray], None]  # changes a frame uint8 h w 3 in place

REACH = 4  # pixels: how far from a pixel the chroma lies that it is made of, at most
STEP = 64  # pixels: parts seen are grown to such places, so that many are of the same size and converted the same way
# levels of 8 bits: up to the first an edit keeps what 8-bit RGB does not show of a sample, from the second on nothing of it
SLIGHT_EDIT, FULL_EDIT = 1.0, 8.0


@dataclass(frozen=True)
class StoredForm:
    """How a file stores its pictures."""

    pixel_format: str
    colour: ColourTags

    def is_that_of(self, stored: VideoFrame) -> bool:
        """Whether a picture is stored so; the primaries and the transfer are not a matter of how."""
        own = colour_tags(stored)
        same_colours = (own.matrix, own.full_range) == (self.colour.matrix, self.colour.full_range)
        return same_colours and stored.format.name == self.pixel_format

    @property
    def is_deep(self) -> bool:
        """Whether it holds more than RGB of 8 bits does."""
        return pixel_format(self.pixel_format).is_deep


class Picture(Protocol):
    """A frame, upright; it is never written into."""

    @property
    def height_width(self) -> tuple[int, int]:
        """In pixels."""

    def rgb(self) -> np.ndarray:
        """The whole of it: uint8 `h w 3`."""

    def rgb_part(self, part: Part) -> np.ndarray:
        """An array for the whole frame, uint8 `h w 3`, of which only `part` need be filled. Not to be written into."""

    def edited(self, part: Part, edit: Edit) -> "Picture":
        """The picture after `edit`, which sees and changes nothing outside of `part`."""

    def stored_as(self, form: StoredForm) -> VideoFrame | None:
        """The picture as it is stored where that is in the wanted form, else None."""


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
    """A decoded picture that is upright and made of whole cells of pixels that share a chroma sample."""

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
        return self._seen(part)[0]

    def edited(self, part: Part, edit: Edit) -> "StoredPicture":
        frame, planes, place = self._seen(part)
        form = pixel_format(self.stored.format.name)
        before = self._stored(planes) if form.is_deep else None
        edit(frame)
        unpack(frame[place], planes)
        cells = grown(part, self.height_width, (form.cell_height, form.cell_width))
        return StoredPicture(self._with(before, self._stored(planes), place, cells))

    def stored_as(self, form: StoredForm) -> VideoFrame | None:
        return self.stored if form.is_that_of(self.stored) else None

    def _seen(self, part: Part) -> tuple[np.ndarray, VideoFrame, Part]:
        """A frame that is filled in `part` and around it; what it is filled with, as planes; and where those lie."""
        place = grown(part, self.height_width, (STEP, STEP), REACH)
        planes = rgb_planes(cropped(self.stored, *place), self.colour.matrix)
        frame = np.empty((*self.height_width, 3), np.uint8)  # memory that nobody touches costs nothing
        frame[place] = packed(planes)
        return frame, planes, place

    def _stored(self, planes: VideoFrame) -> VideoFrame:
        """RGB as this picture would store it."""
        return stored_picture(planes, self.stored.format.name, self.colour)

    def _with(self, before: VideoFrame | None, after: VideoFrame, place: Part, changed: Part) -> VideoFrame:
        """A copy in which the pixels of `changed` are those of `after`, which lies at `place` and reaches further.

        With `before`, what they were seen as, they keep what that does not show.
        """
        whole = cropped(self.stored, slice(0, self.stored.height), slice(0, self.stored.width))
        whole.make_writable()
        bits = pixel_format(whole.format.name).bits
        for number, (own, new) in enumerate(zip(whole.planes, after.planes, strict=True)):
            cell = whole.height // own.height, whole.width // own.width
            there, here = in_cells(changed, cell), in_cells(within(changed, place), cell)
            samples, edited = samples_of(own, bits)[there], samples_of(new, bits)[here]
            if before is None:
                samples[:] = edited
            else:
                samples[:] = moved(samples, samples_of(before.planes[number], bits)[here], edited, bits)
        return whole


def samples_of(plane: VideoPlane, bits: int) -> np.ndarray:
    """The samples of a plane, uint8 or uint16 `h n`, in place; the ends of the lines are padding."""
    rows = rows_of(plane)
    return rows if bits <= 8 else rows.view("<u2")


def moved(samples: np.ndarray, before: np.ndarray, after: np.ndarray, bits: int) -> np.ndarray:
    """Samples after an edit that takes what they look like in 8-bit RGB from `before` to `after`.

    `before` is not quite what is stored. Where the edit changes nothing the samples stay; the more it changes, the less
    of that difference remains, so that nothing of an old picture shines through a new one.
    """
    level = float(1 << (bits - 8))
    change = np.subtract(after, before, dtype=np.float32)
    kept = np.clip((FULL_EDIT - np.abs(change) / level) / (FULL_EDIT - SLIGHT_EDIT), 0, 1)
    kept *= np.subtract(samples, before, dtype=np.float32)
    return np.clip(np.rint(kept + after), 0, (1 << bits) - 1)


def picture_of(stored: VideoFrame, orientation: Orientation, size: tuple[int, int], form: StoredForm) -> Picture:
    """A decoded picture of a stream whose pictures are upright by `orientation` and w x h of `size`.

    It stays as it is stored where that is `form`, in which it will be stored again; otherwise it is one of RGB.
    """
    is_upright = orientation == Orientation() and (stored.width, stored.height) == size
    if not form.is_deep and not (is_upright and form.is_that_of(stored) and can_change_in_parts(stored)):
        return RgbPicture(upright_rgb(stored, orientation, size))
    return StoredPicture(upright_stored(stored, orientation, size, form.pixel_format, form.colour))


def can_change_in_parts(stored: VideoFrame) -> bool:
    """Whether a picture is made of planes of whole cells, by a matrix that is known."""
    form = pixel_format(stored.format.name)
    is_whole = form.has_planes and form.fits(stored.width, stored.height)
    return is_whole and form.has_colour and colour_tags(stored).matrix in MATRICES


def grown(part: Part, height_width: tuple[int, int], steps: tuple[int, int], reach: int = 0) -> Part:
    """`part` grown by `reach` pixels at least, to the next multiples of `steps` (down, across), within the frame."""
    rows, columns = (
        slice(max(0, (side.start - reach) // step * step), min(length, -(-(side.stop + reach) // step) * step))
        for side, length, step in zip(part, height_width, steps, strict=True)
    )
    return rows, columns


def within(part: Part, place: Part) -> Part:
    """A part of a frame as a part of the larger part `place`."""
    rows, columns = (
        slice(inner.start - outer.start, inner.stop - outer.start) for inner, outer in zip(part, place, strict=True)
    )
    return rows, columns


def in_cells(part: Part, cell: tuple[int, int]) -> Part:
    """A part that is made of whole cells (rows, columns of pixels), counted in these."""
    rows, columns = (slice(side.start // length, side.stop // length) for side, length in zip(part, cell, strict=True))
    return rows, columns
