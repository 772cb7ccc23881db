"""Static HDR metadata of a video and its form in encoder options.

Mastering display: SMPTE ST 2086; content light levels: CTA-861.3. Dynamic metadata, which changes from picture to picture, is
not kept.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

CHROMATICITY_STEPS = 50_000  # of x265 for chromaticities from 0 to 1
LUMINANCE_STEPS = 10_000  # of x265 for one cd/m2
# names in `Type`, of which older versions of PyAV lack some
NOT_KEPT = {
    "DOVI_METADATA": "Dolby Vision metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "AMBIENT_VIEWING_ENVIRONMENT": "the ambient viewing environment",
}


@dataclass(frozen=True)
class HdrMetadata:
    """`mastering`: x and y of red, green, blue and white (0 ... 1), then the lowest and highest luminance in cd/m2.

    `light`: the brightest pixel and the brightest frame average in cd/m2. `others`: names of other metadata, for messages.
    """

    mastering: tuple[float, ...] | None = None
    light: tuple[int, int] | None = None
    others: tuple[str, ...] = ()

    @property
    def is_static(self) -> bool:
        """Whether there is metadata that an encoder can write."""
        return self.mastering is not None or self.light is not None

    def x265_params(self) -> str:
        """The metadata in the format of libx265's `x265-params`."""
        parts = []
        if self.mastering is not None:
            red, green, blue, white, (low, high) = self._pairs(CHROMATICITY_STEPS)
            luminance = f"L({round(high * LUMINANCE_STEPS)},{round(low * LUMINANCE_STEPS)})"
            points = "".join(
                f"{name}({round(x)},{round(y)})"
                for name, (x, y) in (("G", green), ("B", blue), ("R", red), ("WP", white))
            )
            parts.append(f"master-display={points}{luminance}")
        if self.light is not None:
            parts.append(f"max-cll={self.light[0]},{self.light[1]}")
        return ":".join(parts)

    def svt_params(self) -> str:
        """The metadata in the format of libsvtav1's `svtav1-params`."""
        parts = []
        if self.mastering is not None:
            red, green, blue, white, (low, high) = self._pairs(1)
            points = "".join(
                f"{name}({x:.6f},{y:.6f})" for name, (x, y) in (("G", green), ("B", blue), ("R", red), ("WP", white))
            )
            parts.append(f"mastering-display={points}L({high:.4f},{low:.4f})")
        if self.light is not None:
            parts.append(f"content-light={self.light[0]},{self.light[1]}")
        return ":".join(parts)

    def _pairs(self, steps: int) -> list[tuple[float, float]]:
        """Red, green, blue and white in `steps`, then the two luminances."""
        assert self.mastering is not None
        points, luminances = self.mastering[:8], self.mastering[8:]
        scaled = [*(value * steps for value in points), *luminances]
        return list(zip(scaled[::2], scaled[1::2], strict=True))


def side_data(frame: VideoFrame) -> dict[Type, bytes]:
    """The side data of a decoded picture by type; empty if any is of a type that PyAV does not support."""
    try:
        return {data.type: bytes(data) for data in cast(Iterable[Any], frame.side_data)}
    except ValueError:
        return {}


def hdr_metadata(frame: VideoFrame) -> HdrMetadata:
    """The HDR metadata of a decoded picture."""
    found = side_data(frame)
    others = dict.fromkeys(words for name, words in NOT_KEPT.items() if getattr(Type, name, None) in found)
    display, light = found.get(Type.MASTERING_DISPLAY_METADATA), found.get(Type.CONTENT_LIGHT_LEVEL)
    return HdrMetadata(
        None if display is None else _mastering(display),
        None if light is None else struct.unpack_from("=2I", light),
        tuple(others),
    )


def _mastering(data: bytes) -> tuple[float, ...] | None:
    """libav's `AVMasteringDisplayMetadata`: ten fractions and two flags; values that are not flagged become 0 (unknown)."""
    *numbers, has_points, has_luminance = struct.unpack_from("=22i", data)
    if not has_points and not has_luminance:
        return None
    values = [top / (bottom or 1) for top, bottom in zip(numbers[::2], numbers[1::2], strict=True)]
    known = [has_points] * 8 + [has_luminance] * 2
    return tuple(value if is_known else 0.0 for value, is_known in zip(values, known, strict=True))
