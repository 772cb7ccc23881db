"""Small video and audio files for tests of latentsync/media, written with PyAV in any codec, time base and container."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from latentsync.media.sound.copy import AudioSource
from latentsync.media.video.write import VideoFormat, VideoWriter

MILLISECONDS = Fraction(1, 1000)
NATIVE_RATES = [
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
]


def numbered(count: int) -> list[np.ndarray]:
    """`count` uniform grey frames; neighbours differ by 4 levels, so frames can be identified."""
    return [np.full((32, 48, 3), 20 + 4 * index % 200, dtype=np.uint8) for index in range(count)]


def grey(frame: np.ndarray) -> int:
    return int(frame[8:-8, 8:-8].mean().round())


def patches(height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """Uniform 16 px patches of random colours, uint8 [h, w, 3]."""
    colours = np.random.default_rng(seed).integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return np.repeat(np.repeat(colours, 16, axis=0), 16, axis=1)[:height, :width]


def moving(count: int, height: int = 48, width: int = 64, seed: int = 0) -> list[np.ndarray]:
    """`count` frames of moving noise; all frames differ."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [np.roll(noise, (2 * index, 3 * index), (0, 1)) for index in range(count)]


def write(path: Path, frames: list[np.ndarray], fps: Fraction | float = 25, audio: AudioSource | None = None) -> Path:
    """Write frames at a constant rate with `VideoWriter`; returns the path."""
    height, width, _ = frames[0].shape
    with VideoWriter(path, VideoFormat.constant(width, height, fps), audio) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def write_timed(path: Path, frames: list[np.ndarray], ticks: Sequence[int], form: VideoFormat) -> Path:
    """Write frames with the timestamps `ticks`, of which the last is the end of the video; returns the path."""
    with VideoWriter(path, form) as writer:
        for frame, start, stop in zip(frames, ticks, ticks[1:], strict=False):
            writer.write(frame, int(start), int(stop - start))
    return path


def store(
    path: Path,
    frames: list[np.ndarray],
    ticks: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    gop: int = 12,
    b_frames: int | None = None,
    fps: Fraction | None = None,
    sound: bool = False,
) -> Path:
    """Write frames with the given timestamps directly with PyAV; the suffix of `path` selects the container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps or 1 / time_base, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = gop
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if sound:
            audio = container.add_stream("aac", rate=48_000)
            audio.codec_context.layout = "mono"
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 48_000, 0, Fraction(1, 48_000)
            container.mux(audio.encode(silence) + audio.encode(None))
        for index, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = index if ticks is None else ticks[index], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tone(seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def click(at_sec: float, seconds: float, rate_hz: int) -> np.ndarray:
    """Silence with 400 samples of a loud square wave from `at_sec` on."""
    waveform = np.zeros(round(seconds * rate_hz), dtype=np.float32)
    start = round(at_sec * rate_hz)
    waveform[start : start + 400] = 0.8 * np.sign(np.sin(np.arange(400) * 0.3 + 0.1))
    return waveform


def store_sound(path: Path, waveform: np.ndarray, rate_hz: int, codec: str, layout: str = "mono") -> Path:
    """Write audio encoded by `codec`; the suffix of `path` selects the container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz)
        stream.codec_context.layout = layout
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        resampler = av.AudioResampler(stream.codec_context.format or "fltp", layout, rate_hz)
        for part in resampler.resample(frame) + resampler.resample(None):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path
