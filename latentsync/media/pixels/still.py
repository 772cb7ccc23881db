"""Which way up a still image is: the orientation tag of its EXIF block (Exif 2.32, 4.6.4)."""

import re
import struct
from pathlib import Path

from latentsync.media.container import PathLike
from latentsync.media.pixels.colour import Orientation

ORIENTATION_TAG = 0x0112
# Exif's orientation 1 ... 8 as where the stored picture's axes point to
EXIF_ORIENTATIONS = (
    Orientation(1, 0, 0, 1),
    Orientation(-1, 0, 0, 1),
    Orientation(-1, 0, 0, -1),
    Orientation(1, 0, 0, -1),
    Orientation(0, 1, 1, 0),
    Orientation(0, 1, -1, 0),
    Orientation(0, -1, -1, 0),
    Orientation(0, -1, 1, 0),
)
# The start of the block: after a JPEG's application marker, or as a PNG or WebP chunk.
EXIF_STARTS = re.compile(rb"\xff\xe1..Exif\0\0|....eXIf|EXIF....(?:Exif\0\0)?", re.DOTALL)
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def still_orientation(path: PathLike) -> Orientation:
    """The orientation that a JPEG, PNG or WebP file asks for; upright where it asks for none or is damaged."""
    content = Path(path).read_bytes()
    for start in EXIF_STARTS.finditer(content):
        block = content[start.end() :]
        order = BYTE_ORDERS.get(block[:4])
        if order is not None:
            return EXIF_ORIENTATIONS[exif_orientation(block, order) - 1]
    return EXIF_ORIENTATIONS[0]


def exif_orientation(block: bytes, order: str) -> int:
    """The value 1 ... 8 of the orientation tag in a TIFF block's first directory; 1 without one."""
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, directory + 2 + 12 * entry)
            if tag == ORIENTATION_TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
