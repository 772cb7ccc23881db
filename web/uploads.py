"""What the page answers when files come: facts, faults, and pictures to click on."""

from pathlib import Path
from typing import Any

import gradio as gr

from web import texts, views
from web.api import told
from web.errors import WebError
from web.frames import for_page, frame_near, shown_scale
from web.orders import Inspector
from web.sentences import duration
from web.settings import Example


class Uploads:
    """The answers to events of the fields for files; paths are those of Gradio's uploads."""

    def __init__(self, inspector: Inspector):
        self.inspector = inspector

    def on_video(self, path: str | None) -> list[Any]:
        """Facts of the video, or what is wrong with it, and its first picture to click on."""
        nothing = [gr.update(value=0, maximum=1), None, "largest"]
        if not path:
            return ["", *nothing]
        try:
            info = self.inspector.video(path, Path(path).name)
            frame, _ = frame_near(Path(path), 0.0)
        except (ValueError, OSError) as error:
            return [views.error_html(str(error)), *nothing]
        width, height = info.square_size
        facts = {"width": width, "height": height, "fps": round(float(info.fps), 2)}
        sentence = texts.MEDIA_FACTS.format(**facts, time=duration(info.duration_sec))
        slider = gr.update(value=0, maximum=max(0.04, round(info.duration_sec, 2)))
        return [views.facts_html(sentence), slider, for_page(frame, shown_scale(info)), "largest"]

    def on_audio(self, path: str | None) -> str:
        if not path:
            return ""
        try:
            length_sec = self.inspector.sound(path, Path(path).name)
        except (ValueError, OSError) as error:
            return views.error_html(str(error))
        return views.facts_html(texts.SOUND_FACTS.format(time=duration(length_sec)))

    def on_example(self, example: Example) -> list[str]:
        return [str(example.video), str(example.audio)]

    def on_frame_sec(self, path: str | None, time_sec: float) -> Any:
        try:
            return self._picture(path, time_sec)[0]
        except (ValueError, OSError) as error:
            raise told(error) from error

    def on_click(self, path: str | None, time_sec: float, event: gr.SelectData) -> list[Any]:
        """The place that was clicked, as a choice of the face."""
        x, y = (float(number) for number in event.index)
        try:
            _, scale, shown_sec = self._picture(path, time_sec)
            x, y = x / scale, y / scale
            return [f"{x:.0f},{y:.0f}@{shown_sec:.2f}", self._picture(path, time_sec, (x, y))[0]]
        except (ValueError, OSError) as error:
            raise told(error) from error

    def _picture(
        self, path: str | None, time_sec: float, mark: tuple[float, float] | None = None
    ) -> tuple[Any, float, float]:
        """A picture of the video for the page, its scale, and its time."""
        if not path:
            raise WebError(texts.NEED_BOTH)
        scale = shown_scale(self.inspector.video(path, Path(path).name))
        frame, shown_sec = frame_near(Path(path), float(time_sec or 0))
        return for_page(frame, scale, mark), scale, shown_sec
