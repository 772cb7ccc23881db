"""Requests from the page or the API, checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from latentsync.inference.faces.select import PLACE
from latentsync.inference.jobs.job import check_options_of_speakers
from latentsync.inference.jobs.ranges import check_ranges, parse_ranges
from latentsync.inference.jobs.speakers_file import audio_names, is_speakers_file, speakers_of
from latentsync.inference.settings import AUTO, InferenceSettings, JobOptions, expanded
from latentsync.media.container import ChosenTracks
from latentsync.media.probe import MediaInfo, probe, sound_format
from latentsync.media.sound.read import mono_pieces, stated_sec
from latentsync.timebase import SAMPLE_RATE_HZ
from web import texts
from web.errors import ErrorCode, WebError
from web.jobs import Kind, Order, Speakers
from web.models import Models
from web.sentences import duration, plain, size
from web.settings import PREVIEW_SEC, Limits

SPEAKERS = "speakers"  # the name of the field, in messages


@dataclass(frozen=True)
class Wish:
    """An unchecked request; None means the default of the preset or the model."""

    kind: str = "run"
    model: str = ""  # the default model
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of `InferenceSettings`
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of `JobOptions`


def make_order(wish: Wish, video: Path, audio: Path, models: Models) -> Order:
    """A checked order for two files of the app; WebError or ValueError if a value is wrong."""
    if wish.kind not in get_args(Kind):
        raise WebError(texts.UNKNOWN_KIND.format(name=wish.kind, known=", ".join(get_args(Kind))))
    settings = expanded(wish.settings)
    InferenceSettings().changed(settings)
    asked = {name: value for name, value in wish.options.items() if value is not None}
    if wish.kind == "preview" and not asked.get("ranges"):
        asked = {"limit_sec": PREVIEW_SEC, **asked}
    options = JobOptions().changed({**asked, "face": checked_face(asked.get("face", ""))})
    check_ranges(options)
    if options.masks is not None:  # would be a file of the server
        raise WebError(texts.WRONG_OCCLUSION.format(text=options.occlusion))
    if options.speakers not in ("", AUTO):  # as above
        raise WebError(texts.WRONG_SPEAKERS.format(text=options.speakers))
    if options.speakers:
        check_options_of_speakers(options)
    return Order(wish.kind, video, audio, models.check(wish.model, settings).name, settings, options)  # type: ignore[arg-type]


def previewed(options: JobOptions) -> JobOptions:
    """The options of a preview: of ranges only the beginning of the first one is edited."""
    ranges = parse_ranges(options.ranges)
    if not ranges:
        return options
    first = ranges[0]
    stop_sec = min(first.stop_sec, first.start_sec + round(PREVIEW_SEC))
    return replace(options, ranges=f"{float(first.start_sec)}-{float(stop_sec)}@{float(first.sound_sec or 0)}")


def number(name: str, value: Any) -> float | None:
    """The value of a field of the page; WebError if it is no number."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise WebError(texts.WRONG_NUMBER.format(name=name, value=value)) from None


def whole(name: str, value: Any) -> int | None:
    """The value of a field of the page; WebError if it is no whole number."""
    as_float = number(name, value)
    if as_float is not None and not as_float.is_integer():
        raise WebError(texts.WRONG_NUMBER.format(name=name, value=value))
    return None if as_float is None else int(as_float)


def checked_face(text: str) -> str:
    """A valid choice of the face. Unlike the command line it cannot be the path of a picture, which would be a file of the
    server."""
    word = str(text or "largest").strip()
    if word.lower() in ("largest", "center", "centre") or (word.isdecimal() and int(word) > 0) or PLACE.fullmatch(word):
        return word
    raise WebError(texts.WRONG_FACE.format(text=text))


def checked_speakers(speakers: Speakers) -> None:
    """WebError or ValueError for speakers of whom something is wrong, or that name files of the server besides their sounds."""
    content = speakers.content
    for person in content["people"].values():
        face = person.get("face")
        for choice in face if isinstance(face, list) else [face]:
            if choice not in (None, AUTO):
                checked_face(str(choice))
    sounds = {name: str(path) for name, path in speakers.sounds.items()}
    speakers_of(Path(SPEAKERS), audio_names(content, Path(SPEAKERS) / "none", sounds.__getitem__))


def sounds_of(content: Mapping[str, Any]) -> list[str]:
    """The names of the sounds in the content of a file of speakers, each once; WebError for what is no such content."""
    people, segments = content.get("people"), content.get("segments", [])
    if not (isinstance(people, dict) and people and isinstance(segments, list)) or "cues" in content:
        raise WebError(texts.WRONG_CONTENT)
    rows = [*people.values(), *segments]
    if not all(isinstance(row, dict) for row in rows):
        raise WebError(texts.WRONG_CONTENT)
    names = [content.get("mix"), *(row.get("audio") for row in rows)]
    if not all(name is None or (isinstance(name, str) and name) for name in names):
        raise WebError(texts.WRONG_CONTENT)
    return list(dict.fromkeys(name for name in names if name is not None))


class Inspector:
    """Checks the format and the limits of files, which are an upload or in an allowed folder."""

    def __init__(self, limits: Limits):
        self.limits = limits

    def video(self, path: Path, name: str, track: int | None = None) -> MediaInfo:
        """Facts of a video; WebError with one sentence if it is unusable."""
        self._check_size(path, name)
        try:
            info = probe(ChosenTracks(path, video=track))
        except (ValueError, OSError) as error:
            raise WebError(plain(str(error), {str(path): name})) from error
        width, height = info.square_size
        if width * height > self.limits.frame_pixels:
            raise WebError(texts.FRAME_TOO_LARGE.format(name=name, width=width, height=height))
        if info.duration_sec > self.limits.video_sec:
            facts = {"time": duration(info.duration_sec), "limit": duration(self.limits.video_sec)}
            raise WebError(texts.VIDEO_TOO_LONG.format(name=name, **facts))
        return info

    def sound(self, path: Path, name: str, track: int | None = None) -> float:
        """Duration in seconds of audio; WebError with one sentence if it is unusable.

        A file of speakers, which may name any file of the server, is none.
        """
        self._check_size(path, name)
        if is_speakers_file(path):
            raise WebError(texts.NO_SOUND.format(name=name))
        chosen = ChosenTracks(path, audio=track)
        try:
            if not sound_format(chosen)[1]:
                raise WebError(texts.NO_SOUND.format(name=name))
            length_sec = self._sound_sec(chosen)
        except WebError:
            raise
        except (ValueError, OSError) as error:
            raise WebError(plain(str(error), {str(path): name})) from error
        if length_sec > self.limits.length_sec:
            facts = {"time": duration(length_sec), "limit": duration(self.limits.length_sec)}
            raise WebError(texts.SOUND_TOO_LONG.format(name=name, **facts))
        return length_sec

    def _sound_sec(self, chosen: ChosenTracks) -> float:
        """Duration in seconds: as stated, if that is above the limit, else as decoded, at most a moment above the limit."""
        length_sec, count = stated_sec(chosen), 0
        if length_sec > self.limits.length_sec:
            return length_sec
        for piece in mono_pieces(chosen):
            count += len(piece)
            if count > self.limits.length_sec * SAMPLE_RATE_HZ:
                break
        return count / SAMPLE_RATE_HZ

    def _check_size(self, path: Path, name: str) -> None:
        try:
            length = path.stat().st_size
        except OSError as error:  # it was deleted meanwhile
            raise WebError(texts.FILE_GONE.format(name=name)) from error
        if length == 0:
            raise WebError(texts.EMPTY_FILE.format(name=name))
        if length > self.limits.file_bytes:
            facts = {"size": size(length), "limit": size(self.limits.file_bytes)}
            raise WebError(texts.TOO_BIG.format(name=name, **facts), ErrorCode.TOO_LARGE)
