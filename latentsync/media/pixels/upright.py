"""Turning stored pictures upright and converting their form without a conversion to 8-bit RGB."""

from typing import Any

from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from latentsync.media.pixels.colour import (
    FULL_RANGE,
    LIMITED_RANGE,
    MATRICES,
    ColourTags,
    assumed_matrix,
    colour_tags,
    converted,
)
from latentsync.media.pixels.filters import chroma_at_left, transposed
from latentsync.media.pixels.geometry import Orientation
from latentsync.media.pixels.interlace import field_order, with_fields
from latentsync.media.pixels.pixel_format import full_chroma


def upright_stored(
    stored: VideoFrame, orientation: Orientation, size: tuple[int, int], pixel_format: str, colour: ColourTags
) -> VideoFrame:
    """A decoded picture in `pixel_format` with the matrix and range of `colour`, scaled to w x h of `size`, then turned.

    Luma that is neither scaled nor converted keeps its values. Subsampled chroma would be shifted by a turn, so it is turned
    as 4:4:4 and subsampled again.
    """
    if orientation == Orientation():
        upright = _converted(stored, size, pixel_format, colour)
    else:
        upright = turned(_converted(stored, size, full_chroma(pixel_format), colour), orientation)
        if upright.format.name != pixel_format:
            upright = _converted(chroma_at_left(upright), (upright.width, upright.height), pixel_format, colour)
    return with_fields(upright, "" if upright.interlaced_frame else field_order(stored))


def turned(picture: VideoFrame, orientation: Orientation) -> VideoFrame:
    """Turn and mirror a picture of a planar 4:4:4 format."""
    across, down = (orientation.c, orientation.b) if orientation.turned else (orientation.a, orientation.d)
    lines = picture if orientation.turned else transposed(picture)
    return transposed(lines, down < 0, across < 0)


def _converted(stored: VideoFrame, size: tuple[int, int], pixel_format: str, colour: ColourTags) -> VideoFrame:
    """The picture in another pixel format and size, tagged with `colour`."""
    own = colour_tags(stored)
    same_colours = (own.matrix, own.full_range) == (colour.matrix, colour.full_range)
    if stored.format.name == pixel_format and (stored.width, stored.height) == size and same_colours:
        return stored
    ranges: dict[str, Any] = {"dst_color_range": ColorRange.JPEG if colour.full_range else ColorRange.MPEG}
    if not stored.format.is_rgb:
        ranges["src_color_range"] = ColorRange.JPEG if own.full_range else ColorRange.MPEG
    result = converted(
        stored,
        pixel_format,
        size,
        src_colorspace=None if stored.format.is_rgb else MATRICES.get(assumed_matrix(stored), Colorspace.ITU709),
        dst_colorspace=MATRICES.get(colour.matrix),
        **ranges,
    )
    result.colorspace, result.color_range = colour.matrix, FULL_RANGE if colour.full_range else LIMITED_RANGE
    result.color_primaries, result.color_trc = colour.primaries, colour.transfer
    return result
