"""Stored pictures to RGB and back, each with the matrix and range that the file is tagged with.

Code points are those of ITU-T H.273. Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

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
# PyAV 17 does not know the matrix of BT.2020; the nearest, taken both ways, keeps the output's colours.
BT2020 = getattr(Colorspace, "BT2020", Colorspace.ITU709)
# The matrices that libswscale converts with; all others (YCgCo, ICtCp, ...) are not written.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: BT2020,
    10: BT2020,
}
FULL_RANGE_STEP = "yuv444p14le"  # on the way to full-range pictures
# libav's numbers of the ranges
LIMITED_RANGE = 1
FULL_RANGE = 2

HD_HEIGHT_PX = 577  # from this size on players read an untagged video as BT.709, below as BT.601
HD_WIDTH_PX = 1280

# libswscale flags: bilinear chroma 2, full chroma interpolation 2**13 and input 2**14, accurate rounding 2**18.
# The faster path without them brightens flat colours by more than one level.
SWSCALE_FLAGS = 2 | 1 << 13 | 1 << 14 | 1 << 18
ENLARGING_FLAGS = SWSCALE_FLAGS ^ 2 ^ 4  # bicubic, which keeps a picture sharp where it is stretched
KEPT = 4  # conversions that stay prepared in a thread, each with threads of its own


@dataclass(frozen=True)
class ColourTags:
    """What the numbers of a stored picture mean: ITU-T H.273 code points and the range."""

    matrix: int = BT709  # between YUV and RGB; 0: stored as RGB
    primaries: int = BT709
    transfer: int = BT709
    full_range: bool = False  # 0-255 rather than 16-235


def colour_tags(frame: VideoFrame) -> ColourTags:
    """A decoded picture's tags; a missing matrix as players assume it: BT.709 from HD on, BT.601 below."""
    stored_rgb = frame.format.is_rgb or frame.colorspace == RGB
    matrix = RGB if stored_rgb else assumed_matrix(frame)
    full_range = stored_rgb or frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
    return ColourTags(matrix, int(frame.color_primaries), int(frame.color_trc), full_range)


def assumed_matrix(frame: VideoFrame) -> int:
    """The code point of a YUV picture's matrix."""
    if frame.colorspace != UNSPECIFIED:
        return int(frame.colorspace)
    return BT709 if frame.height >= HD_HEIGHT_PX or frame.width >= HD_WIDTH_PX else SMPTE170M


def upright_rgb(frame: VideoFrame, orientation: Orientation, size: tuple[int, int], exact: bool = True) -> np.ndarray:
    """Convert a decoded picture with the matrix and range of its tags and turn it upright; uint8 `h w 3`.

    `size` is the width and height before the turn: a picture that is stored at another one is scaled to it.
    Without `exact` libswscale's faster way is taken, which is a level or two too bright.
    """
    matrix = None
    if not frame.format.is_rgb and frame.colorspace != RGB:
        matrix = assumed_matrix(frame)
    if exact and matrix is not None and (frame.width, frame.height) == size:
        pixels = packed(rgb_planes(frame, matrix))  # the same in half the time
    else:
        wanted = MATRICES.get(matrix, Colorspace.ITU709) if matrix is not None else None
        pixels = converted(frame, "rgb24", size, exact, src_colorspace=wanted).to_ndarray()
    return np.ascontiguousarray(orientation.apply(pixels))


def rgb_planes(frame: VideoFrame, matrix: int) -> VideoFrame:
    """A YUV picture as a `gbrp` one, converted exactly by the matrix of a code point."""
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
    """An `rgb24` picture of uint8 `h w 3`, in a twentieth of the time of PyAV's own way."""
    height, width = frame.shape[:2]
    picture = VideoFrame(width, height, "rgb24")
    rows_of(picture.planes[0])[:, : 3 * width] = frame.reshape(height, 3 * width)
    return picture


def rows_of(plane: VideoPlane) -> np.ndarray:
    """The bytes of a plane [h, line size], in place; the ends of the lines are padding."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)


def stored_frame(frame: np.ndarray, pixel_format: str, colour: ColourTags) -> VideoFrame:
    """Convert RGB uint8 `h w 3` to a picture of `pixel_format` with the matrix and range of `colour`, tagged so."""
    return stored_picture(chroma_at_left(rgb_picture(frame)), pixel_format, colour)


def stored_picture(source: VideoFrame, pixel_format: str, colour: ColourTags) -> VideoFrame:
    """The same for a picture in RGB, whose tag of where the chroma lies holds for the result too."""
    matrix = MATRICES.get(colour.matrix)
    if colour.full_range and matrix is not None:
        # libswscale cuts off the fractions of full-range chroma; with 6 more bits that is less than 0.01 levels
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


class _Prepared(threading.local):
    """What a thread has prepared: by the kinds of pictures, the latest used last."""

    def __init__(self) -> None:
        self.reformatters: dict[tuple, VideoReformatter] = {}


_prepared = _Prepared()


def converted(
    frame: VideoFrame, format: str, size: tuple[int, int] | None = None, exact: bool = True, **colours: Any
) -> VideoFrame:
    """A picture in another pixel format, scaled to w x h of `size`; `colours` as `VideoReformatter.reformat` takes them.

    Without `exact` libswscale's faster way is taken, see `SWSCALE_FLAGS`.
    """
    width, height = size or (frame.width, frame.height)
    is_enlarged = (width, height) != (frame.width, frame.height) and width >= frame.width and height >= frame.height
    flags = (ENLARGING_FLAGS if is_enlarged else SWSCALE_FLAGS) if exact else None
    kind = (frame.width, frame.height, frame.format.name, width, height, format, exact, *colours.values())
    prepared = _prepared.reformatters
    prepared[kind] = reformatter = prepared.pop(kind, None) or VideoReformatter()
    if len(prepared) > KEPT:
        del prepared[next(iter(prepared))]
    return reformatter.reformat(
        frame, width, height, format, interpolation=flags, threads=converter_threads(), **colours
    )
