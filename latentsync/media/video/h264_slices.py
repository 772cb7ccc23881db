"""Slice headers of H.264 (ITU-T H.264, 7.3.3), changed so that decoding can begin at the key picture of an open group.

Such a picture refers to nothing, nor do those that follow it in the file and on the screen refer to anything before it; but its
number continues that of the pictures before it. It becomes an IDR picture, whose number is 0, and the numbers of all pictures up to
the next IDR are moved by as much: two fields of fixed length. All other references are differences of numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from latentsync.media.video.nal import (
    H264_IDR,
    H264_SEI,
    H264_SLICE,
    AvcHeader,
    Bits,
    BitWriter,
    HeaderError,
    bits_between,
    escaped,
    packet_of,
    plain,
    pps_id,
    sei_messages,
    sps_id,
    units,
)

P, B, INTRA = 0, 1, 2  # slice types, modulo 5
RECOVERY_POINT = 6  # type of an SEI message
IDR_PIC_ID = 2  # encoders begin with 0 and 1; the numbers of IDR pictures in a row must differ
HEADER_BYTES = 64  # of a slice: more than the fields before its references need
HIGH = 100


@dataclass(frozen=True)
class PictureSettings:
    """Fields of a picture parameter set and of its sequence parameter set, on which slice headers depend."""

    frame_num_bits: int
    order_bits: int  # 0: the order of pictures follows from their numbers
    gaps_place: int  # of the flag in the plain SPS, that numbers may be missing, in bits
    sps: bytes
    has_cabac: bool
    has_bottom_order: bool
    references: tuple[int, int]  # usual numbers of them, in both lists
    weighted: tuple[bool, bool]  # whether P and B slices have weights
    has_deblocking: bool
    has_redundant: bool

    @classmethod
    def parsed(cls, pps: bytes, all_sps: Sequence[bytes]) -> "PictureSettings":
        """Raises HeaderError for what is hardly ever used: fields, slice groups, scaling matrices, other chroma than 4:2:0."""
        bits = Bits(plain(pps[1:]))
        bits.exp_golomb()
        number = bits.exp_golomb()
        has_cabac, has_bottom_order = bool(bits.take(1)), bool(bits.take(1))
        if bits.exp_golomb():
            raise HeaderError("its pictures have slice groups")
        references = bits.exp_golomb() + 1, bits.exp_golomb() + 1
        weighted = bool(bits.take(1)), bits.take(2) == 1
        bits.numbers(3)  # quantisers
        has_deblocking, _, has_redundant = bool(bits.take(1)), bits.take(1), bool(bits.take(1))
        sps = next((unit for unit in all_sps if sps_id(unit) == number), None)
        if sps is None:
            raise HeaderError("a parameter set is missing")
        own = sps_fields(sps)
        return cls(*own, sps, has_cabac, has_bottom_order, references, weighted, has_deblocking, has_redundant)


def sps_fields(sps: bytes) -> tuple[int, int, int]:
    """Bits of picture numbers and of the order of pictures, and the place of the flag for missing numbers."""
    bits = Bits(plain(sps))
    bits.take(32)  # NAL header, profile, compatibility, level
    bits.exp_golomb()
    if sps[1] >= HIGH:
        if sps[1] != HIGH or bits.exp_golomb() != 1:
            raise HeaderError("its chroma is not 4:2:0")
        bits.exp_golomb(), bits.exp_golomb(), bits.take(1)
        if bits.take(1):
            raise HeaderError("it has scaling matrices")
    frame_num_bits, order_type = bits.exp_golomb() + 4, bits.exp_golomb()
    if order_type == 1:
        raise HeaderError("its picture order has the type 1")
    order_bits = 0 if order_type else bits.exp_golomb() + 4
    bits.exp_golomb()
    gaps_place = bits.place
    bits.take(1), bits.exp_golomb(), bits.exp_golomb()
    if not bits.take(1):
        raise HeaderError("its pictures may be fields")
    return frame_num_bits, order_bits, gaps_place


def settings_of(header: AvcHeader) -> dict[int, PictureSettings]:
    """Settings by the number of their picture parameter set. Raises HeaderError as `PictureSettings.parsed` does."""
    return {pps_id(unit): PictureSettings.parsed(unit, header.sps) for unit in header.pps}


def with_gaps_allowed(header: AvcHeader) -> tuple[bytes, ...]:
    """The sequence parameter sets of a header, with the flag that numbers of pictures may be missing."""
    allowed = []
    for unit in header.sps:
        data, place = bytearray(plain(unit)), sps_fields(unit)[2]
        data[place // 8] |= 0x80 >> place % 8
        allowed.append(escaped(bytes(data)))
    return tuple(allowed)


@dataclass
class SliceHeader:
    """The beginning of a slice's header."""

    settings: PictureSettings
    data: bytes  # of the NAL unit, plain, after its first byte
    bits: Bits  # after what was read
    first_block: int
    kind: int  # P, B or INTRA
    pps: int
    number: int  # of the picture (frame_num)
    number_place: int  # bits
    order: int  # lower bits of the picture's place in the order of display
    order_place: int  # bits

    @classmethod
    def parsed(cls, unit: bytes, settings: Mapping[int, PictureSettings]) -> "SliceHeader":
        """Of a slice that is not of an IDR picture. Raises HeaderError if it cannot be read."""
        data = plain(unit[1:])
        bits = Bits(data)
        first_block, kind, pps = bits.exp_golomb(), bits.exp_golomb() % 5, bits.exp_golomb()
        if pps not in settings:
            raise HeaderError("a parameter set is missing")
        own = settings[pps]
        number_place, number = bits.place, bits.take(own.frame_num_bits)
        order_place, order = bits.place, bits.take(own.order_bits)
        return cls(own, data, bits, first_block, kind, pps, number, number_place, order, order_place)

    def skip_references(self) -> None:
        """Read on to the marking of reference pictures."""
        own, bits = self.settings, self.bits
        if own.has_bottom_order and own.order_bits:
            bits.exp_golomb()
        if own.has_redundant:
            bits.exp_golomb()
        if self.kind == INTRA:
            return
        lists = 2 if self.kind == B else 1
        bits.take(lists - 1)  # direct_spatial_mv_pred_flag
        counts = list(own.references[:lists])
        if bits.take(1):
            counts = [bits.exp_golomb() + 1 for _ in counts]
        for _ in counts:
            if bits.take(1):
                while bits.exp_golomb() != 3:
                    bits.exp_golomb()
        if own.weighted[self.kind]:
            bits.exp_golomb(), bits.exp_golomb()
            for _ in range(sum(counts)):
                for weights in (2, 4):  # of luma, of chroma
                    for _ in range(weights if bits.take(1) else 0):
                        bits.exp_golomb()

    def markings(self) -> list[tuple[int, ...]]:
        """The commands that mark reference pictures, read from there on: each an operation and its numbers."""
        if not self.bits.take(1):
            return []
        commands = []
        while operation := self.bits.exp_golomb():
            numbers = {1: 1, 2: 1, 3: 2, 4: 1, 6: 1}.get(operation, 0)
            commands.append((operation, *(self.bits.exp_golomb() for _ in range(numbers))))
        return commands

    def rest(self, start: BitWriter) -> bytes:
        """`start`, what follows in the header after the bits that were read, and the content of the slice."""
        bits, own = self.bits, self.settings
        if not own.has_cabac:  # the content follows at any bit
            start.put(bits.value & ((1 << bits.left) - 1), bits.left)
            return start.padded(0).rstrip(b"\0")
        if self.kind != INTRA:
            start.exp_golomb(bits.exp_golomb())
        start.exp_golomb(bits.exp_golomb())
        if own.has_deblocking:
            start.exp_golomb(is_off := bits.exp_golomb())
            for _ in range(0 if is_off == 1 else 2):
                start.exp_golomb(bits.exp_golomb())
        return start.padded(1) + self.data[-(-bits.place // 8) :]


def recovers_at_once(packet: bytes, settings: Mapping[int, PictureSettings]) -> bool:
    """Whether a packet is a key picture of an open group: it refers to nothing, and says that decoding can begin with it."""
    found = list(units(packet))
    slices = [unit for unit in found if unit[0] & 31 == H264_SLICE]
    messages = [message for unit in found if unit[0] & 31 == H264_SEI for message in sei_messages(plain(unit[1:]))]
    is_marked = any(kind == RECOVERY_POINT and content[:1] >= b"\x80" for kind, content in messages)  # at once: ue(v) 0
    return is_marked and bool(slices) and all(SliceHeader.parsed(each, settings).kind == INTRA for each in slices)


@dataclass
class Renumbered:
    """Changes the packets from the key picture of an open group on, which must come in order, up to the next IDR picture."""

    settings: Mapping[int, PictureSettings]
    count: int = 0  # packets so far
    ended: bool = False
    last: int = 0  # number of the last picture; -1: numbers began at 0 again, and nothing before the key picture is meant any more
    key: SliceHeader | None = field(default=None)

    def changed(self, packet: bytes) -> bytes:
        """The next packet with other numbers."""
        if self.ended:
            return packet
        found = list(units(packet))
        if any(unit[0] & 31 == H264_IDR for unit in found):
            self.ended = True
            return packet
        self.count += 1
        return packet_of([self._slice(unit) if unit[0] & 31 == H264_SLICE else unit for unit in found])

    def _slice(self, unit: bytes) -> bytes:
        header = SliceHeader.parsed(unit, self.settings)
        self.key = self.key or header
        if self.count == 1:
            return bytes([unit[0] & 0x60 | H264_IDR]) + escaped(idr_slice(header))
        own = header.settings
        number = (header.number - self.key.number) % (1 << own.frame_num_bits)
        order = (header.order - self.key.order) % (1 << own.order_bits)
        length = min(HEADER_BYTES, len(header.data))
        start = int.from_bytes(header.data[:length], "big")
        for place, width, old, new in (
            (header.number_place, own.frame_num_bits, header.number, number),
            (header.order_place, own.order_bits, header.order, order),
        ):
            start ^= (old ^ new) << (8 * length - place - width)
        data = start.to_bytes(length, "big") + header.data[length:]
        self.last = number if 0 <= self.last <= number else -1
        if self.last >= 0 and unit[0] & 0x60:
            data = without_old_markings(SliceHeader.parsed(unit[:1] + escaped(data), self.settings))
        return unit[:1] + escaped(data)


def idr_slice(header: SliceHeader) -> bytes:
    """A slice of a key picture as one of an IDR picture with the number 0, without its first byte."""
    own, start = header.settings, BitWriter()
    for number in (header.first_block, INTRA, header.pps):
        start.exp_golomb(number)
    start.put(0, own.frame_num_bits)
    start.exp_golomb(IDR_PIC_ID)
    start.put(0, own.order_bits)
    before = header.bits.place
    header.skip_references()
    start.put(*bits_between(header.data, before, header.bits.place))
    header.markings()
    start.put(0, 2)  # pictures before it are shown; it is no long-term reference
    return header.rest(start)


def without_old_markings(header: SliceHeader) -> bytes:
    """A slice without commands that mark pictures before number 0 as unused, without its first byte."""
    header.skip_references()
    start = BitWriter(*bits_between(header.data, 0, header.bits.place))
    commands = header.markings()
    kept = [command for command in commands if command[0] != 1 or command[1] < header.number]
    if kept == commands:
        return header.data
    start.put(1, 1)
    for number in (number for command in kept for number in command):
        start.exp_golomb(number)
    start.exp_golomb(0)
    return header.rest(start)
