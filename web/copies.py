"""Small copies of videos that browsers may not play, such as the HEVC files of phones: the page shows them instead.

A copy is H.264 of preview size with the video's own times and audio; a picture of the first frame is there at once. Both are in a
folder beside the video, so they are counted, expire and are deleted with it. Results are always made from the video itself.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread

import cv2
import numpy as np

from latentsync.face.align import FrameArray
from latentsync.files import atomic_write
from latentsync.media.index.hdr import HdrMetadata
from latentsync.media.pixels.pixel_format import USUAL
from latentsync.media.probe import MediaInfo, probe
from latentsync.media.sound.copy import AudioSource
from latentsync.media.video.read import frame_times, read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from web import texts
from web.errors import WebError
from web.files import copied

FOLDER = "copies"  # beside a video
SIDE = 960  # px of the longer side, at most
CRF = 26
PLAYED = ("h264", "vp8", "vp9", "av1")  # by every browser, in these containers and pixel formats
CONTAINERS = (".mp4", ".m4v", ".mov", ".webm")
PIXELS = ("yuv420p", "yuvj420p")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copy:
    """What the page shows of a video that browsers may not play."""

    picture: Path | None  # of the first frame; None if it could not be read
    video: Path | None = None  # None: it is being made, or cannot be made
    share: float = 0.0  # that is made, 0 to 1
    problem: str = ""  # one sentence, if it cannot be made

    @property
    def is_coming(self) -> bool:
        return self.video is None and not self.problem


class Stopped(Exception):
    """The app ends, or the video is gone."""


class Copies:
    """Makes copies one after the other in its own thread."""

    def __init__(self, check_room: Callable[[int], None]):
        """`check_room`: WebError if the app has no room for this number of bytes."""
        self._check_room, self._stopping = check_room, False
        self._waiting: list[Path] = []  # the first one is being made
        self._shares: dict[Path, float] = {}
        self._problems: dict[Path, str] = {}
        self._changed = Condition()
        self._thread = Thread(target=self._work, name="copies", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_sec: float = 30.0) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_sec)

    def of(self, video: Path, same: Sequence[Path] = ()) -> Copy | None:
        """The copy of a video, which is asked for by this call; None if every browser plays the video.

        `same`: files with the same content, of which a copy may be there. MediaError or OSError if the video cannot be read.
        """
        info = probe(video)
        if is_played(video, info):
            return None
        target = copy_of(video)
        if not target.is_file():
            for other in same:
                if copy_of(other).is_file():
                    self._take(copy_of(other), target)
                elif other in self._waiting:
                    return self.of(other)
        picture = picture_of(video)
        if target.is_file():
            return Copy(picture, target)
        with self._changed:
            if video not in self._waiting and video not in self._problems:
                self._waiting.append(video)
                self._changed.notify_all()
            return Copy(picture, None, self._shares.get(video, 0.0), self._problems.get(video, ""))

    def _take(self, source: Path, target: Path) -> None:
        with suppress(OSError):  # it is made anew
            copied(source, target.parent, target.stem)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                video = self._waiting[0]
            problem = self._problem_of_making(video)
            with self._changed:
                self._waiting.remove(video)
                self._shares.pop(video, None)
                if problem:
                    self._problems[video] = problem

    def _problem_of_making(self, video: Path) -> str:
        """Make the copy of a video; returns why it could not be made."""
        try:
            self._check_room(video.stat().st_size)
            self._make(video)
        except Stopped:
            pass
        except WebError as error:
            return str(error)
        except (ValueError, OSError) as error:
            if video.is_file():
                log.warning("No copy could be made of a video: %s", error)
                return texts.NO_COPY
        except Exception:  # a bug loses a copy, never the app
            log.exception("A copy could not be made")
            return texts.NO_COPY
        return ""

    def _make(self, video: Path) -> None:
        info = probe(video)
        width, height = copy_size(info)
        format = VideoFormat.like(
            info,
            width=width,
            height=height,
            sample_aspect=1,
            codec="h264",
            crf=CRF,
            pixel_format=USUAL,
            hdr=HdrMetadata(),
        )
        ticks = [round(time / format.time_base) for time in frame_times(video)]
        audio = AudioSource(video, info.start_sec) if info.has_audio else None
        with VideoWriter(copy_of(video), format, audio) as writer:
            for number, shown in enumerate(read_frames(video, exact=False)):
                if self._stopping or not video.is_file():
                    raise Stopped
                frame = cv2.resize(shown.frame, (width, height), interpolation=cv2.INTER_AREA)
                writer.write(np.asarray(frame, np.uint8), ticks[number], ticks[number + 1] - ticks[number])
                self._shares[video] = (number + 1) / info.frame_count


def is_played(video: Path, info: MediaInfo) -> bool:
    """Whether every usual browser plays a video, by its container, codec and pixel format; still images are shown elsewhere."""
    is_usual = info.codec in PLAYED and info.pixel_format in PIXELS and video.suffix.lower() in CONTAINERS
    return is_usual or info.is_still


def copy_of(video: Path) -> Path:
    """Where the copy of a video is."""
    return video.parent / FOLDER / f"{video.stem}.mp4"


def copy_size(info: MediaInfo) -> tuple[int, int]:
    """Width and height of a copy, which are even."""
    width, height = info.square_size
    scale = min(1.0, SIDE / max(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def picture_of(video: Path) -> Path | None:
    """A file with the first frame of a video, of the copy's size, which is made if it is missing; None if it cannot be made."""
    path = copy_of(video).with_suffix(".jpg")
    if path.is_file():
        return path
    try:
        frame: FrameArray = next(iter(read_frames(video, 0, 1, exact=False))).frame
        small = cv2.resize(frame, copy_size(probe(video)), interpolation=cv2.INTER_AREA)
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path, shared=True) as partial:
            partial.write_bytes(cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes())
    except (ValueError, OSError, StopIteration):
        return None
    return path
