"""Other sound in some spans of an audio track, whose packets are copied around them.

PCM is exact to the sample. A packet of AAC (ISO/IEC 14496-3) holds half of its own and half of the next 1024 samples, and the
decoder adds both halves. So that all samples outside a span stay equal, the packets that touch them are kept, and in the 1024
samples where old and new packets meet, the new ones repeat the old sound: the new one begins up to 2048 samples later and ends
as much earlier than the span.

Tensor legend: c channels, n samples; audio is float32 [-1, 1] `c n`. Positions are in samples of the track.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet

from latentsync.media.container import USUAL_LAYOUTS

FADE_SEC = 0.005  # at both ends of a span, against clicks
AAC_FRAME = 1024  # samples of a packet of AAC-LC
MARGIN = 8 * AAC_FRAME  # samples before and after a span that are decoded too, until decoder and encoder have settled
LOW_COMPLEXITY = "LC"


@dataclass(frozen=True)
class Insert:
    """Sound that replaces a track's own from the sample `start` on."""

    start: int
    sound: np.ndarray  # c n
    fade: int  # samples at both ends

    @property
    def stop(self) -> int:
        return self.start + self.sound.shape[1]

    def between(self, start: int, stop: int) -> "Insert":
        """The part of it that lies between two positions; it may be empty."""
        start, stop = max(start, self.start), min(stop, self.stop)
        return Insert(start, self.sound[:, start - self.start : max(start, stop) - self.start], self.fade)

    def blend_into(self, samples: np.ndarray, place: int) -> None:
        """Replace the sound of `samples` `c n`, which begin at `place`, in place."""
        start, stop = max(self.start, place), min(self.stop, place + samples.shape[1])
        if start < stop:
            gain = edge_gain(np.arange(start, stop), self.start, self.stop, self.fade)
            old, new = samples[:, start - place : stop - place], self.sound[:, start - self.start : stop - self.start]
            old += gain * (new - old)


def edge_gain(at: np.ndarray, start: int, stop: int, fade: int) -> np.ndarray:
    """Gain, float32 [n], at the positions `at` of sound from `start` to `stop`, which fades over `fade` samples at both ends."""
    return (np.minimum(at - start + 1, stop - at) / (fade + 1)).clip(0, 1).astype(np.float32)


def overlaid(chunks: Iterator[np.ndarray], inserts: Sequence[Insert]) -> Iterator[np.ndarray]:
    """Chunks `c n` of a track with other sound in some spans; silence follows where the track ends before the last of them."""
    place = 0
    for chunk in chunks:
        samples = np.array(chunk)
        for insert in inserts:
            insert.blend_into(samples, place)
        place += samples.shape[1]
        yield samples
    if inserts and place < inserts[-1].stop:
        rest = np.zeros((inserts[-1].sound.shape[0], inserts[-1].stop - place), np.float32)
        yield from overlaid(iter([rest]), [Insert(each.start - place, each.sound, each.fade) for each in inserts])


def can_splice(stream: AudioStream) -> bool:
    """Whether packets of a track can be copied around others."""
    context = stream.codec_context
    try:
        encoded(np.zeros((stream.channels, MARGIN), np.float32), stream, None)
        encoder = encoder_like(stream)
    except (av.error.FFmpegError, ValueError):  # no such encoder, or not for its channels
        return False
    if context.name != "aac":
        return context.name.startswith("pcm_")
    is_usual = context.profile == LOW_COMPLEXITY and context.frame_size == AAC_FRAME
    return is_usual and (context.extradata or b"")[:2] == (encoder.extradata or b"")[:2]


def layout_of(stream: AudioStream) -> str:
    """The channel layout of a track, the usual one if it states none."""
    return USUAL_LAYOUTS.get(stream.channels, stream.layout.name)


def encoder_like(stream: AudioStream, bits_per_sec: int | None = None) -> AudioCodecContext:
    """An open encoder for packets of a track's codec, rate and channels."""
    encoder = AudioCodecContext.create(stream.codec_context.name, "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.layout = stream.rate, layout_of(stream)
    assert encoder.codec.audio_formats, "every encoder of sound states its formats"
    encoder.format = encoder.codec.audio_formats[0]
    if bits_per_sec:
        encoder.bit_rate = bits_per_sec
    encoder.open()
    return encoder


def spliced_packets(
    packets: Iterator[Packet], stream: AudioStream, inserts: Sequence[Insert], bits_per_sec: int
) -> Iterator[Packet]:
    """The packets of a track (of `sound_packets`), with others in the spans of `inserts`, which rise and are disjoint.

    AAC is encoded at `bits_per_sec`.
    """
    splice: Callable[..., list[Packet]] = _spliced_aac if stream.codec_context.name == "aac" else _spliced_pcm
    held: list[Packet] = []
    for group in grouped(inserts):
        for packet in packets:
            if stop_of(packet) > group[0].start - MARGIN:
                held.append(packet)
                if start_of(packet) >= group[-1].stop + MARGIN:
                    break
            else:
                yield packet
        yield from splice(held, stream, group, bits_per_sec)
        held = []
    yield from chain(held, packets)


def grouped(inserts: Sequence[Insert]) -> list[list[Insert]]:
    """Inserts so close to each other that the margins around them touch."""
    groups: list[list[Insert]] = []
    for insert in inserts:
        if groups and insert.start - groups[-1][-1].stop < 3 * MARGIN:
            groups[-1].append(insert)
        else:
            groups.append([insert])
    return groups


def _spliced_pcm(held: list[Packet], stream: AudioStream, inserts: Sequence[Insert], _: int) -> list[Packet]:
    sample_bytes = bytes_per_sample(stream)
    result = []
    for packet in held:
        start, content = start_of(packet), bytearray(bytes(packet))
        for insert in inserts:
            part = insert.between(start, stop_of(packet))
            if part.sound.shape[1]:
                samples = as_planes(decoded([packet], stream), stream)
                insert.blend_into(samples, start)
                first = part.start - start
                new = b"".join(map(bytes, encoded(samples[:, first : first + part.sound.shape[1]], stream, None)))
                content[first * sample_bytes : first * sample_bytes + len(new)] = new
        result.append(packet if bytes(content) == bytes(packet) else like(packet, bytes(content)))
    return result


def bytes_per_sample(stream: AudioStream) -> int:
    """Bytes of one sample of all channels of PCM."""
    return int("".join(filter(str.isdigit, stream.codec_context.name))) // 8 * stream.channels


def _spliced_aac(held: list[Packet], stream: AudioStream, inserts: Sequence[Insert], bits_per_sec: int) -> list[Packet]:
    if not held:
        return []
    samples = as_planes(decoded(held, stream), stream)
    starts = np.array([start_of(packet) for packet in held])
    replaced: list[tuple[int, int]] = []  # packets from ... to, of `held`
    for insert in inserts:
        # the packets with the last sample before the span, and with the first after it; without one all can be new
        before = int(np.searchsorted(starts, insert.start)) - 1 if insert.start > max(0, starts[0]) else -2
        after = int(np.searchsorted(starts, insert.stop, side="right")) - 1
        after = after if insert.stop < stop_of(held[-1]) else len(held) + 1
        replaced.append((before + 1, after - 1))
        new_only = range(before + 2, after - 1)  # packets with new sound alone; there may be gaps between packets
        if new_only:
            part = insert.between(int(starts[new_only[0]]), int(starts[new_only[-1]]) + AAC_FRAME)
            for index in new_only:
                part.blend_into(samples[:, index * AAC_FRAME : (index + 1) * AAC_FRAME], int(starts[index]))
    new = encoded(samples, stream, bits_per_sec)[1:]  # the first one holds half of what was before
    return [
        like(packet, bytes(new[index])) if any(start <= index < stop for start, stop in replaced) else packet
        for index, packet in enumerate(held)
    ]


def decoded(packets: Sequence[Packet], stream: AudioStream) -> list[AudioFrame]:
    """The sound of consecutive packets of a track."""
    decoder = AudioCodecContext.create(stream.codec_context.name, "r")
    assert isinstance(decoder, AudioCodecContext)
    decoder.sample_rate, decoder.layout = stream.rate, layout_of(stream)
    if stream.codec_context.extradata:
        decoder.extradata = stream.codec_context.extradata
    plain = (Packet(bytes(packet)) for packet in packets)  # without marks of samples to be skipped
    return [frame for packet in (*plain, None) for frame in decoder.decode(packet)]


def as_planes(frames: Sequence[AudioFrame], stream: AudioStream) -> np.ndarray:
    """Decoded sound as one array."""
    resampler = AudioResampler("fltp", layout_of(stream), stream.rate)
    planes = []
    for frame in frames:
        frame.pts = None
        planes += [part.to_ndarray() for part in resampler.resample(frame)]
    return np.concatenate(planes, axis=1)


def encoded(samples: np.ndarray, stream: AudioStream, bits_per_sec: int | None) -> list[Packet]:
    """Packets of a track's codec with the sound `samples` `c n`."""
    encoder = encoder_like(stream, bits_per_sec)
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout_of(stream))
    frame.sample_rate = stream.rate
    resampler = AudioResampler(encoder.format, layout_of(stream), stream.rate, encoder.frame_size or None)
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return [packet for part in (*frames, None) for packet in encoder.encode(part)]


def like(packet: Packet, content: bytes) -> Packet:
    """A packet with other content at the same place."""
    other = Packet(content)
    other.pts, other.dts, other.time_base, other.duration = packet.pts, packet.dts, packet.time_base, packet.duration
    return other


def start_of(packet: Packet) -> int:
    """The sample at which a packet of `sound_packets` begins."""
    assert packet.pts is not None, "its packets have times"
    return packet.pts


def stop_of(packet: Packet) -> int:
    """The sample after the last of a packet of `sound_packets`."""
    return start_of(packet) + (packet.duration or 0)
