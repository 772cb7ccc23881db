"""Drawn evaluation clips: people and sentences that are not in the training data, in three tasks, each with its truth."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.clip_sets import AVATARS, CROSS, SILENT, EvalClip, write_sound, write_video
from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, AvatarClip, random_clip
from latentsync.avatar.mouth import mouth_track
from latentsync.testing import speaking

PINNED = Path(__file__).resolve().parent / "bench_lists" / "avatars.json"
AUDIO_FROM = 7  # in the task `cross` a person speaks the sentence of the clip this many places later
HASHED_FRAMES = 8  # number of frames that are hashed


def seeds(count: int) -> range:
    """The first `count` seeds of the list."""
    return range(HELD_OUT_FIRST_SEED, HELD_OUT_FIRST_SEED + count)


def name_of(seed: int) -> str:
    return f"avatar_{seed:07d}"


def partner_of(seed: int) -> int:
    """Seed of the clip whose sentence a person speaks in the task `cross`; independent of how many clips are used."""
    return HELD_OUT_FIRST_SEED + (seed - HELD_OUT_FIRST_SEED + AUDIO_FROM) % AVATARS


def hashes(clip: AvatarClip) -> dict[str, Any]:
    """Hashes of a clip: of its truth, its audio as 16-bit samples, and its first frames."""
    sound = np.rint(clip.waveform * 32767).astype("<i2").tobytes()
    pictures = b"".join(frame.tobytes() for frame in islice(clip.frames(), HASHED_FRAMES))
    parts = {"truth": json.dumps(clip.truth(), sort_keys=True).encode(), "sound": sound, "pictures": pictures}
    return {"seed": clip.seed, "frames": len(clip), **{k: hashlib.sha256(v).hexdigest()[:16] for k, v in parts.items()}}


def check_pinned(found: Sequence[dict[str, Any]]) -> list[str]:
    """Notes on differences from the pinned list, one sentence each; none if the clips are equal.

    Raises:
        ValueError: the sentence, mouth or audio of a clip differs, so scores cannot be compared.
    """
    pinned = {row["seed"]: row for row in json.loads(PINNED.read_text(encoding="utf-8"))["clips"]}
    notes = []
    for row in found:
        wanted = pinned[row["seed"]]
        different = [part for part in ("frames", "truth", "sound", "pictures") if row[part] != wanted[part]]
        if set(different) - {"pictures"}:
            raise ValueError(
                f"{name_of(row['seed'])} differs from the pinned clip ({' and '.join(different)}):"
                " its voice or drawing has changed, so its scores cannot be compared with published ones."
            )
        if different:
            notes.append(
                f"{name_of(row['seed'])} has slightly different pixels here (another OpenCV version or processor)."
            )
    return notes


def make_avatar_clips(folder: Path, count: int, max_frames: int, tasks: Sequence[str]) -> Iterator[EvalClip]:
    """Draw the clips of the first `count` seeds into `folder`; each task has at most `max_frames`."""
    for seed in seeds(count):
        person, other = random_clip(seed), random_clip(partner_of(seed))
        video = folder / f"{name_of(seed)}.mp4"
        sound = folder / f"{name_of(seed)}.wav"
        write_sound(sound, person.waveform, len(person))
        write_video(video, person.frames(), sound)
        for task in tasks:
            yield _task_clip(folder, video, right_result(task, person, other), task, max_frames)


def right_result(task: str, person: AvatarClip, other: AvatarClip) -> AvatarClip:
    """The true result of a task: the person unchanged, with the lips and audio of another, or silent."""
    if task == CROSS:
        return speaking(person, other)
    return silenced(person) if task == SILENT else person


def silenced(clip: AvatarClip) -> AvatarClip:
    """The same person with closed lips and silent audio."""
    mute = replace(clip.speech, waveform=np.zeros_like(clip.speech.waveform))
    return replace(clip, mouth=mouth_track([], len(clip)), speech=mute)


def _task_clip(folder: Path, video: Path, right: AvatarClip, task: str, max_frames: int) -> EvalClip:
    """Write the audio and the true video of one task."""
    count = min(max_frames, len(right.mouth), len(right.motion.roll))
    stem = f"{name_of(right.seed)}_{task}"
    audio, truth = folder / f"{stem}.wav", folder / f"{stem}_truth.mp4"
    write_sound(audio, right.speech.waveform, count)
    write_video(truth, islice(right.frames(), count), audio)
    return EvalClip(name_of(right.seed), task, video, audio, truth, openings=_openings(right, count))


def _openings(clip: AvatarClip, count: int) -> tuple[float, ...]:
    opening: NDArray[np.floating] = clip.mouth.aperture[:count]
    return tuple(float(value) for value in opening)
