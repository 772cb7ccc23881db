"""A picture of an uploaded video to click on.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

from pathlib import Path

import cv2
import numpy as np

from latentsync.face.align import FrameArray
from latentsync.media.probe import MediaInfo
from latentsync.media.video.read import frame_times, read_frames

WIDTH = 960  # px at most
MARK = (255, 80, 60)  # RGB


def frame_near(path: Path, time_sec: float) -> tuple[FrameArray, float]:
    """The frame shown at a time (or the last one before the end) and its time in seconds."""
    times = [float(time) for time in frame_times(path)]
    number = min(int(np.searchsorted(times, time_sec + 1e-6, side="right")) - 1, len(times) - 2)
    frame = next(iter(read_frames(path, max(0, number), max(0, number) + 1))).frame
    return frame, times[max(0, number)]


def shown_scale(info: MediaInfo) -> float:
    """Width of the picture on the page over the width of the video."""
    return min(1.0, WIDTH / info.square_size[0])


def for_page(frame: FrameArray, scale: float, mark: tuple[float, float] | None = None) -> FrameArray:
    """The frame as the page shows it, with a ring around `mark`, which is in pixels of the video."""
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    small = frame.copy() if scale == 1 else np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
    if mark is not None:
        middle = round(mark[0] * scale), round(mark[1] * scale)
        radius = max(6, min(size) // 14)
        cv2.circle(small, middle, radius, (255, 255, 255), 5, cv2.LINE_AA)
        cv2.circle(small, middle, radius, MARK, 3, cv2.LINE_AA)
    return small
