"""Pictures that are seen and changed in parts: what is not changed goes from the source to the output as it is stored.

A frame of a video need not become RGB, and stored again, where nobody looks: that would take time and, in each pixel, a
little of its colour. Legend: h height, w width; a part is the slices of its rows and columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame

from latentsync.media.colour import (
    MATRICES,
    ColourTags,
    Orientation,
    colour_tags,
    packed,
    rgb_planes,
    rows_of,
    stored_picture,
    unpack,
    upright_rgb,
)
from latentsync.media.filters import cropped

Part = tuple[slice, slice]
Edit = Callable[[np.ndarray], None]  # changes a frame uint8 h w 3 in place

CELLS = {"yuv420p": 2, "yuv444p": 1}  # formats that are changed in parts: pixels a side that share a chroma sample
REACH = 4  # pixels: how far from a pixel the chroma lies that it is made of, at most
STEP = 64  # pixels: parts seen are grown to such places, so that many are of the same size and converted the same way


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
    """A decoded picture that is upright and made of whole `CELLS`."""

    stored: VideoFrame

    @property
    def cell(self) -> int:
        return CELLS[self.stored.format.name]

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
        edit(frame)
        unpack(frame[place], planes)
        return StoredPicture(self._with(planes, place, grown(part, self.height_width, self.cell)))

    def stored_as(self, form: StoredForm) -> VideoFrame | None:
        return self.stored if form.is_that_of(self.stored) else None

    def _seen(self, part: Part) -> tuple[np.ndarray, VideoFrame, Part]:
        """A frame that is filled in `part` and around it; what it is filled with, as planes; and where those lie."""
        place = grown(part, self.height_width, STEP, REACH)
        planes = rgb_planes(cropped(self.stored, *place), self.colour.matrix)
        frame = np.empty((*self.height_width, 3), np.uint8)  # memory that nobody touches costs nothing
        frame[place] = packed(planes)
        return frame, planes, place

    def _with(self, planes: VideoFrame, place: Part, changed: Part) -> VideoFrame:
        """A copy with the pixels of `changed` taken from `planes`, which lie at `place` and reach further."""
        new = stored_picture(planes, self.stored.format.name, self.colour)
        whole = cropped(self.stored, slice(0, self.stored.height), slice(0, self.stored.width))
        whole.make_writable()
        for own, changes in zip(whole.planes, new.planes, strict=True):
            cell = whole.width // own.width
            there, here = in_cells(changed, cell), in_cells(within(changed, place), cell)
            rows_of(own)[there] = rows_of(changes)[here]
        return whole


def picture_of(stored: VideoFrame, orientation: Orientation, size: tuple[int, int], form: StoredForm) -> Picture:
    """A decoded picture of a stream whose pictures are upright by `orientation` and w x h of `size`.

    It stays as it is stored where that is `form`, in which it will be stored again; otherwise it is one of RGB.
    """
    is_upright = orientation == Orientation() and (stored.width, stored.height) == size
    if is_upright and form.is_that_of(stored) and can_change_in_parts(stored):
        return StoredPicture(stored)
    return RgbPicture(upright_rgb(stored, orientation, size))


def can_change_in_parts(stored: VideoFrame) -> bool:
    """Whether a picture is made of whole cells, by a matrix that is known."""
    cell = CELLS.get(stored.format.name)
    is_whole = cell is not None and stored.width % cell == 0 and stored.height % cell == 0
    return is_whole and colour_tags(stored).matrix in MATRICES


def grown(part: Part, height_width: tuple[int, int], step: int, reach: int = 0) -> Part:
    """`part` grown by `reach` pixels at least, to the next multiples of `step`, within the frame."""
    rows, columns = (
        slice(max(0, (side.start - reach) // step * step), min(length, -(-(side.stop + reach) // step) * step))
        for side, length in zip(part, height_width, strict=True)
    )
    return rows, columns


def within(part: Part, place: Part) -> Part:
    """A part of a frame as a part of the larger part `place`."""
    rows, columns = (
        slice(inner.start - outer.start, inner.stop - outer.start) for inner, outer in zip(part, place, strict=True)
    )
    return rows, columns


def in_cells(part: Part, cell: int) -> Part:
    """A part that is made of whole cells, counted in these."""
    rows, columns = (slice(side.start // cell, side.stop // cell) for side in part)
    return rows, columns
