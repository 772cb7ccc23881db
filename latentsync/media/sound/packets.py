"""The packets of an audio stream with times in exact samples, also where a container rounds them."""

from collections.abc import Iterator
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from latentsync.media.container import MediaError, PathLike, reason

PREROLL_SEC = 0.25  # packets from this long before the start are kept: decoders need some to start
OPUS_STEP_HZ = 400  # the shortest Opus frame is 2.5 ms, all others are multiples of it (RFC 6716, 2.1.4)


def sound_packets(container: InputContainer, stream: AudioStream, path: PathLike) -> Iterator[Packet]:
    """The packets of a stream; `pts` and `duration` are in samples, and 0 is the start of the file as players count it.

    Samples that are decoded but not played (the codec delay) have times before 0. Times that the container rounds to
    milliseconds become exact: a packet begins where the one before it ends, unless there is a gap.

    Raises MediaError if the file cannot be read to its end.
    """
    assert stream.time_base is not None, "an opened stream has a time base"
    tick = Fraction(stream.time_base) * stream.rate  # samples
    zero = Fraction(container.start_time or 0, av.time_base) * stream.rate  # samples
    tolerance = max(Fraction(1), 2 * tick)
    expected = -stream.codec_context.delay
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.pts is None:
                continue
            stated = packet.pts * tick - zero
            start = expected if abs(stated - expected) <= tolerance else round(stated)
            samples = packet_samples(packet, stream, tick)
            expected = start + samples
            packet.time_base = Fraction(1, stream.rate)
            packet.pts = packet.dts = start  # audio is decoded in the order of playing
            packet.duration = samples
            if start >= -PREROLL_SEC * stream.rate:
                yield packet
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"cannot read the sound of {path}: {reason(error)}. Repair the file.") from error


def packet_samples(packet: Packet, stream: AudioStream, tick: Fraction) -> int:
    """The number of samples in a packet; from the codec where the container's time base is coarser than a sample."""
    stated = (packet.duration or 0) * tick
    if tick <= 1:
        return round(stated)
    if stream.codec_context.frame_size:
        return stream.codec_context.frame_size
    if stream.codec_context.codec.canonical_name == "opus":
        step = stream.rate // OPUS_STEP_HZ
        return round(stated / step) * step
    return round(stated)
