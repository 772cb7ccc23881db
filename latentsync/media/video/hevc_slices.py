"""Parameter sets of HEVC with other numbers (ITU-T H.265, 7.3): those of an encoder become distinct from those of a film.

Encoders number their parameter sets with 0, and each slice names its picture parameter set in a field of variable length, so the
header of a slice is read to its end, where the content begins at a whole byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentsync.media.video.nal import (
    HEVC_HEADER,
    Bits,
    BitWriter,
    HeaderError,
    bits_between,
    escaped,
    hevc_type,
    plain,
)

VPS, SPS, PPS = 32, 33, 34  # NAL units; pictures have lower numbers
IRAP, IDR = range(16, 24), (19, 20)
PROFILE_BITS, LEVEL_BITS = 88, 8
B, INTRA = 0, 2  # slice types
MAX_ID = 15


def sps_id_place(bits: Bits) -> int:
    """The number of a sequence parameter set; `bits` begin with its content and end after the number."""
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + PROFILE_BITS + LEVEL_BITS)
    stated = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    bits.take(2 * (8 - layers) if layers else 0)
    for has_profile, has_level in stated:
        bits.take(PROFILE_BITS * has_profile + LEVEL_BITS * has_level)
    return bits.exp_golomb()


def set_id(unit: bytes) -> int:
    """The number of a parameter set."""
    bits = Bits(plain(unit[HEVC_HEADER:]))
    if hevc_type(unit) == VPS:
        return bits.take(4)
    return sps_id_place(bits) if hevc_type(unit) == SPS else bits.exp_golomb()


def free_id(sets: Sequence[bytes]) -> int:
    """The highest number that no parameter set has."""
    return max(set(range(MAX_ID + 1)) - {set_id(unit) for unit in sets}, default=MAX_ID)


@dataclass(frozen=True)
class SliceSettings:
    """Fields of an encoder's only parameter sets, on which slice headers depend."""

    order_bits: int
    has_chroma: bool
    has_sao: bool
    has_temporal_vectors: bool
    has_output_flag: bool
    extra_bits: int
    has_cabac_init: bool
    references: tuple[int, int]  # usual numbers of them, in both lists
    has_chroma_quantisers: bool
    has_own_deblocking: bool
    is_deblocking_off: bool
    filters_across: bool
    has_entry_points: bool
    has_extension: bool

    @classmethod
    def parsed(cls, sets: Sequence[bytes]) -> "SliceSettings":
        """Raises HeaderError for sets that are not one of each kind, and for what the encoder here does not use."""
        by_type = {hevc_type(unit): Bits(plain(unit[HEVC_HEADER:])) for unit in sets}
        if len(sets) != 3 or by_type.keys() != {VPS, SPS, PPS}:
            raise HeaderError("the encoder has several parameter sets")
        fields: tuple[Any, ...] = _sps_fields(by_type[SPS]) + _pps_fields(by_type[PPS])
        return cls(*fields)


def refuse(is_used: int) -> None:
    """Raise HeaderError if something is used that is not read."""
    if is_used:
        raise HeaderError("the encoder's settings are unusual")


def _sps_fields(bits: Bits) -> tuple[int, bool, bool, bool]:
    sps_id_place(bits)
    chroma = bits.exp_golomb()
    bits.take(chroma == 3)
    bits.numbers(2)  # width, height
    bits.numbers(4 if bits.take(1) else 0)  # cropping
    bits.numbers(2)  # bits of a sample
    order_bits = bits.exp_golomb() + 4
    refuse(not bits.take(1))
    bits.numbers(3 + 6)  # sizes of buffers, of blocks
    refuse(bits.take(1))  # scaling lists
    bits.take(1)
    has_sao = bool(bits.take(1))
    refuse(bits.take(1))  # PCM
    refuse(bits.exp_golomb())  # sets of references
    refuse(bits.take(1))  # long-term references
    return order_bits, chroma > 0, has_sao, bool(bits.take(1))


def _pps_fields(bits: Bits) -> tuple[bool, int, bool, tuple[int, int], bool, bool, bool, bool, bool, bool]:
    bits.numbers(2)
    bits.take(1)
    has_output_flag, extra_bits, _ = bool(bits.take(1)), bits.take(3), bits.take(1)
    has_cabac_init = bool(bits.take(1))
    references = bits.exp_golomb() + 1, bits.exp_golomb() + 1
    bits.numbers(1)  # quantiser
    bits.take(2)
    bits.numbers(1 if bits.take(1) else 0)
    bits.numbers(2)
    has_chroma_quantisers = bool(bits.take(1))
    refuse(bits.take(2))  # weighted prediction
    bits.take(1)
    refuse(bits.take(1))  # tiles
    has_entry_points, filters_across = bool(bits.take(1)), bool(bits.take(1))
    has_own_deblocking = is_deblocking_off = False
    if bits.take(1):
        has_own_deblocking, is_deblocking_off = bool(bits.take(1)), bool(bits.take(1))
        bits.numbers(0 if is_deblocking_off else 2)
    refuse(bits.take(1))  # scaling lists
    refuse(bits.take(1))  # changed lists of references
    bits.numbers(1)
    return (
        has_output_flag,
        extra_bits,
        has_cabac_init,
        references,
        has_chroma_quantisers,
        has_own_deblocking,
        is_deblocking_off,
        filters_across,
        has_entry_points,
        bool(bits.take(1)),
    )


def numbered_set(unit: bytes, number: int) -> bytes:
    """A parameter set of an encoder, with `number` in place of 0 everywhere."""
    data = plain(unit[HEVC_HEADER:])
    bits, start = Bits(data), BitWriter()
    if hevc_type(unit) != PPS:
        bits.take(4)
        start.put(number, 4)
    if hevc_type(unit) == SPS:
        before = Bits(data)
        sps_id_place(before)
        start.put(*bits_between(data, 4, before.place - 1))  # 0 is one bit
        start.exp_golomb(number)
        bits.take(before.place - 4)
    elif hevc_type(unit) == PPS:
        bits.numbers(2)
        start.exp_golomb(number)
        start.exp_golomb(number)
    start.put(*bits_between(data, bits.place, bits.length))
    return unit[:HEVC_HEADER] + escaped(start.padded(0).rstrip(b"\0"))


def numbered_slice(unit: bytes, settings: SliceSettings, number: int) -> bytes:
    """A slice of an encoder that names the picture parameter set `number` in place of 0. Raises HeaderError if it is unusual."""
    data = plain(unit[HEVC_HEADER:])
    bits, start = Bits(data), BitWriter()
    kind = hevc_type(unit)
    refuse(not bits.take(1))  # several slices
    bits.take(kind in IRAP)
    start.put(*bits_between(data, 0, bits.place))
    refuse(bits.exp_golomb())
    start.exp_golomb(number)
    after = bits.place
    skip_header(bits, kind, settings)
    start.put(*bits_between(data, after, bits.place))
    start.put(1, 1)
    refuse(not bits.take(1))
    return unit[:HEVC_HEADER] + escaped(start.padded(0) + data[-(-bits.place // 8) :])


def skip_header(bits: Bits, kind: int, own: SliceSettings) -> None:
    """Read a slice header of the NAL type `kind` from after the number of its parameter set to its end."""
    bits.take(own.extra_bits)
    slice_type = bits.exp_golomb()
    bits.take(own.has_output_flag)
    has_vectors = 0
    if kind not in IDR:
        bits.take(own.order_bits)
        refuse(bits.take(1))
        for _ in range(bits.exp_golomb() + bits.exp_golomb()):
            bits.numbers(1)
            bits.take(1)
        has_vectors = bits.take(own.has_temporal_vectors)
    is_filtered = bits.take((1 + own.has_chroma) * own.has_sao)
    if slice_type != INTRA:
        _skip_references(bits, slice_type, bool(has_vectors), own)
    bits.numbers(3 if own.has_chroma_quantisers else 1)
    is_off = own.is_deblocking_off
    if own.has_own_deblocking and bits.take(1):
        is_off = bool(bits.take(1))
        bits.numbers(0 if is_off else 2)
    bits.take(own.filters_across and bool(is_filtered or not is_off))
    if own.has_entry_points and (count := bits.exp_golomb()):
        bits.take(count * (bits.exp_golomb() + 1))
    if own.has_extension:
        bits.take(8 * bits.exp_golomb())


def _skip_references(bits: Bits, slice_type: int, has_vectors: bool, own: SliceSettings) -> None:
    counts = own.references
    if bits.take(1):
        counts = bits.exp_golomb() + 1, bits.exp_golomb() + 1 if slice_type == B else 1
    bits.take(slice_type == B)
    bits.take(own.has_cabac_init)
    if has_vectors:
        in_first = bits.take(1) if slice_type == B else 1
        bits.numbers(1 if counts[0 if in_first else 1] > 1 else 0)
    bits.numbers(1)
