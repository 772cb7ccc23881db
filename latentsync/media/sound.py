"""The sound of an output file, fed in step with its pictures: copied where MP4 can hold the codec, else one AAC encode.

Tensor legend: c channels, n samples; sound is float32 [-1, 1] `c n`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from latentsync.media.audio import decoded_sound, late_sec
from latentsync.media.container import MediaError, PathLike, audio_stream, reason, start_sec

MP4_CODECS = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "mp3float", "opus", "libopus"}

# What the AAC encoder accepts; other rates and layouts become the fallback.
AAC_RATES_HZ = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
AAC_FALLBACK_RATE_HZ = 48_000
AAC_LAYOUTS = {"mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1"}
AAC_BITS_PER_CHANNEL = 128_000


@dataclass(frozen=True)
class AudioSource:
    """The sound of an output: the first audio stream of a media file.

    A start of 0 lets the stream be copied; any other start costs an encode and is exact to the sample.
    """

    path: PathLike
    start_sec: float = 0.0  # the second of the file that is heard with the first frame; below 0: silence first


class SoundTrack(Protocol):
    """Sound on its way into an output file."""

    def mux_until(self, time_sec: float) -> None:
        """Write what is heard before `time_sec` and no more."""

    def finish(self, duration_sec: float) -> None:
        """Write the rest up to `duration_sec`, where the sound is cut."""


def sound_track(source: AudioSource, container: InputContainer, output: OutputContainer) -> SoundTrack:
    """Add an audio stream to `output` that carries the sound of `container`; MediaError if that has none."""
    stream = audio_stream(container, source.path)
    copied = stream.codec_context.name in MP4_CODECS and source.start_sec == 0
    return CopiedSound(source, container, stream, output) if copied else EncodedSound(source, container, stream, output)


class CopiedSound:
    """Sound moved packet by packet; cut at the end of the packet in which the pictures end."""

    def __init__(self, source: AudioSource, container: InputContainer, stream: AudioStream, output: OutputContainer):
        assert stream.time_base is not None, "an opened stream has a time base"
        self.output = output
        self.stream = output.add_stream_from_template(stream)
        self.time_base = stream.time_base
        self.zero = round(start_sec(container) / self.time_base)  # in ticks of the time base
        self.packets = self._packets(source, container, stream)
        self.next = next(self.packets, None)

    def mux_until(self, time_sec: float) -> None:
        while self.next is not None and self._end_ticks(self.next) * self.time_base <= time_sec:
            self._mux(self.next)
            self.next = next(self.packets, None)

    def finish(self, duration_sec: float) -> None:
        self.mux_until(duration_sec)
        if self.next is None:
            return
        left = int(Fraction(duration_sec) / self.time_base) - (self.next.pts or 0)
        if left > 0:
            self.next.duration = left
            self._mux(self.next)

    def _packets(self, source: AudioSource, container: InputContainer, stream: AudioStream) -> Iterator[Packet]:
        try:
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None:
                    packet.pts -= self.zero
                    packet.dts = packet.pts  # the order of decoding is that of hearing
                    yield packet
        except av.error.FFmpegError as error:
            raise MediaError(f"cannot read the sound of {source.path}: {reason(error)}. Repair the file.") from error

    def _end_ticks(self, packet: Packet) -> int:
        return (packet.pts or 0) + (packet.duration or 0)

    def _mux(self, packet: Packet) -> None:
        packet.stream = self.stream
        self.output.mux(packet)


class EncodedSound:
    """Sound decoded and encoded once as AAC at the source's rate and channels; exact to the sample."""

    def __init__(self, source: AudioSource, container: InputContainer, stream: AudioStream, output: OutputContainer):
        self.output = output
        self.rate_hz = stream.rate if stream.rate in AAC_RATES_HZ else AAC_FALLBACK_RATE_HZ
        self.layout = aac_layout(stream)
        self.stream = output.add_stream("aac", rate=self.rate_hz)
        self.stream.codec_context.layout = self.layout
        self.stream.codec_context.bit_rate = AAC_BITS_PER_CHANNEL * self.stream.codec_context.channels
        self.chunks = self._chunks(source, container, stream)
        self.next = next(self.chunks, None)
        self.written = 0  # samples

    def mux_until(self, time_sec: float) -> None:
        stop = int(time_sec * self.rate_hz)
        while self.next is not None and self.written + self.next.shape[1] <= stop:
            self._encode(self.next)
            self.next = next(self.chunks, None)

    def finish(self, duration_sec: float) -> None:
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
        """The sound from `source.start_sec` on, in pieces `c n`; silence first where nothing is heard yet."""
        skip = None  # samples
        try:
            for frame in decoded_sound(container, stream, AudioResampler("fltp", self.layout, self.rate_hz)):
                chunk = frame.to_ndarray()
                if skip is None:
                    skip = round((source.start_sec - late_sec(container, stream)) * self.rate_hz)
                    yield np.zeros((chunk.shape[0], max(0, -skip)), dtype=np.float32)
                yield chunk[:, max(0, skip) :]
                skip = max(0, skip - chunk.shape[1])
        except av.error.FFmpegError as error:
            raise MediaError(f"cannot decode the sound of {source.path}: {reason(error)}. Repair the file.") from error


def aac_layout(stream: AudioStream) -> str:
    """The stream's channel layout, or the nearest that AAC has."""
    if stream.layout.name in AAC_LAYOUTS:
        return stream.layout.name
    return "mono" if stream.channels == 1 else "stereo"
