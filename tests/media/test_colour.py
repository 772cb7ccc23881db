"""Our faster colour conversions return the same pictures as libswscale's."""

import numpy as np
import pytest
from av.video.frame import VideoFrame

from latentsync.media.pixels.colour import MATRICES, SWSCALE_FLAGS, rgb_picture, upright_rgb
from latentsync.media.pixels.geometry import Orientation

UPRIGHT = Orientation()


def picture(width: int, height: int, pixel_format: str) -> VideoFrame:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=pixel_format)


@pytest.mark.parametrize("size", [(64, 48), (333, 202), (35, 16)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "nv12", "gray"])
def test_conversion_by_planes_equals_reformat(pixel_format: str, size: tuple[int, int]) -> None:
    stored = picture(*size, pixel_format)
    whole = stored.to_ndarray(format="rgb24", src_colorspace=MATRICES[6], interpolation=SWSCALE_FLAGS)
    assert np.array_equal(upright_rgb(stored, UPRIGHT, size), whole)


@pytest.mark.parametrize("width", [2, 33, 64, 1001])
def test_rgb_picture_equals_the_frame(width: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (18, 3 * width, 3), dtype=np.uint8)[:, ::3]  # not contiguous
    assert np.array_equal(rgb_picture(frame).to_ndarray(), frame)


def test_the_faster_conversion_is_nearly_exact() -> None:
    y, x = np.mgrid[0:96, 0:128]
    smooth = np.stack([128 + 90 * np.sin(x / 20), 128 + 90 * np.cos(y / 17), 60 + x], -1).astype(np.uint8)
    stored = VideoFrame.from_ndarray(smooth, format="rgb24").reformat(format="yuv420p")
    exact, quick = (upright_rgb(stored, UPRIGHT, (128, 96), exact=each).astype(int) for each in (True, False))
    assert np.abs(exact - quick).mean() < 2.5
