"""Parameter sets and NAL units of H.264 (ISO/IEC 14496-10) and HEVC (23008-2), as stored in MP4 and Matroska files (14496-15).

Packets hold NAL units, each after its length in four bytes. What all pictures need (the parameter sets) is in the header of the
track. Parts with other settings can follow each other if their parameter sets have other numbers, and all are in the header.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

LENGTH_BYTES = 4
MAX_SPS_ID = 31
H264_SLICE, H264_IDR, H264_SEI = 1, 5, 6
HEVC_IRAP = range(16, 24)  # NAL units of pictures at which decoding can begin
HEVC_BLA, HEVC_CRA, HEVC_SEI = 18, 21, 39
DISPLAY_ORIENTATION = 47  # type of a SEI message of both codecs
HEVC_HEADER = 2  # bytes of a NAL unit before its content
HEVC_SETS = range(32, 35)  # NAL units of parameter sets; pictures have lower numbers
HEVC_FACTS, HEVC_LEVEL = 22, 12  # of a header: length before the parameter sets, and where the level is


class HeaderError(ValueError):
    """A track header that is not understood."""


def units(packet: bytes) -> Iterator[bytes]:
    """The NAL units of a packet. Raises HeaderError if the lengths are wrong."""
    place = 0
    while place < len(packet):
        stop = place + LENGTH_BYTES + int.from_bytes(packet[place : place + LENGTH_BYTES], "big")
        if stop > len(packet) or stop == place + LENGTH_BYTES:
            raise HeaderError("its packets are no NAL units with lengths")
        yield packet[place + LENGTH_BYTES : stop]
        place = stop


def sei_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and contents of the messages of a SEI unit; `data` is its plain content, after the header."""
    place = 0
    while place + 2 < len(data):  # the last byte ends the unit
        numbers = []
        for _ in range(2):  # type and length, as sums of bytes up to the first below 255
            start = place
            while place < len(data) and data[place] == 255:
                place += 1
            numbers.append(255 * (place - start) + (data[place] if place < len(data) else 0))
            place += 1
        yield numbers[0], data[place : place + numbers[1]]
        place += numbers[1]


def packet_of(nal_units: Sequence[bytes]) -> bytes:
    """The packet of NAL units."""
    return b"".join(len(unit).to_bytes(LENGTH_BYTES, "big") + unit for unit in nal_units)


def plain(unit: bytes) -> bytes:
    """A NAL unit without the bytes that prevent start codes."""
    return unit.replace(b"\0\0\3", b"\0\0")


def escaped(data: bytes) -> bytes:
    """A NAL unit with the bytes that prevent start codes."""
    return re.sub(rb"\0\0(?=[\0-\3]|\Z)", b"\0\0\3", data)


class Bits:
    """Reads bits of the plain content of a NAL unit."""

    def __init__(self, data: bytes):
        self.value, self.left = int.from_bytes(data, "big"), 8 * len(data)
        self.length = self.left

    @property
    def place(self) -> int:
        """Number of bits that were read."""
        return self.length - self.left

    def take(self, count: int) -> int:
        """The next `count` bits as a number."""
        self.left -= count
        if self.left < 0:
            raise HeaderError("a NAL unit is too short")
        return (self.value >> self.left) & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """The next unsigned exp-Golomb number, ue(v)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def numbers(self, count: int) -> None:
        """Skip exp-Golomb numbers, with a sign or without."""
        for _ in range(count):
            self.exp_golomb()


class BitWriter:
    """Collects bits."""

    def __init__(self, value: int = 0, length: int = 0):
        self.value, self.length = value, length

    def put(self, value: int, length: int) -> None:
        self.value, self.length = self.value << length | value, self.length + length

    def exp_golomb(self, number: int) -> None:
        self.put(number + 1, 2 * (number + 1).bit_length() - 1)

    def padded(self, bit: int) -> bytes:
        """The bits as bytes, completed by ones or zeros."""
        missing = -self.length % 8
        self.put((1 << missing) - 1 if bit else 0, missing)
        return self.value.to_bytes(self.length // 8, "big")


def bits_between(data: bytes, first: int, stop: int) -> tuple[int, int]:
    """Bits of plain content from one place to another, as a number, and how many they are."""
    value = int.from_bytes(data, "big") >> (8 * len(data) - stop)
    return value & ((1 << (stop - first)) - 1), stop - first


@dataclass(frozen=True)
class AvcHeader:
    """An `avcC` header of H.264."""

    profile: bytes  # profile, compatibility and level
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    rest: bytes  # chroma format and bits, for some profiles

    @classmethod
    def parsed(cls, header: bytes) -> "AvcHeader":
        """Raises HeaderError if it is not an `avcC` header with lengths of four bytes."""
        if len(header) < 7 or header[0] != 1 or header[4] & 3 != LENGTH_BYTES - 1:
            raise HeaderError("its track header is not avcC")
        sps, place = _sets(header, 6, header[5] & 31)
        pps, place = _sets(header, place + 1, header[place])
        return cls(header[1:4], sps, pps, header[place:])

    def __bytes__(self) -> bytes:
        sps, pps = _stored(self.sps), _stored(self.pps)
        lengths = bytes([0xFC | LENGTH_BYTES - 1, 0xE0 | len(self.sps)])
        return b"\1" + self.profile + lengths + sps + bytes([len(self.pps)]) + pps + self.rest

    def free_id(self) -> int:
        """The highest number that no parameter set has."""
        used = {sps_id(unit) for unit in self.sps} | {pps_id(unit) for unit in self.pps}
        return max(set(range(MAX_SPS_ID + 1)) - used, default=MAX_SPS_ID)

    def with_sets_of(self, other: "AvcHeader") -> "AvcHeader":
        """This header with the parameter sets of another one too; the level is the higher one."""
        level = max(self.profile[2:], other.profile[2:])
        return replace(
            self,
            profile=self.profile[:2] + level,
            sps=_together(self.sps, other.sps),
            pps=_together(self.pps, other.pps),
        )


def _sets(header: bytes, place: int, count: int) -> tuple[tuple[bytes, ...], int]:
    """`count` units after their lengths in two bytes, and the place after the last."""
    found = []
    for _ in range(count):
        stop = place + 2 + int.from_bytes(header[place : place + 2], "big")
        if stop > len(header) or stop <= place + 2:
            raise HeaderError("its track header is damaged")
        found.append(header[place + 2 : stop])
        place = stop
    if not found or place > len(header):
        raise HeaderError("its track header has no parameter sets")
    return tuple(found), place


def _stored(sets: Sequence[bytes]) -> bytes:
    return b"".join(len(unit).to_bytes(2, "big") + unit for unit in sets)


def _together(own: tuple[bytes, ...], others: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys((*own, *others)))


def sps_id(unit: bytes) -> int:
    """The number of an H.264 sequence parameter set."""
    return Bits(plain(unit[4:])).exp_golomb()  # after the NAL header, profile, compatibility and level


def pps_id(unit: bytes) -> int:
    """The number of an H.264 picture parameter set."""
    return Bits(plain(unit[1:])).exp_golomb()


@dataclass(frozen=True)
class HevcHeader:
    """An `hvcC` header of HEVC."""

    facts: bytes  # profile, level and more
    sets: tuple[bytes, ...]  # parameter sets, and SEI messages

    @classmethod
    def parsed(cls, header: bytes) -> "HevcHeader":
        """Raises HeaderError if it is not an `hvcC` header with lengths of four bytes."""
        if len(header) < HEVC_FACTS + 1 or header[0] != 1 or header[HEVC_FACTS - 1] & 3 != LENGTH_BYTES - 1:
            raise HeaderError("its track header is not hvcC")
        found: list[bytes] = []
        place = HEVC_FACTS + 1
        for _ in range(header[HEVC_FACTS]):
            count = int.from_bytes(header[place + 1 : place + 3], "big")
            sets, place = _sets(header, place + 3, count)
            found += sets
        return cls(header[:HEVC_FACTS], tuple(found))

    def __bytes__(self) -> bytes:
        arrays = b"".join(
            bytes([0x80 | kind]) + len(sets).to_bytes(2, "big") + _stored(sets)
            for kind in dict.fromkeys(map(hevc_type, self.sets))
            if (sets := [unit for unit in self.sets if hevc_type(unit) == kind])
        )
        return self.facts + bytes([len(set(map(hevc_type, self.sets)))]) + arrays

    @property
    def parameter_sets(self) -> tuple[bytes, ...]:
        """Without SEI messages."""
        return tuple(unit for unit in self.sets if hevc_type(unit) in HEVC_SETS)

    def with_sets_of(self, sets: Sequence[bytes], level: int) -> "HevcHeader":
        """This header with other parameter sets too; the level is the higher one."""
        facts = bytearray(self.facts)
        facts[HEVC_LEVEL] = max(level, facts[HEVC_LEVEL])
        return HevcHeader(bytes(facts), _together(self.sets, tuple(sets)))


def hevc_type(unit: bytes) -> int:
    return unit[0] >> 1 & 63


def with_hevc_type(unit: bytes, kind: int) -> bytes:
    """An HEVC NAL unit as one of another type."""
    return bytes([unit[0] & 0x81 | kind << 1]) + unit[1:]
