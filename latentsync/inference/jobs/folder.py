"""The folder from which an unfinished job resumes: its key, the faces found in pass 1, and finished segments.

Files are written atomically, so a file that has its name is complete. The folder must not hold other files. After success the
job's own files are deleted, and the folder too.

    job.json            key and seed of the job
    job.lock            held by the process that runs the job
    faces.npz           faces found in pass 1
    speakers.json       who speaks when, if it was found
    occluders_0.npz     masks of what is in front of the first person's face, if they are used
    part_00000.mp4      output segment 0 (or .mov), playable
    part_00000.json     frames of segment 0 whose result differs from the plan
    part_00000.lock     held by the process that writes segment 0
    unsigned.mp4        the finished output while it is signed (or .mov)
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from latentsync import system
from latentsync.media.container import MediaError
from latentsync.media.video.mux import atomic_output

JOB, FACES, SPEAKERS, LOCK = "job.json", "faces.npz", "speakers.json", "job.lock"
# The job's own files. JOB is deleted last: as long as it exists, the others are known to be this program's.
OWN_FILES = (
    *("part_*.mp4", "part_*.mov", "part_*.json", "part_*.lock"),
    *("unsigned.*", FACES, SPEAKERS, "occluders_*.npz", "*.partial", JOB),
)
FILES_BEFORE_JOB = {LOCK, f"{JOB}.partial"}  # all that a job can have before JOB is written
END_BYTES = 1 << 20  # at both ends of a file


class JobFolder:
    """A job's folder, locked by one process at a time; a context manager that keeps the files unless `remove` is called.

    Entering raises MediaError if another process uses the folder, it belongs to another job, it holds other files, or it cannot
    be written to. With `force` the files of another job are deleted.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], seed: int, force: bool = False, suffix: str = ".mp4"):
        """`key` identifies the job. `seed` is stored with a new job; a resumed job keeps its own. `suffix`: of segments."""
        self.folder, self.key, self.seed, self.force, self.suffix = folder, dict(key), seed, force, suffix
        self.lock = FileLock(folder / LOCK, timeout=0)

    def __enter__(self) -> "JobFolder":
        try:
            self._check_content()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
        except Timeout:
            raise MediaError(f"another run uses {self.folder}: wait for it, or give another --job_dir.") from None
        except OSError as error:
            raise MediaError(f"cannot use the job folder {self.folder}: {error.strerror}. Choose another.") from error
        try:
            self._resume_or_start()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lock.release()

    @property
    def faces(self) -> Path:
        return self.folder / FACES

    @property
    def speakers(self) -> Path:
        return self.folder / SPEAKERS

    def occluders(self, person: int) -> Path:
        return self.folder / f"occluders_{person}.npz"

    def segment_path(self, index: int) -> Path:
        return self.folder / f"part_{index:05d}{self.suffix}"

    def unsigned_path(self, suffix: str) -> Path:
        """The output with all but its signature."""
        return self.folder / f"unsigned{suffix}"

    def missing_segments(self, count: int) -> list[int]:
        """Indices below `count` of segments that are not complete."""
        return [index for index in range(count) if not self.segment_path(index).is_file()]

    def segment_lock(self, index: int) -> Path:
        """The lock file of the process that writes a segment."""
        return self.folder / f"part_{index:05d}.lock"

    def save_facts(self, index: int, facts: Any) -> None:
        """Store facts about a segment; must be called before the segment's own file appears."""
        self._write(f"part_{index:05d}.json", facts)

    def facts(self, index: int) -> Any:
        return json.loads((self.folder / f"part_{index:05d}.json").read_text(encoding="utf-8"))

    def remove(self) -> None:
        """Delete this job's own files, and the folder if it is empty then."""
        self._clear()
        lock = self.folder / LOCK
        with suppress(PermissionError):  # Windows does not delete open files
            lock.unlink(missing_ok=True)  # while the lock is held; later the file may be another run's
        self.lock.release()
        with suppress(OSError):
            if system.ON_WINDOWS:
                lock.unlink(missing_ok=True)
            self.folder.rmdir()

    def _check_content(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise MediaError(f"cannot use the job folder {self.folder}: it is a file. Choose another.")
        patterns = OWN_FILES if self._stored() is not None else ()
        found = set(self.folder.iterdir()) if self.folder.exists() else set()
        own = {path for pattern in patterns for path in self.folder.glob(pattern)}
        others = {path for path in found - own if path.name not in FILES_BEFORE_JOB}
        if others:
            raise MediaError(
                f"the job folder {self.folder} holds other files ({min(others).name}): choose an empty one."
            )

    def _resume_or_start(self) -> None:
        stored = self._stored()
        if stored is not None and stored["key"] == self.key and not self.force:
            self.seed = stored["seed"]
            return
        if stored is not None and not self.force and self._has_results():
            raise MediaError(
                f"{self.folder} holds an unfinished job with {_difference(stored['key'], self.key)}: repeat its"
                " command with that to resume it, or give --force to start over."
            )
        self._clear()
        self._write(JOB, {"key": self.key, "seed": self.seed})

    def _stored(self) -> dict[str, Any] | None:
        """The content of JOB; None if it is missing or was not written by this class."""
        try:
            stored = json.loads((self.folder / JOB).read_text(encoding="utf-8"))
        except (ValueError, OSError):
            return None
        ours = isinstance(stored, dict) and stored.keys() == {"key", "seed"} and isinstance(stored["key"], dict)
        return stored if ours else None

    def _has_results(self) -> bool:
        """Whether there is anything to resume from."""
        return self.faces.is_file() or any(path.suffix != ".lock" for path in self.folder.glob("part_*"))

    def _clear(self) -> None:
        for pattern in OWN_FILES:
            for path in self.folder.glob(pattern):
                path.unlink()

    def _write(self, name: str, value: Any) -> None:
        with atomic_output(self.folder / name) as partial:
            partial.write_text(json.dumps(value), encoding="utf-8")


def _difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How two jobs' keys differ: "another version of this program", or the first entry that differs, as "another video"."""
    names = [name for name in wanted if stored.get(name) != wanted[name]]
    if "version" in names or not names:
        return "another version of this program"
    return f"other {names[0]}" if names[0].endswith("s") else f"another {names[0]}"


def identity(path: Path) -> list[int | str]:
    """Identifies a file without reading all of it: size, modification time (ns), and SHA-256 of its first and last MiB."""
    stat = path.stat()
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(END_BYTES))
        file.seek(max(0, stat.st_size - END_BYTES))
        digest.update(file.read())
    return [stat.st_size, stat.st_mtime_ns, digest.hexdigest()]


class SegmentLocks:
    """Locks on segments, by which several processes share a job: each writes missing segments that no other has locked.

    A context manager. The lock of a segment that its process did not finish is released when that process ends.
    """

    def __init__(self, folder: JobFolder, count: int):
        self.folder, self.count = folder, count
        self.held: dict[int, FileLock] = {}

    def __enter__(self) -> "SegmentLocks":
        return self

    def __exit__(self, *error: object) -> None:
        for index in list(self.held):
            self.held.pop(index).release()

    def acquire_missing(self) -> Iterator[int]:
        """Indices of segments to write, each locked when the iterator reaches it."""
        for index in range(self.count):
            self._release_written()
            if self._acquire(index):
                yield index

    def _acquire(self, index: int) -> bool:
        if index in self.held or self.folder.segment_path(index).is_file():
            return False
        lock = FileLock(self.folder.segment_lock(index), timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return False
        if self.folder.segment_path(index).is_file():  # another process has written it in the meantime
            lock.release()
            return False
        self.held[index] = lock
        return True

    def _release_written(self) -> None:
        for index in [index for index in self.held if self.folder.segment_path(index).is_file()]:
            self.held.pop(index).release()
