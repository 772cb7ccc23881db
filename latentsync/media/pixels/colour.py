"""Conversion of stored pictures to RGB and back by libswscale, with the matrix and range of their tags.

Code points are those of ITU-T H.273. Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

import os
import threading
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from latentsync.media.container import converter_threads
from latentsync.media.pixels.filters import chroma_at_left
from latentsync.media.pixels.geometry import Orientation

# code points
RGB = 0
BT709 = 1
UNSPECIFIED = 2
SMPTE170M = 6
# PyAV 17 lacks the matrix of BT.2020; the nearest one, used in both directions, keeps the output's colours.
BT2020 = getattr(Colorspace, "BT2020", Colorspace.ITU709)
# The matrices that libswscale supports; others (YCgCo, ICtCp, ...) are never written.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: BT2020,
    10: BT2020,
}
FULL_RANGE_STEP = "yuv444p14le"  # intermediate format of full-range pictures
# libav's values of the range
LIMITED_RANGE = 1
FULL_RANGE = 2

HD_HEIGHT_PX = 577  # from this size on players assume BT.709 for an untagged video, below it BT.601
HD_WIDTH_PX = 1280

# libswscale flags: bilinear chroma 2, full chroma interpolation 2**13 and input 2**14, accurate rounding 2**18.
# The faster path without them makes flat colours more than one level brighter.
SWSCALE_FLAGS = 2 | 1 << 13 | 1 << 14 | 1 << 18
ENLARGING_FLAGS = SWSCALE_FLAGS ^ 2 ^ 4  # bicubic, which is sharper
CACHED_CONVERTERS = 4  # for each thread; each converter has its own threads


@dataclass(frozen=True)
class ColourTags:
    """The colour tags of a stored picture: ITU-T H.273 code points and the range."""

    matrix: int = BT709  # between YUV and RGB; 0: stored as RGB
    primaries: int = BT709
    transfer: int = BT709
    full_range: bool = False  # 0-255 rather than 16-235


def colour_tags(frame: VideoFrame) -> ColourTags:
    """A decoded picture's tags; a missing matrix is assumed as players do: BT.709 from HD on, BT.601 below."""
    stored_rgb = frame.format.is_rgb or frame.colorspace == RGB
    matrix = RGB if stored_rgb else assumed_matrix(frame)
    full_range = stored_rgb or frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
    return ColourTags(matrix, int(frame.color_primaries), int(frame.color_trc), full_range)


def assumed_matrix(frame: VideoFrame) -> int:
    """The code point of a YUV picture's matrix: its tag, or the assumption of players."""
    if frame.colorspace != UNSPECIFIED:
        return int(frame.colorspace)
    return BT709 if frame.height >= HD_HEIGHT_PX or frame.width >= HD_WIDTH_PX else SMPTE170M


def upright_rgb(frame: VideoFrame, orientation: Orientation, size: tuple[int, int], exact: bool = True) -> np.ndarray:
    """Convert a decoded picture with the matrix and range of its tags and turn it upright; uint8 `h w 3`.

    `size` is the width and height before the turn: a picture that is stored at another one is scaled to it.
    Without `exact` libswscale's faster conversion is used, whose result is one or two levels too bright.
    """
    matrix = None
    if not frame.format.is_rgb and frame.colorspace != RGB:
        matrix = assumed_matrix(frame)
    if exact and matrix is not None and (frame.width, frame.height) == size:
        pixels = packed(rgb_planes(frame, matrix))  # the same result in half the time
    else:
        wanted = MATRICES.get(matrix, Colorspace.ITU709) if matrix is not None else None
        pixels = converted(frame, "rgb24", size, exact, src_colorspace=wanted).to_ndarray()
    return np.ascontiguousarray(orientation.apply(pixels))


def rgb_planes(frame: VideoFrame, matrix: int) -> VideoFrame:
    """A YUV picture as a `gbrp` picture, converted by the matrix of a code point."""
    return converted(frame, "gbrp", src_colorspace=MATRICES.get(matrix, Colorspace.ITU709))


def packed(frame: VideoFrame) -> np.ndarray:
    """A `gbrp` picture as uint8 `h w 3`, RGB."""
    green, blue, red = (rows_of(plane)[:, : frame.width] for plane in frame.planes)
    return np.asarray(cv2.merge([red, green, blue]), np.uint8)


def unpack(pixels: np.ndarray, frame: VideoFrame) -> None:
    """Write uint8 `h w 3`, RGB, into a `gbrp` picture of its size."""
    red, green, blue = cv2.split(pixels)
    for plane, values in zip(frame.planes, (green, blue, red), strict=True):
        rows_of(plane)[:, : frame.width] = values


def rgb_picture(frame: np.ndarray) -> VideoFrame:
    """An `rgb24` picture of uint8 `h w 3`; 20 times as fast as `VideoFrame.from_ndarray`."""
    height, width = frame.shape[:2]
    picture = VideoFrame(width, height, "rgb24")
    rows_of(picture.planes[0])[:, : 3 * width] = frame.reshape(height, 3 * width)
    return picture


def rows_of(plane: VideoPlane) -> np.ndarray:
    """A view of the bytes of a plane [h, line size]; the ends of the lines are padding."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)


def stored_frame(frame: np.ndarray, pixel_format: str, colour: ColourTags) -> VideoFrame:
    """Convert RGB uint8 `h w 3` to a picture of `pixel_format` with the matrix and range of `colour`, and tag it."""
    return stored_picture(chroma_at_left(rgb_picture(frame)), pixel_format, colour)


def stored_picture(source: VideoFrame, pixel_format: str, colour: ColourTags) -> VideoFrame:
    """As `stored_frame`, for an RGB picture, whose tag of the chroma location is kept."""
    matrix = MATRICES.get(colour.matrix)
    if colour.full_range and matrix is not None:
        # libswscale truncates full-range chroma; with 6 more bits the error is below 0.01 levels
        source = converted(source, FULL_RANGE_STEP, dst_colorspace=matrix, dst_color_range=ColorRange.JPEG)
        source.colorspace, source.color_range = colour.matrix, FULL_RANGE
    stored = converted(
        source,
        pixel_format,
        src_colorspace=None if source.format.is_rgb else matrix,
        dst_colorspace=matrix,
        dst_color_range=ColorRange.JPEG if colour.full_range else ColorRange.MPEG,
    )
    stored.colorspace, stored.color_range = colour.matrix, FULL_RANGE if colour.full_range else LIMITED_RANGE
    stored.color_primaries, stored.color_trc = colour.primaries, colour.transfer
    return stored


class _ConverterCache(threading.local):
    """The converters of a thread by kind of conversion, the most recently used last."""

    def __init__(self) -> None:
        self.reformatters: dict[tuple, VideoReformatter] = {}


_cache = _ConverterCache()
_of_parent: list[dict[tuple, VideoReformatter]] = []


def _after_fork() -> None:
    """Converters wait for their threads, which a forked process does not have: it makes its own, and never frees these."""
    _of_parent.append(_cache.reformatters)
    _cache.reformatters = {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def converted(
    frame: VideoFrame, format: str, size: tuple[int, int] | None = None, exact: bool = True, **colours: Any
) -> VideoFrame:
    """Convert a picture to another pixel format and scale it to w x h of `size`.

    `colours` are arguments of `VideoReformatter.reformat`. Without `exact` libswscale's faster conversion is used, see
    `SWSCALE_FLAGS`.
    """
    width, height = size or (frame.width, frame.height)
    is_enlarged = (width, height) != (frame.width, frame.height) and width >= frame.width and height >= frame.height
    flags = (ENLARGING_FLAGS if is_enlarged else SWSCALE_FLAGS) if exact else None
    kind = (frame.width, frame.height, frame.format.name, width, height, format, exact, *colours.values())
    converters = _cache.reformatters
    converters[kind] = reformatter = converters.pop(kind, None) or VideoReformatter()
    if len(converters) > CACHED_CONVERTERS:
        del converters[next(iter(converters))]
    return reformatter.reformat(
        frame, width, height, format, interpolation=flags, threads=converter_threads(), **colours
    )
