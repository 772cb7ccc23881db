"""The audio track of an output file, interleaved with its video: copied where the container can hold the codec, else AAC.

Tensor legend: c channels, n samples; audio is float32 [-1, 1] `c n`.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Protocol

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from latentsync.media.container import MediaError, PathLike, audio_stream, open_input, reason
from latentsync.media.sound.matroska import CODEC_IDS, delayed_track
from latentsync.media.sound.mix import Placed, summed
from latentsync.media.sound.packets import PREROLL_SEC, sound_packets
from latentsync.media.sound.read import decoded_sound, late_sec, stated_sec
from latentsync.media.sound.splice import (
    FADE_SEC,
    Insert,
    bytes_per_sample,
    can_splice,
    layout_of,
    overlaid,
    spliced_packets,
    start_of,
    stop_of,
)

# Codecs that are copied into each container: its players support them, and their timing is preserved.
_EVERYWHERE = {"aac", "mp3", "ac3", "eac3", "alac"}
_PCM = {f"pcm_{kind}" for kind in ("u8", "s16le", "s16be", "s24le", "s24be", "s32le", "s32be", "f32le", "f32be")}
COPIED_CODECS = {
    "mp4": _EVERYWHERE | {"flac", "opus"},
    "mov": _EVERYWHERE | _PCM,
    "matroska": _EVERYWHERE | _PCM - {"pcm_s24be", "pcm_s32be", "pcm_f32be"} | {"flac", "opus", "vorbis", "mp2", "dts"},
}

# Accepted by the AAC encoder; other rates are resampled to the fallback, other layouts mixed to stereo or mono.
AAC_RATES_HZ = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
AAC_FALLBACK_RATE_HZ = 48_000
AAC_LAYOUTS = {"mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1"}
AAC_BITS_PER_CHANNEL = 128_000
SHORTER_SEC = 0.1  # by which a track may end before the last span that is replaced in it, and is still copied around it


@dataclass(frozen=True)
class AudioSource:
    """The audio of an output: the default audio track of a media file, or the one selected by a `ChosenTracks`.

    With a start of 0 the stream may be copied; any other start needs an encode and is exact to the sample.
    """

    path: PathLike
    start_sec: float = 0.0  # position in the file that plays with the first frame; below 0: silence first
    replaced: tuple[
        "PlacedSound", ...
    ] = ()  # spans with other sound, rising; packets around them are copied if possible
    is_muted: bool = False  # only what replaces it plays
    # sounds whose sum is the audio; then `path` is the file whose sample rate and channels it gets, and no more
    summed: tuple["PlacedSound", ...] = ()


@dataclass(frozen=True)
class PlacedSound:
    """A span of an output in which `source` plays from its start on; seconds from the first frame."""

    start_sec: Fraction
    stop_sec: Fraction
    source: AudioSource


class SoundTrack(Protocol):
    """An audio track that is being written."""

    def mux_until(self, time_sec: Fraction) -> None:
        """Write the audio up to `time_sec`."""

    def finish(self, duration_sec: Fraction) -> None:
        """Write the remaining audio up to `duration_sec`, where it is cut."""


def check_sound(source: AudioSource) -> None:
    """Raise MediaError if a source cannot be read or has no audio."""
    with open_input(source.path) as container:
        audio_stream(container, source.path)


def sound_track(source: AudioSource, container: InputContainer, output: OutputContainer) -> SoundTrack:
    """Add an audio stream to `output` with the audio of `container`; MediaError if that has none."""
    stream = audio_stream(container, source.path)
    codec = stream.codec_context.codec.canonical_name
    copied = codec in COPIED_CODECS[output.format.name] and not source.summed
    copied = copied and (is_spliced(source, stream) if source.replaced else source.start_sec == 0)
    return CopiedSound(source, container, stream, output) if copied else EncodedSound(source, container, stream, output)


def is_spliced(source: AudioSource, stream: AudioStream) -> bool:
    """Whether a track's packets can be copied around the spans that are replaced."""
    missing_sec = float(source.replaced[-1].stop_sec) + source.start_sec - stated_sec(source.path)
    return not source.is_muted and can_splice(stream) and missing_sec < SHORTER_SEC


def keeps_packets(source: AudioSource, suffix_format: str) -> bool:
    """Whether the packets of a source are copied, if only around spans that are replaced, into a container of that format."""
    with open_input(source.path) as container:
        stream = audio_stream(container, source.path)
        codec = stream.codec_context.codec.canonical_name
        return codec in COPIED_CODECS[suffix_format] and is_spliced(source, stream)


def inserts_of(source: AudioSource, rate_hz: int, layout: str, at_sec: float = 0.0) -> list[Insert]:
    """The sound that replaces a source's own; it is `at_sec` later than in the output."""
    return [
        Insert(
            round((float(span.start_sec) + at_sec) * rate_hz),
            sound_of(span.source, round((span.stop_sec - span.start_sec) * rate_hz), rate_hz, layout),
            round(FADE_SEC * rate_hz),
        )
        for span in source.replaced
    ]


def sum_of(sounds: Sequence[PlacedSound], rate_hz: int, layout: str) -> Iterator[np.ndarray]:
    """The sum of sounds in pieces `c n`, without clipping (see `latentsync.media.sound.mix`)."""

    def chunks(source: AudioSource) -> Generator[np.ndarray, None, None]:
        with open_input(source.path) as container:
            yield from chunks_of(source, container, audio_stream(container, source.path), rate_hz, layout)

    placed = [
        Placed(
            round(sound.start_sec * rate_hz),
            round(sound.stop_sec * rate_hz),
            partial(chunks, sound.source),
            round(FADE_SEC * rate_hz),
        )
        for sound in sounds
    ]
    return summed(placed, AudioLayout(layout).nb_channels)


def sound_of(source: AudioSource, count: int, rate_hz: int, layout: str) -> np.ndarray:
    """The first `count` samples of a source, `c n`; silence after its end."""
    with open_input(source.path) as container:
        pieces, missing = [], count
        for chunk in chunks_of(source, container, audio_stream(container, source.path), rate_hz, layout):
            pieces.append(chunk[:, :missing])
            missing -= pieces[-1].shape[1]
            if not missing:
                break
    return np.pad(np.concatenate(pieces, axis=1), ((0, 0), (0, missing)))


class CopiedSound:
    """Audio copied packet by packet; the duration of the last packet is set so that it ends with the video."""

    def __init__(self, source: AudioSource, container: InputContainer, stream: AudioStream, output: OutputContainer):
        self.output = output
        self.rate_hz = stream.rate
        self.sample_bytes = bytes_per_sample(stream) if stream.codec_context.name in _PCM else 0
        self.packets = self._packets(source, container, stream)
        self.next = next(self.packets, None)
        self.stream = output.add_stream_from_template(self._template(stream), opaque=True)

    def _packets(self, source: AudioSource, container: InputContainer, stream: AudioStream) -> Iterator[Packet]:
        """The packets of a source, spliced; with positions from the first frame on."""
        packets = sound_packets(container, stream, source.path)
        if not source.replaced:
            return packets
        inserts = inserts_of(source, stream.rate, layout_of(stream), source.start_sec)
        spliced = spliced_packets(packets, stream, inserts, AAC_BITS_PER_CHANNEL * stream.channels)
        return earlier_packets(spliced, round(source.start_sec * stream.rate), round(PREROLL_SEC * stream.rate))

    def mux_until(self, time_sec: Fraction) -> None:
        stop = time_sec * self.rate_hz
        while self.next is not None and stop_of(self.next) <= stop:
            self._mux(self.next)
            self.next = next(self.packets, None)

    def finish(self, duration_sec: Fraction) -> None:
        self.mux_until(duration_sec)
        if self.next is not None and (left := round(duration_sec * self.rate_hz) - start_of(self.next)) > 0:
            self._mux(self._cut(self.next, left))

    def _cut(self, packet: Packet, samples: int) -> Packet:
        """A packet that ends after some samples: PCM is shortened, for other codecs only the stated duration is."""
        cut = Packet(bytes(packet)[: samples * self.sample_bytes]) if self.sample_bytes else packet
        cut.pts, cut.dts, cut.time_base, cut.duration = packet.pts, packet.dts, packet.time_base, samples
        return cut

    def _template(self, stream: AudioStream) -> AudioStream:
        """The stream, or for Matroska one like it that states the codec delay."""
        early = 0 if self.next is None else -start_of(self.next)
        delayed = early > 0 and self.output.format.name == "matroska"
        if not delayed or stream.codec_context.codec.canonical_name not in CODEC_IDS:
            return stream
        self.header = delayed_track(stream, early)  # kept open as long as its stream is used
        return self.header.streams.audio[0]

    def _mux(self, packet: Packet) -> None:
        packet.stream = self.stream
        self.output.mux(packet)


def earlier_packets(packets: Iterator[Packet], samples: int, preroll: int) -> Iterator[Packet]:
    """Packets moved by `samples` to earlier times, without those that end more than `preroll` samples before 0."""
    for packet in packets:
        packet.pts = packet.dts = start_of(packet) - samples
        if packet.pts >= -preroll:
            yield packet


class EncodedSound:
    """Audio decoded and encoded once as AAC at the source's rate and channels; exact to the sample."""

    def __init__(self, source: AudioSource, container: InputContainer, stream: AudioStream, output: OutputContainer):
        self.output = output
        self.rate_hz = stream.rate if stream.rate in AAC_RATES_HZ else AAC_FALLBACK_RATE_HZ
        self.layout = aac_layout(stream)
        self.stream = output.add_stream("aac", rate=self.rate_hz)
        self.stream.codec_context.layout = self.layout
        self.stream.codec_context.bit_rate = AAC_BITS_PER_CHANNEL * self.stream.codec_context.channels
        self.chunks = self._chunks(source, container, stream)
        if source.replaced:
            self.chunks = overlaid(self.chunks, inserts_of(source, self.rate_hz, self.layout))
        self.next = next(self.chunks, None)
        self.written = 0  # samples

    def mux_until(self, time_sec: Fraction) -> None:
        stop = int(time_sec * self.rate_hz)
        while self.next is not None and self.written + self.next.shape[1] <= stop:
            self._encode(self.next)
            self.next = next(self.chunks, None)

    def finish(self, duration_sec: Fraction) -> None:
        self.mux_until(duration_sec)
        left = round(duration_sec * self.rate_hz) - self.written
        if self.next is not None and left > 0:
            self._encode(self.next[:, :left])
        if self.written:
            self.output.mux(self.stream.encode(None))

    def _encode(self, chunk: np.ndarray) -> None:
        if chunk.shape[1] == 0:
            return
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(chunk), format="fltp", layout=self.layout)
        frame.sample_rate = self.rate_hz
        frame.time_base = Fraction(1, self.rate_hz)
        frame.pts = self.written
        self.written += chunk.shape[1]
        self.output.mux(self.stream.encode(frame))

    def _chunks(self, source: AudioSource, container: InputContainer, stream: AudioStream) -> Iterator[np.ndarray]:
        if source.summed:
            return sum_of(source.summed, self.rate_hz, self.layout)
        chunks = chunks_of(source, container, stream, self.rate_hz, self.layout)
        return (np.zeros_like(chunk) for chunk in chunks) if source.is_muted else chunks


def chunks_of(
    source: AudioSource, container: InputContainer, stream: AudioStream, rate_hz: int, layout: str
) -> Iterator[np.ndarray]:
    """The audio from `source.start_sec` on, in pieces `c n`; preceded by silence where it starts later."""
    skip = None  # samples
    try:
        for frame in decoded_sound(container, stream, AudioResampler("fltp", layout, rate_hz)):
            chunk = frame.to_ndarray()
            if skip is None:
                skip = round((source.start_sec - late_sec(container, stream)) * rate_hz)
                yield np.zeros((chunk.shape[0], max(0, -skip)), dtype=np.float32)
            yield chunk[:, max(0, skip) :]
            skip = max(0, skip - chunk.shape[1])
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot decode the sound of {source.path}: {reason(error)}. Repair the file.") from error


def aac_layout(stream: AudioStream) -> str:
    """The stream's channel layout, or mono or stereo if the AAC encoder lacks it."""
    if stream.layout.name in AAC_LAYOUTS:
        return stream.layout.name
    return "mono" if stream.channels == 1 else "stereo"
