"""Evaluation clips from folders of real videos (HDTF, VoxCeleb2, VFHQ), and the list that pins the chosen files.

HDTF: RD_Name_000.mp4, WDA_..., WRA_... anywhere in the folder. VoxCeleb2: id00017/UTTERANCE/00001.mp4. VFHQ:
Clip+ID+P0+C0+F100-200.mp4, cut from the original videos with their sound (the published PNG folders have none).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from eval.clip_sets import CROSS, RECONSTRUCTION, SILENT, EvalClip, write_sound, write_video
from latentsync.files import file_hash
from latentsync.media.probe import MediaInfo, probe
from latentsync.media.sound.read import read_audio
from latentsync.media.video.read import frames_at
from latentsync.timebase import MODEL_FPS, frames_in, samples_of_frames


@dataclass(frozen=True)
class Layout:
    """File names of a data set: `pattern` matches a path below the root, and its group `speaker` is the person."""

    pattern: re.Pattern[str]

    def speaker(self, name: str) -> str | None:
        """The speaker of a file; None if its name does not fit the layout."""
        found = self.pattern.search(name)
        return found["speaker"] if found else None


LAYOUTS = {
    "hdtf": Layout(re.compile(r"(^|/)(RD|WDA|WRA)_(?P<speaker>[^/]+?)_\d+\.mp4$")),
    "voxceleb2": Layout(re.compile(r"(^|/)(?P<speaker>id\d+)/[^/]+/\d+\.mp4$")),
    "vfhq": Layout(re.compile(r"(^|/)Clip\+(?P<speaker>[^/+]+)\+[^/]*\.mp4$")),
}


def choose(root: Path, layout_name: str, count: int, seed: int, min_sec: float) -> dict[str, Any]:
    """A list of `count` clips: by a hash of seed and name, using every speaker once before any is used twice.

    The choice does not depend on the order of the folder, and added files change it little.

    Raises:
        ValueError: the folder has no usable video of the layout.
    """
    layout = LAYOUTS[layout_name]
    names = [path.relative_to(root).as_posix() for path in root.rglob("*.mp4")]
    ranked = sorted(
        (n for n in names if layout.speaker(n)), key=lambda n: hashlib.sha256(f"{seed}:{n}".encode()).digest()
    )
    turns: dict[str, int] = {}
    order = []
    for name in ranked:
        speaker = str(layout.speaker(name))
        turns[speaker] = turns.get(speaker, 0) + 1
        order.append((turns[speaker], name))
    left_out: dict[str, str] = {}
    usable = (name for _, name in sorted(order, key=lambda pair: pair[0]) if _is_usable(root, name, min_sec, left_out))
    chosen = list(islice(usable, count))
    if not chosen:
        raise ValueError(
            f"{root} has no usable video in the layout of {layout_name} ({LAYOUTS[layout_name].pattern.pattern})."
        )
    clips = [{"path": name, "speaker": layout.speaker(name), "sha256": file_hash(root / name)} for name in chosen]
    return {"layout": layout_name, "seed": seed, "min_sec": min_sec, "clips": clips, "left_out": left_out}


def check_list(root: Path, stored: dict[str, Any]) -> None:
    """ValueError if a file of a list is missing or differs from the pinned one."""
    for row in stored["clips"]:
        path = root / row["path"]
        if not path.is_file():
            raise ValueError(f"{path} of the list is missing: download it, or make another list.")
        if file_hash(path) != row["sha256"]:
            raise ValueError(
                f"{path} is not the file of the list (its hash differs), so its scores cannot be compared."
            )


def read_list(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        assert all(row["path"] and row["sha256"] and row["speaker"] for row in stored["clips"])
        return stored
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{path} is not a list of evaluation clips: make one with `python -m eval.bench_clips`."
        ) from error


def make_real_clips(
    folder: Path, root: Path, stored: dict[str, Any], max_frames: int, tasks: Sequence[str]
) -> Iterator[EvalClip]:
    """The clips of a list; in the task `cross` the audio is that of the next clip with another speaker."""
    rows = stored["clips"]
    for index, row in enumerate(rows):
        video = root / row["path"]
        name = f"{index:03d}_{re.sub(r'[^A-Za-z0-9]+', '_', str(row['speaker']))}"
        own = min(max_frames, frames_in(probe(video).duration_sec))
        others = [each for each in (*rows[index + 1 :], *rows[:index]) if each["speaker"] != row["speaker"]]
        for task in tasks:
            audio = folder / f"{name}_{task}.wav"
            if task == RECONSTRUCTION:
                yield _reconstruction(folder, name, video, audio, own)
            elif task == SILENT:
                write_sound(audio, np.zeros(1, np.float32), own)
                yield EvalClip(name, SILENT, video, audio)
            elif others:
                yield _cross(folder, name, video, root / others[0]["path"], audio, max_frames)


def _reconstruction(folder: Path, name: str, video: Path, audio: Path, count: int) -> EvalClip:
    truth = folder / f"{name}_truth.mp4"
    write_sound(audio, read_audio(video), count)
    write_video(truth, _first(video, count), audio)
    return EvalClip(name, RECONSTRUCTION, video, audio, truth)


def _cross(folder: Path, name: str, video: Path, other: Path, audio: Path, max_frames: int) -> EvalClip:
    """A clip with other audio, and the video of its speaker, whose sync score is the reference for that audio."""
    sound = read_audio(other)
    count = min(max_frames, max(1, len(sound) // samples_of_frames(1)))
    speaker = folder / f"{name}_speaker.mp4"
    write_sound(audio, sound, count)
    write_video(speaker, _first(other, count), audio)
    return EvalClip(name, CROSS, video, audio, speaker=speaker)


def _first(video: Path, count: int) -> Iterator[np.ndarray]:
    return (shown.frame for shown in islice(frames_at(video, MODEL_FPS), count))


def _is_usable(root: Path, name: str, min_sec: float, left_out: dict[str, str]) -> bool:
    """Whether a file can be a clip; if not, the reason is stored in `left_out`."""
    checks: dict[str, Callable[[MediaInfo], bool]] = {
        "no sound": lambda info: not info.has_audio,
        f"shorter than {min_sec:g} s": lambda info: info.duration_sec < min_sec,
    }
    try:
        info = probe(root / name)
        why = next((reason for reason, fails in checks.items() if fails(info)), "")
    except ValueError as error:
        why = str(error)
    if why:
        left_out[name] = why
    return not why
