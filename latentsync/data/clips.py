"""The clips of a training run: found in a folder or a list, looked at once before training, and read at random.

A clip is an aligned face as the data pipeline leaves it: a square video of 25 frames a second with its sound. What cannot be
trained on is named with the reason and left out, before any training starts.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.data.store import RecordStore, content_key, digest_of
from latentsync.media.container import MediaError
from latentsync.media.probe import MediaInfo, probe
from latentsync.media.sound.read import read_audio
from latentsync.media.video.clip_reader import READER_CHOICES, Reader, ReaderChoice, choose_reader, read_clip
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ

SUFFIX = ".mp4"
LENGTH_TOLERANCE_SEC = 0.5  # between pictures and sound; encoders pad sound by up to 0.1 s
LOOK_VERSION = "1"  # of what is looked at; another number looks at every clip again

Progress = Callable[[Sequence[Path]], Iterator[Path]]


@dataclass(frozen=True)
class TrainingClip:
    """A clip that can be trained on."""

    path: Path
    key: str  # hash of the file's bytes
    frames: int  # at 25 fps, with both pictures and sound, so that every window has all of its mel columns
    size_px: int
    reader: Reader

    def faces(self, start_frame: int, stop_frame: int) -> NDArray[np.uint8]:
        """Frames start_frame ... stop_frame - 1, uint8 [f, h, w, 3]; MediaError if they cannot be read."""
        return read_clip(self.path, start_frame, stop_frame, self.reader)

    def waveform(self) -> NDArray[np.float32]:
        """The sound, float32 [n] at 16 kHz in [-1, 1)."""
        return read_audio(self.path)

    def mouth(self) -> NDArray[np.float32] | None:
        """Aperture and width of the mouth, float32 [frames, 2], from the .json beside a drawn clip; None where unknown."""
        return known_mouth(self.path.with_suffix(".json"), self.frames)


@dataclass(frozen=True)
class RejectedClip:
    """A clip that is left out, and why: one sentence."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ClipIndex:
    """What a folder or list holds: clips to train on, in the order of their paths, and those left out."""

    clips: list[TrainingClip]
    rejected: list[RejectedClip] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return sum(clip.frames for clip in self.clips) / MODEL_FPS / 3600


def known_mouth(truth: Path, frames: int) -> NDArray[np.float32] | None:
    """Aperture and width of the mouth, float32 [frames, 2], from a file of known truth; None if there is none."""
    try:
        stored = json.loads(truth.read_text(encoding="utf-8"))
        mouth = np.stack([stored["aperture"], stored["width"]], axis=1).astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mouth[:frames] if len(mouth) >= frames else None


def find_clips(data_dir: Path | str = "", fileslist: Path | str = "") -> list[Path]:
    """Paths of the clips of a list (one a line; it counts alone), or of a folder and all folders in it; sorted, each once.

    A relative path in a list starts at the working directory or, where nothing is there, at the list's own folder.

    Raises:
        ValueError: neither is given, the one given does not exist, or it names no clip.
    """
    if fileslist:
        found = _listed(Path(fileslist))
    elif data_dir:
        if not Path(data_dir).is_dir():
            raise ValueError(f"The data folder {data_dir} does not exist: check the data section.")
        found = [path for path in Path(data_dir).rglob("*") if path.suffix.lower() == SUFFIX and path.is_file()]
    else:
        raise ValueError(
            "There is no training data: set data.train_data_dir to a folder of clips, or data.train_fileslist."
        )
    if not found:
        raise ValueError(f"{fileslist or data_dir} holds no {SUFFIX} clips; the data pipeline's last folder has them.")
    return sorted(set(found))


def _listed(fileslist: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in fileslist.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The list of files {fileslist} cannot be read ({error}): check the data section.") from error
    paths = [Path(line) for line in lines if line]
    return [path if path.exists() else fileslist.parent / path for path in paths]


def index_clips(
    paths: Sequence[Path],
    min_frames: int,
    cache_dir: Path | str,
    reader: str = "auto",
    workers: int = 4,
    progress: Progress = iter,
) -> ClipIndex:
    """Look at every clip once (what was seen is kept in `cache_dir` by content) and sort out what cannot be trained on.

    Args:
        paths: of the clips.
        min_frames: a shorter clip is left out.
        reader: of the frames, auto, av or decord; see `choose_reader`.
        progress: is handed the paths and passes them on, so that a caller can count them.

    Raises:
        ValueError: there is no such reader, or the cache cannot be written.
    """
    if reader not in READER_CHOICES:
        raise ValueError(f"data.reader is {reader!r}; it must be one of {', '.join(READER_CHOICES)}.")
    look = partial(_look, records=RecordStore(Path(cache_dir) / "clips"), reader=reader)
    with ThreadPoolExecutor(workers) as pool:
        seen = [found for _, found in zip(progress(paths), pool.map(look, paths), strict=True)]
    return _sorted_out(seen, min_frames)


def _sorted_out(seen: list[TrainingClip | RejectedClip], min_frames: int) -> ClipIndex:
    index = ClipIndex([], [])
    for clip in seen:
        if isinstance(clip, RejectedClip):
            index.rejected.append(clip)
        elif clip.frames < min_frames:
            index.rejected.append(RejectedClip(clip.path, f"has {clip.frames} frames, {min_frames} are needed"))
        else:
            index.clips.append(clip)
    return index


def _look(path: Path, records: RecordStore, reader: ReaderChoice) -> TrainingClip | RejectedClip:
    """What is known of a clip by its content, or what looking at it shows."""
    try:
        key = _key_of(path, records)
    except OSError as error:
        return RejectedClip(path, f"cannot be read: {error.strerror or error}")
    facts_key = digest_of(key, reader, LOOK_VERSION)
    facts = records.get(facts_key)
    if facts is None:
        facts = _facts(path, reader)
        records.put(facts_key, facts)
    if "reason" in facts:
        return RejectedClip(path, facts["reason"])
    return TrainingClip(path, key, **facts)


def _key_of(path: Path, records: RecordStore) -> str:
    """Content key, from the last time if the file is the one that was seen then: same place, inode, size and times."""
    stat = path.stat()
    place = digest_of(str(path.resolve()), *map(str, (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)))
    known = records.get(place)
    if known is None:
        known = {"key": content_key(path)}
        records.put(place, known)
    return known["key"]


def _facts(path: Path, reader: ReaderChoice) -> dict[str, Any]:
    """The entries of `TrainingClip` that the file tells, or a reason against it."""
    try:
        info = probe(path)
        reason = _objection(info)
        if reason:
            return {"reason": reason}
        samples = len(read_audio(path))
        sound_sec = samples / SAMPLE_RATE_HZ
        pictures_sec = info.frame_count / MODEL_FPS
        if abs(sound_sec - pictures_sec) > LENGTH_TOLERANCE_SEC:
            return {"reason": f"its pictures last {pictures_sec:.2f} s, its sound {sound_sec:.2f} s"}
        read_clip(path, info.frame_count - 1, info.frame_count)
        chosen = choose_reader(path, info.frame_count, reader)
    except MediaError as error:
        return {"reason": str(error)}
    frames = min(info.frame_count, samples * MODEL_FPS // SAMPLE_RATE_HZ)
    return {"frames": frames, "size_px": info.square_size[0], "reader": chosen}


def _objection(info: MediaInfo) -> str | None:
    if not info.has_audio:
        return "has no sound"
    width, height = info.square_size
    if width != height:
        return f"is {width} x {height} px, not a square aligned face: run the data pipeline on it"
    if abs(info.fps - MODEL_FPS) > 0.01:
        return f"runs at {float(info.fps):.2f} frames a second, not {MODEL_FPS}: run the data pipeline on it"
    return None


def describe_index(index: ClipIndex, shown: int = 10) -> str:
    """An index as lines of text: how much there is, and what was left out and why."""
    lines = [f"{len(index.clips)} clips, {index.hours:.2f} h; {len(index.rejected)} left out"]
    lines += [f"  {clip.path}: {clip.reason}" for clip in index.rejected[:shown]]
    if len(index.rejected) > shown:
        lines.append(f"  and {len(index.rejected) - shown} more")
    return "\n".join(lines)


def contents(path: Path) -> list[str]:
    """Keys of the clips to train on in a file of `write_index`, in order; none if there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [row["key"] for row in map(json.loads, lines) if "key" in row]


def write_index(index: ClipIndex, path: Path) -> None:
    """The whole index as JSON lines: a clip each, those left out with `reason`."""
    rows = [asdict(clip) for clip in index.clips] + [asdict(clip) for clip in index.rejected]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
