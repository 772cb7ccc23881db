"""Requests from the page or the API, checked before anything is computed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from latentsync.inference.faces.select import PLACE
from latentsync.inference.settings import DEFAULT_SEED, InferenceSettings, JobOptions
from latentsync.media.probe import MediaInfo, probe, sound_format
from latentsync.media.sound.read import mono_pieces, stated_sec
from latentsync.timebase import SAMPLE_RATE_HZ
from web import texts
from web.errors import WebError
from web.jobs import JobStore, Kind, Order
from web.models import Models
from web.sentences import duration, plain, size
from web.settings import PRESETS, PREVIEW_SEC, Limits


@dataclass(frozen=True)
class Wish:
    """An unchecked request; None means the default of the preset or the model."""

    kind: str = "run"
    preset: str = ""
    steps: float | None = None
    guidance_scale: float | None = None
    seed: float | None = DEFAULT_SEED
    face: str = "largest"
    length: str = "bounce"
    rest: str = "cut"
    on_missing_face: str = "passthrough"
    model: str = ""


def make_order(wish: Wish, video: Path, audio: Path, models: Models) -> Order:
    """A checked order for two uploaded files; WebError or ValueError if a value is wrong."""
    if wish.kind not in get_args(Kind):
        raise WebError(texts.UNKNOWN_KIND.format(name=wish.kind, known=", ".join(get_args(Kind))))
    settings = chosen_settings(wish)
    InferenceSettings().changed(settings)
    options = JobOptions(
        length=wish.length,  # type: ignore[arg-type]
        rest=wish.rest,  # type: ignore[arg-type]
        on_missing_face=wish.on_missing_face,  # type: ignore[arg-type]
        face=checked_face(wish.face),
        limit_sec=PREVIEW_SEC if wish.kind == "preview" else None,
    )
    return Order(wish.kind, video, audio, models.check(wish.model, settings).name, settings, options)  # type: ignore[arg-type]


def chosen_settings(wish: Wish) -> dict[str, Any]:
    """Fields of `InferenceSettings`: those of the preset, overridden by single values."""
    chosen: dict[str, Any] = {}
    if wish.preset:
        if wish.preset not in PRESETS:
            raise WebError(texts.UNKNOWN_PRESET.format(name=wish.preset, known=", ".join(PRESETS)))
        chosen = {"preset": wish.preset, **PRESETS[wish.preset]}
    given = {"steps": whole("steps", wish.steps), "guidance_scale": number("guidance scale", wish.guidance_scale)}
    chosen |= {name: value for name, value in given.items() if value is not None}
    return {**chosen, "seed": DEFAULT_SEED if wish.seed is None else whole("seed", wish.seed)}


def number(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise WebError(texts.WRONG_NUMBER.format(name=name, value=value)) from None


def whole(name: str, value: Any) -> int | None:
    as_float = number(name, value)
    if as_float is not None and as_float != as_float // 1:
        raise WebError(texts.WRONG_NUMBER.format(name=name, value=value))
    return None if as_float is None else int(as_float)


def checked_face(text: str) -> str:
    """A valid choice of the face. Unlike the command line it cannot be the path of a picture, which would be a file of the
    server."""
    word = str(text or "largest").strip()
    if word.lower() in ("largest", "center", "centre") or (word.isdecimal() and int(word) > 0) or PLACE.fullmatch(word):
        return word
    raise WebError(texts.WRONG_FACE.format(text=text))


class Inspector:
    """Checks uploaded files: format and limits."""

    def __init__(self, store: JobStore, limits: Limits):
        self.store, self.limits = store, limits

    def video(self, path: str | Path, name: str) -> MediaInfo:
        """Facts of an uploaded video; WebError with one sentence if it is unusable."""
        real = self._file(path, name)
        try:
            info = probe(real)
        except (ValueError, OSError) as error:
            raise WebError(plain(str(error), {str(real): name})) from error
        width, height = info.square_size
        if width * height > self.limits.frame_pixels:
            raise WebError(texts.FRAME_TOO_LARGE.format(name=name, width=width, height=height))
        if info.duration_sec > self.limits.video_sec:
            facts = {"time": duration(info.duration_sec), "limit": duration(self.limits.video_sec)}
            raise WebError(texts.VIDEO_TOO_LONG.format(name=name, **facts))
        return info

    def sound(self, path: str | Path, name: str) -> float:
        """Duration in seconds of uploaded audio; WebError with one sentence if it is unusable."""
        real = self._file(path, name)
        try:
            if not sound_format(real)[1]:
                raise WebError(texts.NO_SOUND.format(name=name))
            length_sec = self._sound_sec(real)
        except WebError:
            raise
        except (ValueError, OSError) as error:
            raise WebError(plain(str(error), {str(real): name})) from error
        if length_sec > self.limits.length_sec:
            facts = {"time": duration(length_sec), "limit": duration(self.limits.length_sec)}
            raise WebError(texts.SOUND_TOO_LONG.format(name=name, **facts))
        return length_sec

    def _sound_sec(self, path: Path) -> float:
        """Duration in seconds: as stated, if that is above the limit, else as decoded, at most a moment above the limit."""
        length_sec, count = stated_sec(path), 0
        if length_sec > self.limits.length_sec:
            return length_sec
        for piece in mono_pieces(path):
            count += len(piece)
            if count > self.limits.length_sec * SAMPLE_RATE_HZ:
                break
        return count / SAMPLE_RATE_HZ

    def _file(self, path: str | Path, name: str) -> Path:
        real = self.store.uploaded(path)
        length = real.stat().st_size
        if length == 0:
            raise WebError(texts.EMPTY_FILE.format(name=name))
        if length > self.limits.file_bytes:
            facts = {"size": size(length), "limit": size(self.limits.file_bytes)}
            raise WebError(texts.TOO_BIG.format(name=name, **facts))
        return real
