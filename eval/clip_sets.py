"""A set of evaluation clips on disk: input video, audio, and the true result where it is known."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.files import atomic_write, file_hash
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import frames_at
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.metrics.lips.scores import bounced
from latentsync.timebase import MODEL_FPS, samples_of_frames

TASKS = RECONSTRUCTION, CROSS, SILENT = "reconstruction", "cross", "silent"
SET_FILE = "clips.json"
AVATARS = 24  # drawn people in the fixed list of `eval.avatar_set`
CRF = 12  # of true videos and copies; close enough to lossless for all metrics
MADE_BY = "latentsync eval/bench_clips 1"


@dataclass(frozen=True)
class EvalClip:
    """One evaluation item: lip-sync `video` to `audio`."""

    name: str
    task: str
    video: Path
    audio: Path
    truth: Path | None = None  # the true result
    speaker: Path | None = None  # the video that the audio comes from, if there is no truth
    openings: tuple[float, ...] = ()  # true lip opening of each frame of the result, if it is known

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash over task, video and audio."""
        both = f"{self.task} {file_hash(self.video)} {file_hash(self.audio)}"
        return hashlib.sha256(both.encode()).hexdigest()[:12]

    @cached_property
    def frame_count(self) -> int:
        """Number of frames of the result at 25 fps."""
        return max(1, round(len(read_audio(self.audio)) / samples_of_frames(1)))

    @cached_property
    def true_openings(self) -> NDArray[np.float64] | None:
        return np.array(self.openings) if self.openings else None

    def write_copy(self, out: Path) -> None:
        """Write the input's frames, played back and forth if they are too few, with the new audio."""
        frames = [shown.frame for shown in islice(frames_at(self.video, MODEL_FPS), self.frame_count)]
        write_video(out, (frames[at] for at in bounced(len(frames), self.frame_count)), self.audio)


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], audio: Path | None = None, crf: int = CRF) -> None:
    """Write frames uint8 [h, w, 3] at 25 fps, with audio if given, as an MP4 file."""
    stream = iter(frames)
    first = next(stream)
    height, width = first.shape[:2]
    kind = VideoFormat.constant(width, height, MODEL_FPS, crf=crf)
    with VideoWriter(path, kind, AudioSource(audio) if audio else None) as writer:
        writer.write(first)
        for frame in stream:
            writer.write(frame)


def write_sound(path: Path, waveform: NDArray[np.floating], frames: int) -> None:
    """Write audio of exactly `frames` frames, padded with silence or cut."""
    samples = samples_of_frames(frames)
    write_wav(path, np.pad(waveform, (0, max(0, samples - len(waveform))))[:samples])


def save_set(folder: Path, facts: dict[str, Any], clips: Iterable[EvalClip]) -> Path:
    """Write the index file of a set; paths inside the folder are stored relative to it."""
    rows = [_plain(clip, folder) for clip in clips]
    path = folder / SET_FILE
    with atomic_write(path) as partial:
        partial.write_text(json.dumps({"made_by": MADE_BY, **facts, "clips": rows}, indent=1) + "\n", encoding="utf-8")
    return path


def load_set(folder: Path) -> tuple[dict[str, Any], list[EvalClip]]:
    """Facts and clips of a set.

    Raises:
        ValueError: the folder has no set, or a file of it is missing.
    """
    path = folder / SET_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        clips = [_clip(row, folder) for row in stored.pop("clips")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} has no readable {SET_FILE}: make a set with `python -m eval.bench_clips`."
        ) from error
    for clip in clips:
        for file in (clip.video, clip.audio, clip.truth, clip.speaker):
            if file is not None and not file.is_file():
                raise ValueError(f"{file} of the set {folder} is missing: make the set again.")
    return stored, clips


def of_tasks(clips: Iterable[EvalClip], wanted: dict[str, int | None]) -> Iterator[EvalClip]:
    """The clips of the wanted tasks, at most the given number of each (None: all)."""
    left = dict(wanted)
    for clip in clips:
        if clip.task not in left or left[clip.task] == 0:
            continue
        count = left[clip.task]
        left[clip.task] = None if count is None else count - 1
        yield clip


def parse_tasks(texts: Iterable[str]) -> dict[str, int | None]:
    """{task: number of clips} of `cross:16` or `cross`; ValueError for an unknown task or number."""
    wanted: dict[str, int | None] = {}
    for text in texts:
        task, colon, count = text.partition(":")
        if task not in TASKS or (colon and not count.isdigit()):
            raise ValueError(f"{text!r} is no task: write {', '.join(TASKS)}, or {CROSS}:16 for its first 16 clips.")
        wanted[task] = int(count) if colon else None
    return wanted


def _plain(clip: EvalClip, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": clip.name, "task": clip.task}
    for name in ("video", "audio", "truth", "speaker"):
        file = getattr(clip, name)
        if file is not None:
            row[name] = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file.resolve())
    return row | {"openings": [round(value, 3) for value in clip.openings]}


def _clip(row: dict[str, Any], folder: Path) -> EvalClip:
    files = {name: folder / row[name] for name in ("video", "audio", "truth", "speaker") if name in row}
    clip = EvalClip(row["name"], row["task"], files["video"], files["audio"])
    return replace(clip, truth=files.get("truth"), speaker=files.get("speaker"), openings=tuple(row["openings"]))
