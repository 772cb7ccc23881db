"""Stored YUV frames to RGB and back, each with the matrix and range that the file is tagged with.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

# libswscale flags: bilinear chroma 2, full chroma interpolation 2**13 and input 2**14, accurate rounding 2**18.
# The faster path without them brightens flat colours by more than one level.
SWSCALE_FLAGS = 2 | 1 << 13 | 1 << 14 | 1 << 18

# ITU-T H.273 code points
BT709 = 1
UNSPECIFIED = 2
LIMITED_RANGE = 1

HD_HEIGHT_PX = 577  # from this size on players read an untagged video as BT.709, below as BT.601
HD_WIDTH_PX = 1280


def upright_rgb(frame: VideoFrame) -> np.ndarray:
    """Convert a decoded frame with the matrix and range of its tags and turn it as its metadata asks; uint8 `h w 3`."""
    matrix = untagged_matrix(frame) if frame.colorspace == UNSPECIFIED else None
    pixels = frame.to_ndarray(format="rgb24", src_colorspace=matrix, interpolation=SWSCALE_FLAGS)
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))


def untagged_matrix(frame: VideoFrame) -> Colorspace:
    return Colorspace.ITU709 if frame.height >= HD_HEIGHT_PX or frame.width >= HD_WIDTH_PX else Colorspace.ITU601


def bt709_frame(frame: np.ndarray, pixel_format: str) -> VideoFrame:
    """Convert RGB uint8 `h w 3` to a BT.709 limited-range frame of `pixel_format`, ready for an encoder."""
    stored = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return stored.reformat(
        format=pixel_format,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=SWSCALE_FLAGS,
    )
