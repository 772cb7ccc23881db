"""Handlers of uploaded files: facts, errors, and frames to click on.

Tensor legend: h height, w width; a frame is uint8 [0, 255] `h w 3`, RGB.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from latentsync.face.align import FrameArray
from latentsync.face.detection.detector import Box
from latentsync.media.probe import MediaInfo
from latentsync.media.video.read import frame_times, read_frames
from web import texts, views
from web.errors import WebError
from web.faces import FaceFinder, chosen_of, face_of, framed, nearest, place_of
from web.orders import Inspector
from web.sentences import amount, duration, without_folders
from web.settings import MAX_PEOPLE, Example
from web.store import JobStore

WIDTH = 960  # px at most
NO_FACES: Any = gr.update(choices=[], value=None, visible=False)


def client_error(error: Exception) -> gr.Error:
    """An error as Gradio sends it to the page."""
    return gr.Error(without_folders(str(error)), print_exception=False)


class Uploads:
    """Event handlers of the file fields; paths are those of Gradio's uploads."""

    def __init__(self, inspector: Inspector, store: JobStore):
        self.inspector, self.store, self.finder = inspector, store, FaceFinder()

    def on_video(self, path: str | None, face: str, given: str) -> list[Any]:
        """Facts of the video, or an error, the sliders of its seconds, and its first frame to click on, or that of the people whose
        audio was `given`."""
        nothing = [gr.update(value=0, maximum=1), gr.update(maximum=1), None, NO_FACES, ""]
        if not path:
            return ["", *nothing]
        try:
            info = self.inspector.video(self.store.uploaded(path), Path(path).name)
            shown_sec = min(shown_sec_of(given_sounds(given, path)), info.duration_sec)
            picture = self._picture(path, shown_sec, face)
        except (ValueError, OSError) as error:
            return [views.error_html(str(error)), *nothing]
        width, height = info.square_size
        facts = {"width": width, "height": height, "fps": round(float(info.fps), 2)}
        sentence = texts.MEDIA_FACTS.format(**facts, time=duration(info.duration_sec))
        last_sec = max(0.04, round(info.duration_sec, 2))
        return [
            views.facts_html(sentence),
            gr.update(value=shown_sec, maximum=last_sec),
            gr.update(maximum=last_sec),
            *picture.shown(),
        ]

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

    def on_frame(self, path: str | None, time_sec: float, face: str) -> list[Any]:
        """The frame of another second, or with another choice of the face, its faces, and a sentence about them."""
        if not path:
            return [None, NO_FACES, ""]
        try:
            return self._picture(path, time_sec, face).shown()
        except (ValueError, OSError) as error:
            raise client_error(error) from error

    def on_people(self, path: str | None, time_sec: float, given: str) -> list[Any]:
        """The people of a picture if there are several: a row for each, where its face is, its picture, its audio if `given`."""
        try:
            seen = self._picture(path, time_sec)
        except (ValueError, OSError):  # the field of the video tells it
            seen = None
        boxes = [] if seen is None or not 1 < len(seen.boxes) <= MAX_PEOPLE else seen.boxes
        shown = [number < len(boxes) for number in range(MAX_PEOPLE)]
        pictures = [
            None if seen is None or not there else face_of(seen.frame, box) for there, box in zip_longest(shown, boxes)
        ]
        places = [] if seen is None else [place_of(box, seen.time_sec) for box in boxes]
        rows = [gr.update(visible=there) for there in shown]
        return [
            gr.update(visible=bool(boxes)),
            json.dumps(places),
            *rows,
            *pictures,
            *self._sounds(path, places, given),
        ]

    def _sounds(self, path: str | None, places: Sequence[str], given: str) -> list[str | None]:
        """The audio that was given to each of the people of a picture, as far as it is still on the server."""
        sounds: list[str | None] = [None] * MAX_PEOPLE
        for number, place in enumerate(places[:MAX_PEOPLE]):
            with suppress(KeyError, WebError):
                sounds[number] = str(self.store.uploaded(given_sounds(given, path)[place]))
        return sounds

    def on_sounds(self, path: str | None, places: str, *sounds: str | None) -> str:
        """What the page keeps of the audio of people: JSON, the video and the file of each place."""
        return json.dumps({"video": path, "sounds": people_of(places, sounds)})

    def on_click(self, path: str | None, time_sec: float, event: gr.SelectData) -> list[Any]:
        """The face nearest to the clicked position as the choice of the face."""
        x, y = (float(number) for number in event.index)
        return self._choose(path, time_sec, lambda seen: nearest(seen.boxes, x / seen.scale, y / seen.scale))

    def on_number(self, path: str | None, time_sec: float, number: str) -> list[Any]:
        """The face of a number on the frame as the choice of the face."""
        return self._choose(path, time_sec, lambda _: int(number) - 1)

    def _choose(self, path: str | None, time_sec: float, number_of: Callable[["Picture"], int | None]) -> list[Any]:
        try:
            seen = self._picture(path, time_sec)
        except (ValueError, OSError) as error:
            raise client_error(error) from error
        number = number_of(seen)
        if number is None or not number < len(seen.boxes):
            return [gr.skip(), *seen.shown()]
        return [place_of(seen.boxes[number], seen.time_sec), *replace(seen, chosen=number).shown()]

    def _picture(self, path: str | None, time_sec: float, face: str = "") -> "Picture":
        """A frame of the video and its faces."""
        if not path:
            raise WebError(texts.NEED_BOTH)
        scale = shown_scale(self.inspector.video(self.store.uploaded(path), Path(path).name))
        frame, shown_sec = frame_near(Path(path), float(time_sec or 0))
        boxes = self.finder.boxes((path, shown_sec), frame)
        return Picture(frame, scale, shown_sec, boxes, chosen_of(boxes, face or "", shown_sec))


def people_of(places: str, sounds: Sequence[str | None]) -> dict[str, str]:
    """The audio of each person who has some, by the places of their faces in the picture, a JSON list; ValueError if it is none."""
    named = json.loads(places or "[]")
    if not isinstance(named, list):
        raise ValueError(f"The places of faces are {places}: give a JSON list.")
    return {str(place): sound for place, sound in zip(named, sounds, strict=False) if sound}


def given_sounds(given: str, path: str | None) -> dict[str, str]:
    """The audio of people of this video, by place, as `Uploads.on_sounds` keeps it; none if it is about another video."""
    try:
        kept = json.loads(given or "{}")
        return {str(place): str(sound) for place, sound in kept["sounds"].items()} if kept["video"] == path else {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def shown_sec_of(sounds: Mapping[str, str]) -> float:
    """The second of the picture in which people were given audio; 0 if nobody was."""
    with suppress(StopIteration, ValueError):
        return max(0.0, float(next(iter(sounds)).split("@")[1]))
    return 0.0


@dataclass(frozen=True)
class Picture:
    """A frame of a video, its time, and its faces: their boxes in pixels of the video, and the number of the chosen one."""

    frame: FrameArray
    scale: float  # of the page
    time_sec: float
    boxes: list[Box]
    chosen: int | None

    def shown(self) -> list[Any]:
        """The framed picture, the choice of a number, and a sentence, as the page shows them."""
        picture = framed(for_page(self.frame, self.scale), self.boxes, self.scale, self.chosen)
        if not self.boxes:
            return [picture, NO_FACES, views.error_html(texts.NO_FACE_HERE)]
        numbers = [str(number + 1) for number in range(len(self.boxes))]
        value = None if self.chosen is None else numbers[self.chosen]
        sentence = texts.FACES_HERE if value is None else texts.FACE_CHOSEN
        sentence = sentence.format(count=amount(len(numbers), texts.FACES), number=value)
        return [picture, gr.update(choices=numbers, value=value, visible=True), views.facts_html(sentence)]


def frame_near(path: Path, time_sec: float) -> tuple[FrameArray, float]:
    """The frame shown at a time, or the last frame if the time is beyond the end, and the frame's own time in seconds."""
    times = [float(time) for time in frame_times(path)]
    number = min(int(np.searchsorted(times, time_sec + 1e-6, side="right")) - 1, len(times) - 2)
    frame = next(iter(read_frames(path, max(0, number), max(0, number) + 1))).frame
    return frame, times[max(0, number)]


def shown_scale(info: MediaInfo) -> float:
    """Width of the frame on the page divided by its width in the video, at most 1."""
    return min(1.0, WIDTH / info.square_size[0])


def for_page(frame: FrameArray, scale: float) -> FrameArray:
    """The frame at the size of the page."""
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    return frame if scale == 1 else np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
