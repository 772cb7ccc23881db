"""Handlers of uploaded files: facts, errors, and frames to click on.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from latentsync.face.align import FrameArray
from latentsync.media.probe import MediaInfo
from latentsync.media.video.read import frame_times, read_frames
from web import texts, views
from web.errors import WebError
from web.orders import Inspector
from web.sentences import duration, without_folders
from web.settings import Example
from web.store import JobStore

WIDTH = 960  # px at most
MARK = (255, 80, 60)  # RGB


def client_error(error: Exception) -> gr.Error:
    """An error as Gradio sends it to the page."""
    return gr.Error(without_folders(str(error)), print_exception=False)


class Uploads:
    """Event handlers of the file fields; paths are those of Gradio's uploads."""

    def __init__(self, inspector: Inspector, store: JobStore):
        self.inspector, self.store = inspector, store

    def on_video(self, path: str | None) -> list[Any]:
        """Facts of the video, or an error, and its first frame to click on."""
        nothing = [gr.update(value=0, maximum=1), None]
        if not path:
            return ["", *nothing]
        try:
            info = self.inspector.video(self.store.uploaded(path), Path(path).name)
            frame, _ = frame_near(Path(path), 0.0)
        except (ValueError, OSError) as error:
            return [views.error_html(str(error)), *nothing]
        width, height = info.square_size
        facts = {"width": width, "height": height, "fps": round(float(info.fps), 2)}
        sentence = texts.MEDIA_FACTS.format(**facts, time=duration(info.duration_sec))
        slider = gr.update(value=0, maximum=max(0.04, round(info.duration_sec, 2)))
        return [views.facts_html(sentence), slider, for_page(frame, shown_scale(info))]

    def on_audio(self, path: str | None) -> str:
        if not path:
            return ""
        try:
            length_sec = self.inspector.sound(self.store.uploaded(path), Path(path).name)
        except (ValueError, OSError) as error:
            return views.error_html(str(error))
        return views.facts_html(texts.SOUND_FACTS.format(time=duration(length_sec)))

    def on_example(self, example: Example) -> list[str]:
        return [str(example.video), str(example.audio)]

    def on_frame_sec(self, path: str | None, time_sec: float) -> Any:
        try:
            return self._picture(path, time_sec)[0]
        except (ValueError, OSError) as error:
            raise client_error(error) from error

    def on_click(self, path: str | None, time_sec: float, event: gr.SelectData) -> list[Any]:
        """The clicked position as a choice of the face."""
        x, y = (float(number) for number in event.index)
        try:
            _, scale, shown_sec = self._picture(path, time_sec)
            x, y = x / scale, y / scale
            return [f"{x:.0f},{y:.0f}@{shown_sec:.2f}", self._picture(path, time_sec, (x, y))[0]]
        except (ValueError, OSError) as error:
            raise client_error(error) from error

    def _picture(
        self, path: str | None, time_sec: float, mark: tuple[float, float] | None = None
    ) -> tuple[Any, float, float]:
        """A frame of the video for the page, its scale, and its time in seconds."""
        if not path:
            raise WebError(texts.NEED_BOTH)
        scale = shown_scale(self.inspector.video(self.store.uploaded(path), Path(path).name))
        frame, shown_sec = frame_near(Path(path), float(time_sec or 0))
        return for_page(frame, scale, mark), scale, shown_sec


def frame_near(path: Path, time_sec: float) -> tuple[FrameArray, float]:
    """The frame shown at a time, or the last frame if the time is beyond the end, and the frame's own time in seconds."""
    times = [float(time) for time in frame_times(path)]
    number = min(int(np.searchsorted(times, time_sec + 1e-6, side="right")) - 1, len(times) - 2)
    frame = next(iter(read_frames(path, max(0, number), max(0, number) + 1))).frame
    return frame, times[max(0, number)]


def shown_scale(info: MediaInfo) -> float:
    """Width of the frame on the page divided by its width in the video, at most 1."""
    return min(1.0, WIDTH / info.square_size[0])


def for_page(frame: FrameArray, scale: float, mark: tuple[float, float] | None = None) -> FrameArray:
    """The frame at the size of the page, with a ring around `mark` (x, y in pixels of the video)."""
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    small = frame.copy() if scale == 1 else np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
    if mark is not None:
        middle = round(mark[0] * scale), round(mark[1] * scale)
        radius = max(6, min(size) // 14)
        cv2.circle(small, middle, radius, (255, 255, 255), 5, cv2.LINE_AA)
        cv2.circle(small, middle, radius, MARK, 3, cv2.LINE_AA)
    return small
