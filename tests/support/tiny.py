"""Tiny random networks, synthetic frames with a known face and a stub detector, for fast tests of whole runs."""

from collections.abc import Container
from fractions import Fraction
from pathlib import Path

import numpy as np

from latentsync import testing
from latentsync.face.detection.detector import Face
from latentsync.inference.models import LipsyncModels
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.testing import stand_in_models

RESOLUTION, NUM_FRAMES = 32, 4
SIZE = (96, 128)  # h, w of the scenes
POINTS = np.array([[56, 36], [76, 36], [66, 48]], dtype=np.float32)
BOX = (50.0, 30.0, 82.0, 70.0)


class StubDetector(testing.StubDetector):
    """Detects the face of `scene` in every frame that is not dark."""

    def __init__(self) -> None:
        super().__init__(Face(POINTS, BOX, 1.0))


def tiny_models() -> LipsyncModels:
    return stand_in_models(RESOLUTION, NUM_FRAMES)


def scene(index: int, dark: bool = False) -> np.ndarray:
    """A smooth frame whose red level encodes the frame's number (mod 20)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([50 + 9 * (index % 20) + 0 * x, 100 + 40 * np.sin(x / 20), 100 + 40 * np.cos(y / 15)], axis=-1)
    return (image * (0.1 if dark else 1)).astype(np.uint8)


def number(frame: np.ndarray) -> int:
    """The number (mod 20) of a frame of `scene`, from its left edge, which is outside the face."""
    return round((float(frame[:, :16, 0].mean()) - 50) / 9)


def make_video(path: Path, count: int, dark: Container[int] = (), fps: Fraction | int = 25) -> Path:
    with VideoWriter(path, VideoFormat.constant(SIZE[1], SIZE[0], fps, crf=4)) as writer:
        for index in range(count):
            writer.write(scene(index, index in dark))
    return path


def waveform(seconds: float) -> np.ndarray:
    times = np.arange(round(16_000 * seconds)) / 16_000
    return (0.3 * np.sin(2 * np.pi * 200 * times * (1 + times))).astype(np.float32)


def make_audio(path: Path, seconds: float) -> Path:
    write_wav(path, waveform(seconds))
    return path


def read(path: Path) -> list[np.ndarray]:
    return [shown.frame for shown in read_frames(path)]
