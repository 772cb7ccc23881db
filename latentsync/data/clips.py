"""The clips of a training run: found in a folder or a list, checked once before training, then read at random positions.

A clip is an output of the data pipeline: a square video of an aligned face at 25 fps, with audio. Clips that cannot be used are
left out before training starts, each with a reason.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from latentsync.data.store import RecordStore, content_key, digest_of
from latentsync.files import atomic_write
from latentsync.media.container import MediaError
from latentsync.media.probe import MediaInfo, probe
from latentsync.media.sound.read import read_audio
from latentsync.media.video.clip_reader import READER_CHOICES, Reader, ReaderChoice, choose_reader, read_clip
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ

SUFFIX = ".mp4"
LENGTH_TOLERANCE_SEC = 0.5  # between video and audio; encoders pad audio by up to 0.1 s
CHECK_VERSION = "1"  # of the checks; a new number invalidates their cached results

Progress = Callable[[Sequence[Path]], Iterator[Path]]
Read = TypeVar("Read")


@dataclass(frozen=True)
class TrainingClip:
    """A clip that can be used for training."""

    path: Path
    key: str  # hash of the file's bytes
    frames: int  # frames at 25 fps for which there is audio, so that no window lacks mel columns
    size_px: int
    reader: Reader

    @property
    def shard(self) -> int | None:
        """The number of the shard that the clip is in; None: it is a file of its own."""
        return None

    def faces(self, start_frame: int, stop_frame: int) -> NDArray[np.uint8]:
        """Frames start_frame ... stop_frame - 1, uint8 [f, h, w, 3]; MediaError if they cannot be read."""
        return read_clip(self.path, start_frame, stop_frame, self.reader)

    def waveform(self) -> NDArray[np.float32]:
        """The audio, float32 [n] at 16 kHz in [-1, 1)."""
        return read_audio(self.path)

    def mouth(self) -> NDArray[np.float32] | None:
        """Aperture and width of the mouth, float32 [frames, 2], from the .json file beside a drawn clip; None if unknown."""
        return known_mouth(self.path.with_suffix(".json"), self.frames)

    def has_mouth(self) -> bool:
        """Whether `mouth` is known."""
        return self.mouth() is not None

    def has_feature(self, name: str) -> bool:
        """Whether a feature, by the name of its folder in a cache, came with the clip."""
        return False

    def read_feature(self, name: str, read: Callable[[Path], Read | None]) -> Read | None:
        """What `read` returns for the file of a feature that came with the clip; None if none did."""
        return None

    def prefetch(self) -> None:
        """Begin to fetch the clip, which will soon be needed."""

    def facts(self) -> dict[str, Any]:
        """The clip as a row of `write_index`."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class RejectedClip:
    """A clip that is left out, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ClipIndex:
    """The clips of a folder or list: those to train on, in the order of their paths, and those left out."""

    clips: list[TrainingClip]
    rejected: list[RejectedClip] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return sum(clip.frames for clip in self.clips) / MODEL_FPS / 3600


def known_mouth(truth: Path, frames: int) -> NDArray[np.float32] | None:
    """Aperture and width of the mouth, float32 [frames, 2], from a truth file; None if it is missing, invalid or too short."""
    try:
        stored = json.loads(truth.read_text(encoding="utf-8"))
        mouth = np.stack([stored["aperture"], stored["width"]], axis=1).astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mouth[:frames] if len(mouth) >= frames else None


def find_clips(data_dir: Path | str = "", fileslist: Path | str = "") -> list[Path]:
    """Paths of the clips in a list, one per line, or else in a folder and its subfolders; sorted, without duplicates.

    A relative path in a list is relative to the working directory or, if no such file exists, to the list's folder.

    Raises:
        ValueError: neither is given, the one given does not exist, or it has no clip.
    """
    if fileslist:
        found = _listed(Path(fileslist))
    elif data_dir:
        check_local(str(data_dir), "the data section")
        if not Path(data_dir).is_dir():
            raise ValueError(f"The data folder {data_dir} does not exist: check the data section.")
        found = [path for path in _files_under(Path(data_dir)) if path.suffix.lower() == SUFFIX]
    else:
        raise ValueError(
            "There is no training data: set data.train_data_dir to a folder of clips, or data.train_fileslist."
        )
    if not found:
        raise ValueError(f"{fileslist or data_dir} has no {SUFFIX} clips; use the last folder of the data pipeline.")
    return sorted(set(found))


def _listed(fileslist: Path) -> list[Path]:
    """The paths of a list: one per line; empty lines and those that begin with # are skipped, and so is a byte order mark."""
    try:
        lines = [line.strip() for line in fileslist.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The list of files {fileslist} cannot be read ({error}): check the data section.") from error
    entries = [line for line in lines if line and not line.startswith("#")]
    for entry in entries:
        check_local(entry, str(fileslist))
    return [path if path.exists() else fileslist.parent / path for path in map(Path, entries)]


def check_local(entry: str, where: str) -> None:
    """ValueError for an address such as s3://BUCKET/CLIP; `where` it is named."""
    if "://" in entry:
        raise ValueError(
            f"{where} names {entry}, but clips are read from a disk: copy them there, or pack them into shards"
            " (--output_format shards of the data pipeline)."
        )


def _files_under(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders, also in linked ones; a folder that contains itself by a link is read once."""
    visited = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        yield from (path for path in (Path(place) / name for name in names) if path.is_file())


def index_clips(
    paths: Sequence[Path],
    min_frames: int,
    cache_dir: Path | str,
    reader: str = "auto",
    workers: int = 4,
    progress: Progress = iter,
) -> ClipIndex:
    """Check every clip, as `check_clips`, and separate those that cannot be used or have fewer than `min_frames` frames."""
    return separated(check_clips(paths, cache_dir, reader, workers, progress), min_frames)


def check_clips(
    paths: Sequence[Path], cache_dir: Path | str, reader: str = "auto", workers: int = 4, progress: Progress = iter
) -> Iterator[TrainingClip | RejectedClip]:
    """The result of every clip's checks, in order; results are cached in `cache_dir` by content.

    Args:
        paths: of the clips.
        reader: of the frames: auto, av or decord; see `choose_reader`.
        workers: number of threads.
        progress: wraps the iteration over the paths, as `rich.progress.track` does.

    Raises:
        ValueError: `reader` is unknown, or the cache cannot be written.
    """
    if reader not in READER_CHOICES:
        raise ValueError(f"data.reader is {reader!r}; it must be one of {', '.join(READER_CHOICES)}.")
    check = partial(_check, records=RecordStore(Path(cache_dir) / "clips"), reader=reader)
    with ThreadPoolExecutor(workers) as pool:
        yield from (found for _, found in zip(progress(paths), pool.map(check, paths), strict=True))


def separated(checked: Iterable[TrainingClip | RejectedClip], min_frames: int) -> ClipIndex:
    """The index of checked clips; those with fewer than `min_frames` frames are left out too."""
    index = ClipIndex([], [])
    for clip in checked:
        if isinstance(clip, RejectedClip):
            index.rejected.append(clip)
        elif clip.frames < min_frames:
            index.rejected.append(RejectedClip(clip.path, f"has {clip.frames} frames, {min_frames} are needed"))
        else:
            index.clips.append(clip)
    return index


def _check(path: Path, records: RecordStore, reader: ReaderChoice) -> TrainingClip | RejectedClip:
    """Result of the checks of a clip, from the cache if its content was checked before."""
    try:
        key = _key_of(path, records)
    except OSError as error:
        return RejectedClip(path, f"cannot be read: {error.strerror or error}")
    facts_key = digest_of(key, reader, CHECK_VERSION)
    facts = records.get(facts_key)
    if facts is None:
        facts = clip_facts(path, reader)
        records.put(facts_key, facts)
    if "reason" in facts:
        return RejectedClip(path, facts["reason"])
    return TrainingClip(path, key, **facts)


def _key_of(path: Path, records: RecordStore) -> str:
    """Content key of a file, cached as long as its path, inode, size and times are the same."""
    stat = path.stat()
    numbers = stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    identity = digest_of(str(path.resolve()), *map(str, numbers))
    known = records.get(identity)
    if known is None:
        known = {"key": content_key(path)}
        records.put(identity, known)
    return known["key"]


def clip_facts(path: Path, reader: ReaderChoice) -> dict[str, Any]:
    """Entries `frames`, `size_px` and `reader` of a `TrainingClip`, read from the file, or `reason` if it cannot be used."""
    try:
        info = probe(path)
        reason = _objection(info)
        if reason:
            return {"reason": reason}
        samples = len(read_audio(path))
        audio_sec = samples / SAMPLE_RATE_HZ
        video_sec = info.frame_count / MODEL_FPS
        if abs(audio_sec - video_sec) > LENGTH_TOLERANCE_SEC:
            return {"reason": f"its video lasts {video_sec:.2f} s, its audio {audio_sec:.2f} s"}
        read_clip(path, info.frame_count - 1, info.frame_count)
        chosen = choose_reader(path, info.frame_count, reader)
    except MediaError as error:
        return {"reason": str(error)}
    frames = min(info.frame_count, samples * MODEL_FPS // SAMPLE_RATE_HZ)
    return {"frames": frames, "size_px": info.square_size[0], "reader": chosen}


def _objection(info: MediaInfo) -> str | None:
    if not info.has_audio:
        return "has no audio"
    width, height = info.square_size
    if width != height:
        return f"is {width} x {height} px, not a square aligned face: run the data pipeline on it"
    if abs(info.fps - MODEL_FPS) > 0.01:
        return f"has {float(info.fps):.2f} frames per second, not {MODEL_FPS}: run the data pipeline on it"
    return None


def describe_index(index: ClipIndex, shown: int = 10) -> str:
    """A summary of an index as lines of text: clips, hours, and up to `shown` of the clips left out, with reasons."""
    lines = [f"{len(index.clips)} clips, {index.hours:.2f} h; {len(index.rejected)} left out"]
    lines += [f"  {clip.path}: {clip.reason}" for clip in index.rejected[:shown]]
    if len(index.rejected) > shown:
        lines.append(f"  and {len(index.rejected) - shown} more")
    return "\n".join(lines)


def contents(path: Path) -> list[tuple[str, int | None]]:
    """Keys and shards of the clips to train on, in order, from a file written by `write_index`; empty if it does not exist."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [(row["key"], row.get("shard")) for row in map(json.loads, lines) if "key" in row]


def write_index(index: ClipIndex, path: Path) -> None:
    """Write the index as JSON lines, one per clip; those of clips left out have the entry `reason`."""
    rows = [clip.facts() for clip in index.clips] + [asdict(clip) for clip in index.rejected]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
