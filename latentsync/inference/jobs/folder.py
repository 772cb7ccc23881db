"""The folder of a job: finished parts of the output, what pass 1 found, and which job it is; the same job goes on in it.

Everything in it is written beside its name and renamed, so what has its name is complete. It holds nothing of the user's, and
after success it is emptied of this job's own files and removed.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from latentsync.media.container import MediaError
from latentsync.media.video.mux import atomic_output

JOB, FACES, LOCK = "job.json", "faces.npz", "job.lock"
OWN_FILES = (
    "part_*.mp4",
    "part_*.mov",
    "part_*.json",
    "part_*.lock",
    FACES,
    "*.partial",
    JOB,
)  # the last tells whose the others are
BEGUN = {LOCK, f"{JOB}.partial"}  # all that a job can have before it has a JOB
END_BYTES = 1 << 20


class JobFolder:
    """A job's folder, held by one process at a time: a context manager that keeps its files unless `remove` is called.

    Raises MediaError if another process works in it, it belongs to another job, it holds other files, or it cannot be
    written to; with `force` what another job left is dropped.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], seed: int, force: bool = False, suffix: str = ".mp4"):
        """`key` tells this job from others; `seed` is kept for the job if it has none yet; `suffix` is that of parts."""
        self.folder, self.key, self.seed, self.force, self.suffix = folder, dict(key), seed, force, suffix
        self.lock = FileLock(folder / LOCK, timeout=0)

    def __enter__(self) -> "JobFolder":
        try:
            self._check_content()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
        except Timeout:
            raise MediaError(f"another run works in {self.folder}: wait for it, or give another --job_dir.") from None
        except OSError as error:
            raise MediaError(f"cannot use the job folder {self.folder}: {error.strerror}. Choose another.") from error
        try:
            self._claim()
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

    def segment_path(self, index: int) -> Path:
        return self.folder / f"part_{index:05d}{self.suffix}"

    def missing_segments(self, count: int) -> list[int]:
        """Those of `count` parts that are not complete."""
        return [index for index in range(count) if not self.segment_path(index).is_file()]

    def segment_lock(self, index: int) -> Path:
        """The lock of who writes a part."""
        return self.folder / f"part_{index:05d}.lock"

    def save_facts(self, index: int, facts: Any) -> None:
        """Store what is known of a part; do so before the part itself appears."""
        self._write(f"part_{index:05d}.json", facts)

    def facts(self, index: int) -> Any:
        return json.loads((self.folder / f"part_{index:05d}.json").read_text(encoding="utf-8"))

    def remove(self) -> None:
        """Delete this job's own files, and the folder if nothing else is in it."""
        self._clear()
        lock = self.folder / LOCK
        with suppress(PermissionError):  # Windows removes nothing that is open
            lock.unlink(missing_ok=True)  # while it is held: afterwards it may be another run's
        self.lock.release()
        with suppress(OSError):
            if sys.platform == "win32":
                lock.unlink(missing_ok=True)
            self.folder.rmdir()

    def _check_content(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise MediaError(f"cannot use the job folder {self.folder}: it is a file. Choose another.")
        patterns = OWN_FILES if self._stored() is not None else ()
        found = set(self.folder.iterdir()) if self.folder.exists() else set()
        own = {path for pattern in patterns for path in self.folder.glob(pattern)}
        others = {path for path in found - own if path.name not in BEGUN}
        if others:
            raise MediaError(
                f"the job folder {self.folder} holds other files ({min(others).name}): choose an empty one."
            )

    def _claim(self) -> None:
        stored = self._stored()
        if stored is not None and stored["key"] == self.key and not self.force:
            self.seed = stored["seed"]
            return
        if stored is not None and not self.force and self._has_results():
            raise MediaError(
                f"{self.folder} holds an unfinished job with {_difference(stored['key'], self.key)}: repeat that"
                " command to go on, or give --force to start anew."
            )
        self._clear()
        self._write(JOB, {"key": self.key, "seed": self.seed})

    def _stored(self) -> dict[str, Any] | None:
        """What this class wrote; None without such a file."""
        try:
            stored = json.loads((self.folder / JOB).read_text(encoding="utf-8"))
        except (ValueError, OSError):
            return None
        ours = isinstance(stored, dict) and stored.keys() == {"key", "seed"} and isinstance(stored["key"], dict)
        return stored if ours else None

    def _has_results(self) -> bool:
        """Whether there is anything to go on with."""
        return self.faces.is_file() or any(path.suffix != ".lock" for path in self.folder.glob("part_*"))

    def _clear(self) -> None:
        for pattern in OWN_FILES:
            for path in self.folder.glob(pattern):
                path.unlink()

    def _write(self, name: str, value: Any) -> None:
        with atomic_output(self.folder / name) as partial:
            partial.write_text(json.dumps(value), encoding="utf-8")


def _difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first entry in which two jobs differ, in words."""
    names = [name for name in wanted if stored.get(name) != wanted[name]]
    return f"another {names[0].replace('_', ' ')}" if names else "other settings"


def identity(path: Path) -> list[int | str]:
    """What tells a file from another one without reading it whole: its size, time of change, and both ends."""
    stat = path.stat()
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(END_BYTES))
        file.seek(max(0, stat.st_size - END_BYTES))
        digest.update(file.read())
    return [stat.st_size, stat.st_mtime_ns, digest.hexdigest()]


# Which parts of a job a process writes, where several share the work: a lock for each part, gone with its process.
class SegmentLocks:
    """SegmentLocks the parts of a job that are missing and that no other process has claimed; a context manager.

    A part that its process did not finish, for whatever reason, is free again once that process has ended.
    """

    def __init__(self, folder: JobFolder, count: int):
        self.folder, self.count = folder, count
        self.held: dict[int, FileLock] = {}

    def __enter__(self) -> "SegmentLocks":
        return self

    def __exit__(self, *error: object) -> None:
        for index in list(self.held):
            self.held.pop(index).release()

    def free(self) -> Iterator[int]:
        """Parts to write, each claimed when it is asked for."""
        for index in range(self.count):
            self._release_written()
            if self._claim(index):
                yield index

    def _claim(self, index: int) -> bool:
        if index in self.held or self.folder.segment_path(index).is_file():
            return False
        lock = FileLock(self.folder.segment_lock(index), timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return False
        if self.folder.segment_path(index).is_file():  # written while the lock was waited for
            lock.release()
            return False
        self.held[index] = lock
        return True

    def _release_written(self) -> None:
        for index in [index for index in self.held if self.folder.segment_path(index).is_file()]:
            self.held.pop(index).release()
