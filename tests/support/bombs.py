"""Small files whose headers state much: what a decoder would allocate or compute for them has nothing to do with their size."""

import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np

MAX_BYTES = 100_000


def wav(rate_hz: int, channels: int = 1, bits: int = 16, codec: int = 1, stated: int | None = None) -> bytes:
    data = bytes(90_000)
    block = max(1, channels * bits // 8)
    head = struct.pack("<HHIIHH", codec, channels, rate_hz, min(2**32 - 1, rate_hz * block), block & 0xFFFF, bits)
    size = len(data) if stated is None else stated
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body) & 0xFFFFFFFF) + body


def au(rate_hz: int) -> bytes:
    return b".snd" + struct.pack(">IIIII", 24, 0xFFFFFFFF, 3, rate_hz, 1) + bytes(90_000)


def aiff(exponent: int) -> bytes:
    """An AIFF file with the rate 2 ** exponent Hz."""
    rate = struct.pack(">HQ", 16383 + exponent, 1 << 63)
    common = struct.pack(">hIh", 1, 45_000, 16) + rate
    sound = struct.pack(">II", 0, 0) + bytes(90_000)
    body = b"AIFFCOMM" + struct.pack(">I", len(common)) + common + b"SSND" + struct.pack(">I", len(sound)) + sound
    return b"FORM" + struct.pack(">I", len(body)) + body


def crc(data: bytes, polynomial: int, bits: int) -> int:
    value, top = 0, 1 << (bits - 1)
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & ((1 << bits) - 1)
    return value


def utf8_number(number: int) -> bytes:
    return chr(number).encode() if number < 0xD800 else bytes([0xED]) + chr(number - 0x800).encode()[1:]


def flac(rate_hz: int, frame_rate_hz: int = 0, channels: int = 1, frames: int = 6_000) -> bytes:
    """Silence in blocks of 65,535 samples of some 12 bytes each: days of sound. `frame_rate_hz`: stated by the blocks, 0: none."""
    info = struct.pack(">HH", 65535, 65535) + bytes(6)
    info += ((rate_hz << 44) | ((channels - 1) << 41) | (15 << 36)).to_bytes(8, "big") + bytes(16)
    out = b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info
    for number in range(frames):
        head = b"\xff\xf8" + bytes([0x70 | (13 if frame_rate_hz else 0), ((channels - 1) << 4) | 8])
        head += (
            utf8_number(number)
            + struct.pack(">H", 65534)
            + (struct.pack(">H", frame_rate_hz) if frame_rate_hz else b"")
        )
        head += bytes([crc(head, 0x07, 8)])
        frame = head + bytes([0, 0, 0]) * channels
        out += frame + struct.pack(">H", crc(frame, 0x8005, 16))
        if len(out) > MAX_BYTES - 200:
            break
    return out


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def full(name: bytes, *parts: bytes) -> bytes:
    return box(name, bytes(4), *parts)


MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def mp4(kind: str, samples: int, step: int = 1000, size: int = 1, scale: int = 16_000, empty: int = 0) -> bytes:
    """An MP4 file with one track whose tables state `samples` samples of `size` bytes."""
    if kind == "soun":
        facts = struct.pack(">HHHHI", 1, 16, 0, 0, (scale & 0xFFFF) << 16)
        entry = box(b"sowt", bytes(6), struct.pack(">H", 1), bytes(8), facts)
        head = full(b"smhd", bytes(4))
    else:
        facts = struct.pack(">HHIII", 64, 64, 72 << 16, 72 << 16, 0) + struct.pack(">H", 1) + bytes(32)
        entry = box(b"jpeg", bytes(6), struct.pack(">H", 1), bytes(16), facts, struct.pack(">Hh", 24, -1))
        head = box(b"vmhd", bytes([0, 0, 0, 1]), bytes(8))
    lasts = min(2**32 - 1, samples * step)
    table = box(
        b"stbl",
        full(b"stsd", struct.pack(">I", 1), entry),
        full(b"stts", struct.pack(">III", 1, samples, step)),
        full(b"stsc", struct.pack(">IIII", 1, 1, samples, 1)),
        full(b"stsz", struct.pack(">II", size, samples)),
        full(b"stco", struct.pack(">II", 1, 40)),
    )
    data = box(b"dinf", full(b"dref", struct.pack(">I", 1), box(b"url ", bytes([0, 0, 0, 1]))))
    media = box(
        b"mdia",
        full(b"mdhd", struct.pack(">IIIIHH", 0, 0, scale, lasts, 0x55C4, 0)),
        full(b"hdlr", bytes(4), kind.encode(), bytes(13)),
        box(b"minf", head, data, table),
    )
    delay = struct.pack(">IIiIIiI", 2, empty, -1, 1 << 16, 1000, 0, 1 << 16)
    edits = box(b"edts", full(b"elst", delay)) if empty else b""
    place = (
        bytes([0, 0, 0, 7])
        + struct.pack(">IIIII", 0, 0, 1, 0, lasts)
        + bytes(16)
        + MATRIX
        + struct.pack(">II", 64 << 16, 64 << 16)
    )
    track = box(b"trak", box(b"tkhd", place), edits, media)
    header = full(
        b"mvhd",
        struct.pack(">IIII", 0, 0, 1000, lasts),
        struct.pack(">IH", 0x10000, 0x100),
        bytes(10),
        MATRIX,
        bytes(24),
        struct.pack(">I", 2),
    )
    return box(b"ftyp", b"isom", bytes(4), b"isom") + box(b"mdat", bytes(60_000)) + box(b"moov", header, track)


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """a PNG with as many zero rows as fit into the file."""
    row = 1 + (width * {0: 1, 2: 3, 6: 4}[colour] * depth + 7) // 8
    packer, packed = zlib.compressobj(9), b""
    for _ in range(height):
        packed += packer.compress(bytes(row))
        if len(packed) > 80_000:
            break
    packed += packer.flush()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * 5_000 + b";"


def y4m(width: int, height: int) -> bytes:
    return f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\nFRAME\n".encode() + b"\x80" * 90_000


def avi(codec: bytes, width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    main = struct.pack("<14I", 40_000, 0, 0, 0x10, 2**31, 0, 1, 0, width, height, 0, 0, 0, 0)
    facts = 0, 0, 0, 0, 1, 25, 0, 2**31, 0, 0, 0, 0, 0, width & 0x7FFF, height & 0x7FFF
    stream = b"vids" + codec + struct.pack("<IHHIIIIIIII4H", *facts)
    picture = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, codec, 0, 0, 0, 0, 0)
    listed = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", picture))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + listed)
    movie = chunk(b"LIST", b"movi" + chunk(b"00dc", b"\xff" * 40_000))
    body = b"AVI " + header + movie
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    """A JPEG file whose frame header states another size."""
    small = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    at = small.index(b"\xff\xc0")
    return small[: at + 5] + struct.pack(">HH", height, width) + small[at + 9 :]


SOUNDS: dict[str, Callable[[], bytes]] = {
    **{
        f"a WAV of {rate} Hz": (lambda rate=rate: wav(rate))
        for rate in (0, 1, 100, 3_999, 768_001, 2**31 - 1, 2**32 - 1)
    },
    "a WAV of 65,535 channels": lambda: wav(44_100, 65_535),
    "a WAV of 255 channels": lambda: wav(4_000, 255, 8),
    "a WAV that states 4 GB": lambda: wav(4_000, 1, 8, stated=2**32 - 1),
    "an ADPCM WAV of 1 Hz": lambda: wav(1, 1, 4, 17),
    "an AU file of 1 Hz": lambda: au(1),
    "an AU file of 2**31 Hz": lambda: au(2**31),
    "an AIFF file of 1 Hz": lambda: aiff(0),
    "an AIFF file of 2**40 Hz": lambda: aiff(40),
    "a FLAC file of many hours": lambda: flac(16_000),
    "a FLAC file of eight channels": lambda: flac(16_000, channels=8),
    "a FLAC file whose blocks state 1 Hz": lambda: flac(44_100, 1),
    "a FLAC file of 1 Hz": lambda: flac(1),
    "an MP4 of 100 million samples": lambda: mp4("soun", 100_000_000),
    "an MP4 of sound that starts after ten days": lambda: mp4("soun", 20_000, 1, 2, empty=864_000_000),
    "an MP4 of sound with long steps": lambda: mp4("soun", 20_000, 2**20, 2),
    "an MP4 of sound of 1 Hz": lambda: mp4("soun", 20_000, 1, 2, scale=1),
}
VIDEOS: dict[str, Callable[[], bytes]] = {
    "a PNG of 16,000 x 16,000": lambda: png(16_000, 16_000),
    "a PNG of 11,000 x 11,000": lambda: png(11_000, 11_000),
    "a PNG of 8,000 x 4,000 with 16 bits": lambda: png(8_000, 4_000, 16, 6),
    "a PNG of 60,000 x 2,000": lambda: png(60_000, 2_000),
    "a GIF of 65,535 x 65,535": lambda: gif(65_535, 65_535),
    "a GIF of 8,000 x 4,000": lambda: gif(8_000, 4_000),
    "a Y4M of 30,000 x 30,000": lambda: y4m(30_000, 30_000),
    "a Y4M of 8,000 x 4,000": lambda: y4m(8_000, 4_000),
    "a raw AVI of 30,000 x 30,000": lambda: avi(bytes(4), 30_000, 30_000),
    "a JPEG AVI of 16,000 x 16,000": lambda: avi(b"MJPG", 16_000, 16_000),
    "an MPEG-4 AVI of 8,000 x 8,000": lambda: avi(b"XVID", 8_000, 8_000),
    "an MP4 of 100 million pictures": lambda: mp4("vide", 100_000_000),
    "a PNG of 4,096 x 2,304 with 16 bits": lambda: png(4_096, 2_304, 16, 6),
    "a JPEG of 65,000 x 65,000": lambda: jpeg(65_000, 65_000),
    "a JPEG of 8,000 x 4,000": lambda: jpeg(8_000, 4_000),
    "an MP4 of 2 million pictures": lambda: mp4("vide", 2_000_000),
}
