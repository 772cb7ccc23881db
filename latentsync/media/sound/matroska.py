"""The header of a Matroska file with one audio track, by which libav's muxer gets a codec delay.

Audio that is copied from an MP4 or MP3 file begins with samples that are decoded but not played. Matroska states their
duration in the element CodecDelay (RFC 9559, 5.1.4.1.25). libav's muxer writes it for a stream with a delay, and PyAV offers
no way to set that delay but to read it from a Matroska file.
"""

import io
import struct

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

CODEC_IDS = {"aac": b"A_AAC", "mp3": b"A_MPEG/L3"}
NANOSECONDS = 1_000_000_000

# element identifiers, RFC 9559 section 5
EBML, DOC_TYPE = 0x1A45DFA3, 0x4282
SEGMENT, INFO, TIMESTAMP_SCALE, TRACKS, CLUSTER, TIMESTAMP = (
    0x18538067,
    0x1549A966,
    0x2AD7B1,
    0x1654AE6B,
    0x1F43B675,
    0xE7,
)
TRACK, NUMBER, UID, KIND, CODEC_ID, CODEC_PRIVATE, CODEC_DELAY = 0xAE, 0xD7, 0x73C5, 0x83, 0x86, 0x63A2, 0x56AA
AUDIO, SAMPLING_FREQUENCY, CHANNELS = 0xE1, 0xB5, 0x9F
KIND_AUDIO = 2


def delayed_track(stream: AudioStream, delay_samples: int) -> InputContainer:
    """An in-memory Matroska file whose only stream has the encoding of `stream` (AAC or MP3) and a codec delay."""
    context = stream.codec_context
    track = [
        element(NUMBER, b"\x01"),
        element(UID, b"\x01"),
        element(KIND, bytes([KIND_AUDIO])),
        element(CODEC_ID, CODEC_IDS[context.codec.canonical_name]),
        element(CODEC_DELAY, round(delay_samples * NANOSECONDS / stream.rate).to_bytes(8, "big")),
        element(CODEC_PRIVATE, context.extradata) if context.extradata else b"",
        element(
            AUDIO,
            element(SAMPLING_FREQUENCY, struct.pack(">d", stream.rate)) + element(CHANNELS, bytes([stream.channels])),
        ),
    ]
    segment = [
        element(INFO, element(TIMESTAMP_SCALE, (1_000_000).to_bytes(4, "big"))),
        element(TRACKS, element(TRACK, b"".join(track))),
        element(CLUSTER, element(TIMESTAMP, b"\x00")),
    ]
    file = element(EBML, element(DOC_TYPE, b"matroska")) + element(SEGMENT, b"".join(segment))
    return av.open(io.BytesIO(file), "r", format="matroska")


def element(identifier: int, content: bytes) -> bytes:
    """An EBML element: its identifier, its length as eight bytes, its content (RFC 8794)."""
    length = (len(content) | 1 << 56).to_bytes(8, "big")
    return identifier.to_bytes(-(-identifier.bit_length() // 8), "big") + length + content
