"""Jobs of the app: what was asked, how far it is, its folder, who may see it, and when it goes.

A job is known by an id that cannot be guessed, and shown to its owner alone: a session, or a user where there is a login.
Its folder holds copies of what was uploaded, under names of ours, and the results.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, RLock
from typing import Any, Literal

from latentsync.inference.settings import JobOptions
from web import texts
from web.errors import CancelledError, WebError
from web.settings import Limits

Kind = Literal["preflight", "preview", "run"]
State = Literal["waiting", "running", "done", "failed", "cancelled"]
ID_BYTES = 24
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{32}")
STEM_LENGTH = 60


@dataclass(frozen=True)
class Order:
    """What somebody asks for; the files are in the app's folder."""

    kind: Kind
    video: Path
    audio: Path
    model: str
    settings: dict[str, Any]  # of InferenceSettings, over what the model recommends
    options: JobOptions


@dataclass(eq=False)
class WebJob:
    """One order and what became of it; changed under `lock` only."""

    id: str
    owner: str
    order: Order  # with the copies in `folder`
    folder: Path
    names: tuple[str, str]  # of video and sound, as their owner calls them
    created: float = field(default_factory=time.time)
    state: State = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    stage_begun: float = 0.0
    noted: float = 0.0  # when progress was last told of
    ended: float | None = None
    error: str = ""
    report: dict[str, Any] = field(default_factory=dict)  # as in the report's file, without the single frames
    lock: RLock = field(default_factory=RLock, repr=False)
    cancelling: Event = field(default_factory=Event, repr=False)

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def output(self) -> Path:
        return self.folder / f"{plain_stem(self.names[0])}_lipsync.mp4"

    @property
    def work(self) -> Path:
        """Where the engine keeps what is half done."""
        return self.folder / "work"

    @property
    def sheet(self) -> Path:
        return self.output.with_suffix(".preflight.jpg")

    @property
    def report_path(self) -> Path:
        return self.output.with_suffix(".report.json")

    @property
    def results(self) -> list[Path]:
        """The files that the owner may have, the main one first."""
        paths = [self.sheet if self.order.kind == "preflight" else self.output, self.report_path]
        return [path for path in paths if self.state == "done" and path.is_file()]

    @property
    def left_sec(self) -> float | None:
        """Seconds left in the present step, by its speed until now; None where it is not known."""
        with self.lock:
            if self.state != "running" or not 0 < self.done < self.total:
                return None
            left_sec = (self.noted - self.stage_begun) / self.done * (self.total - self.done)
            return max(0.0, left_sec - (time.monotonic() - self.noted))

    def enter(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Note progress; raises CancelledError where the owner cancelled."""
        if self.cancelling.is_set():
            raise CancelledError
        with self.lock:
            self.noted = time.monotonic()
            if stage != self.stage:
                self.stage, self.stage_begun = stage, self.noted
            self.state, self.done, self.total = "running", done, total

    def end(self, state: State, error: str = "", report: dict[str, Any] | None = None) -> None:
        """Note the end; what was half done is deleted."""
        if self.work.is_dir():
            remove_own(self.work)
        with self.lock:
            self.state, self.error, self.report, self.ended = state, error, report or {}, time.time()


def plain_stem(name: str) -> str:
    """The stem of a file's name for use in a path: letters, digits, '-' and '_' only, never empty."""
    return re.sub(r"[^\w-]+", "_", Path(name).stem).strip("_-")[:STEM_LENGTH] or "video"


class JobStore:
    """All jobs of one app, and their folders."""

    def __init__(self, folder: Path, limits: Limits):
        """`folder` is the app's own; uploads lie in it, jobs in its folder `jobs`."""
        self.folder, self.jobs_folder, self.limits = folder.resolve(), folder.resolve() / "jobs", limits
        self.jobs_folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._jobs: dict[str, WebJob] = {}
        self._lock = RLock()

    def uploaded(self, path: str | Path) -> Path:
        """The real path of a file that was uploaded to this app; WebError for every other path."""
        real = Path(path).resolve()
        inside = real.is_relative_to(self.folder) and not real.is_relative_to(self.jobs_folder)
        if not inside or not real.is_file():
            raise WebError(texts.FILE_GONE.format(name=Path(path).name))
        return real

    def add(self, owner: str, order: Order, names: tuple[str, str]) -> WebJob:
        """A new job with its own folder and copies of the files; WebError where there are too many jobs."""
        with self._lock:
            self._check_room(owner)
            job_id = secrets.token_urlsafe(ID_BYTES)
            folder = self.jobs_folder / job_id
            folder.mkdir(mode=0o700)
            video = copied(order.video, folder / "input", "video")
            audio = copied(order.audio, folder / "input", "audio")
            kept = Order(order.kind, video, audio, order.model, order.settings, order.options)
            job = WebJob(job_id, owner, kept, folder, names)
            self._jobs[job_id] = job
            return job

    def get(self, job_id: str, owner: str) -> WebJob:
        """The job of this id; WebError if it is not there or not this owner's, in the same words."""
        with self._lock:
            job = self._jobs.get(job_id) if isinstance(job_id, str) else None
        if job is None or not secrets.compare_digest(job.owner.encode(), owner.encode()):
            raise WebError(texts.UNKNOWN_JOB)
        return job

    def of(self, owner: str) -> list[WebJob]:
        """An owner's jobs, the newest first."""
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if owner and job.owner == owner]

    def forget(self, job: WebJob) -> None:
        """Drop a job that is over, and its files."""
        assert job.is_over, "a job at work still needs its files"
        with self._lock:
            self._jobs.pop(job.id, None)
        remove_own(job.folder)

    def sweep(self, now: float | None = None) -> None:
        """Drop what was kept for its time: jobs, folders that an earlier app left, and uploads."""
        oldest = (time.time() if now is None else now) - self.limits.keep_sec
        with self._lock:
            for job in [job for job in self._jobs.values() if job.ended is not None and job.ended < oldest]:
                self.forget(job)
            known = set(self._jobs)
        for folder in self.jobs_folder.iterdir():
            if folder.name not in known and ID_PATTERN.fullmatch(folder.name) and newest(folder) < oldest:
                remove_own(folder)
        for folder in self.folder.iterdir():
            if folder.is_dir() and re.fullmatch(r"[0-9a-f]{64}", folder.name) and newest(folder) < oldest:
                remove_own(folder)

    def _check_room(self, owner: str) -> None:
        unfinished = [job for job in self._jobs.values() if not job.is_over]
        mine = sum(job.owner == owner for job in unfinished)
        if mine >= self.limits.unfinished_jobs_each:
            raise WebError(texts.TOO_MANY_YOURS.format(count=mine))
        if len(unfinished) >= self.limits.unfinished_jobs:
            raise WebError(texts.TOO_MANY.format(count=len(unfinished)))


def copied(source: Path, folder: Path, name: str) -> Path:
    """A copy of a file (a second name for it, where the disk allows) that lasts when the upload goes."""
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}{plain_suffix(source)}"
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def plain_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""


def newest(folder: Path) -> float:
    """When a folder or something in it was last made or renamed."""
    return max(path.stat().st_ctime for path in (folder, *tree(folder)))


def tree(folder: Path) -> Iterator[Path]:
    """Everything below a folder, what is deepest first; links are not followed."""
    for root, folders, files in os.walk(folder, topdown=False):
        yield from (Path(root) / name for name in (*files, *folders))


def remove_own(folder: Path) -> None:
    """Delete one of the app's own folders."""
    for path in tree(folder):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    folder.rmdir()
