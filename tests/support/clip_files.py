"""Small aligned clips for tests: moving stripes, and noise whose amplitude is proportional to their speed."""

from pathlib import Path

import numpy as np

from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter

SIDE, FRAMES = 64, 40


def write_clip(
    path: Path,
    seed: int,
    frames: int = FRAMES,
    fps: int = 25,
    sound: bool = True,
    width: int = SIDE,
    loudness: float = 0.1,
) -> Path:
    """Write a clip that depends only on its seed, and in which all frames differ; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    wav = path.with_suffix(".wav")
    steps = rng.uniform(1, 9, frames)
    samples = 16000 // fps
    write_wav(
        wav, (loudness * np.repeat(steps / 9, samples) * rng.standard_normal(frames * samples)).astype(np.float32)
    )
    x = np.arange(width)[None, :] + np.arange(SIDE)[:, None]
    with VideoWriter(
        path, VideoFormat.constant(width, SIDE, fps, crf=10), AudioSource(wav) if sound else None
    ) as writer:
        for place in np.cumsum(steps):
            level = 128 + 100 * np.sin((x + place) / 12 + seed)
            writer.write(np.repeat(level[..., None], 3, axis=2).astype(np.uint8))
    wav.unlink()
    return path
