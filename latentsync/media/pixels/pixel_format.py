"""The properties of libav's pixel formats, and what a conversion to another format loses."""

from dataclasses import dataclass
from functools import cache

import av

USUAL = "yuv420p"  # 8 bits, 4:2:0, which every player supports
MAX_SAMPLE_BITS = 16


@dataclass(frozen=True)
class PixelFormat:
    """Properties of a pixel format. A cell is the block of pixels that share one chroma sample."""

    name: str
    bits: int  # of one component
    cell_width: int  # px
    cell_height: int  # px
    is_rgb: bool
    has_colour: bool
    has_alpha: bool
    has_planes: bool  # whether every component is a plane of 8- or little-endian 16-bit samples

    @property
    def chroma_detail(self) -> tuple[int, int]:
        """Chroma samples for 4 pixels of a row and of a column; 0 for grey formats."""
        return (4 // self.cell_width, 4 // self.cell_height) if self.has_colour else (0, 0)

    @property
    def is_deep(self) -> bool:
        """Whether it holds more than 8-bit RGB: more bits, or alpha."""
        return self.bits > 8 or self.has_alpha

    def fits(self, width: int, height: int) -> bool:
        """Whether the size is a multiple of the cell."""
        return width % self.cell_width == 0 and height % self.cell_height == 0

    def lost_in(self, other: "PixelFormat") -> tuple[bool, int, int, bool]:
        """What pictures lose when they are stored in another format, the worst first: alpha, bits, chroma samples, RGB."""
        chroma = sum(max(0, own - kept) for own, kept in zip(self.chroma_detail, other.chroma_detail, strict=True))
        return (
            self.has_alpha and not other.has_alpha,
            max(0, self.bits - other.bits),
            chroma,
            self.is_rgb and not other.is_rgb,
        )


@cache
def pixel_format(name: str) -> PixelFormat:
    """The properties of a format by libav's name; ValueError for an unknown name."""
    form = av.VideoFormat(name, 64, 64)
    colours = [component for component in form.components if not component.is_alpha]
    bits = max(component.bits for component in colours)
    alone = len({component.plane for component in form.components}) == len(form.components)
    return PixelFormat(
        name=name,
        bits=bits,
        cell_width=64 // form.chroma_width(64),
        cell_height=64 // form.chroma_height(64),
        is_rgb=form.is_rgb or form.has_palette,
        has_colour=len(colours) == 3 or form.has_palette,
        has_alpha=len(colours) < len(form.components),
        has_planes=form.is_planar and alone and not form.is_big_endian and bits <= MAX_SAMPLE_BITS,
    )


def full_chroma(name: str) -> str:
    """The planar 4:4:4 YUV format with the bits and alpha of the format `name`."""
    facts = pixel_format(name)
    depth = "" if facts.bits == 8 else f"{facts.bits}le"
    return f"yuv{'a' if facts.has_alpha else ''}444p{depth}"


def turned_format(name: str) -> str:
    """The format that holds pictures of the format `name` without loss after a turn by 90 degrees."""
    facts = pixel_format(name)
    return name if facts.cell_width == facts.cell_height else full_chroma(name)
