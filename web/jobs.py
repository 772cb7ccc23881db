"""Jobs of the app: their orders, progress, folders, owners and expiry.

A job has an id that cannot be guessed, and only its owner can access it: a session, or a user if there is a login. Its
folder has copies of the uploads, under neutral names, and the results.
"""

import errno
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, RLock
from typing import Any, Literal

from latentsync.files import atomic_write
from latentsync.inference.settings import JobOptions
from web import texts
from web.errors import CancelledError, WebError
from web.settings import Limits

Kind = Literal["preflight", "preview", "run"]
State = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]
RECORD = "job.json"  # in a job's folder: what is known about it after the app was stopped
DAMAGED = (OSError, ValueError, KeyError, TypeError, IndexError)
SECRET = "browser.key"  # in the app's folder
ID_BYTES = 24
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{32}")
UPLOAD_PATTERN = re.compile(r"[0-9a-f]{64}")  # Gradio's folder of an upload is the hash of its content
STEM_LENGTH = 60
LONGER = 1.25  # an estimate of the time left that is longer by less is not shown
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """A checked request for a job; its files are in the app's folder."""

    kind: Kind
    video: Path
    audio: Path
    model: str
    settings: dict[str, Any]  # fields of InferenceSettings that override the model's defaults
    options: JobOptions


@dataclass(eq=False)
class WebJob:
    """One order with its progress and result; hold `lock` to change it."""

    id: str
    owner: str
    order: Order  # its files are the copies in `folder`
    folder: Path
    names: tuple[str, str]  # the owner's names of video and audio
    uploads: tuple[Path, ...] = ()  # the files from which those of the order were copied
    address: str = ""  # network address of the owner, if there is no login
    created: float = field(default_factory=time.time)
    state: State = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    stage_start: float = 0.0
    last_progress: float = 0.0  # time of the last progress report, monotonic
    step: int = 1  # frames that the last progress report added
    shown_left_sec: float | None = None  # `left_sec` of the stage as last told
    ended: float | None = None
    error: str = ""
    report: dict[str, Any] = field(default_factory=dict)  # as in the report file, without the frames
    lock: RLock = field(default_factory=RLock, repr=False)
    cancelling: Event = field(default_factory=Event, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to the job by itself."""
        return self.state not in ("waiting", "running")

    @property
    def output(self) -> Path:
        return self.folder / f"{plain_stem(self.names[0])}_lipsync.mp4"

    @property
    def work(self) -> Path:
        """Folder of unfinished results."""
        return self.folder / "work"

    @property
    def sheet(self) -> Path:
        return self.output.with_suffix(".preflight.jpg")

    @property
    def report_path(self) -> Path:
        return self.output.with_suffix(".report.json")

    @property
    def results(self) -> list[Path]:
        """The files for the owner, the main one first; empty unless the job is done."""
        paths = [self.sheet if self.order.kind == "preflight" else self.output, self.report_path]
        return [path for path in paths if self.state == "done" and path.is_file()]

    @property
    def left_sec(self) -> float | None:
        """Estimated seconds left in the current stage, above 0; None if unknown.

        From call to call it falls or stays, unless the estimate has become longer by more than `LONGER`.
        """
        with self.lock:
            left_sec, before_sec = self._estimated_left_sec(), self.shown_left_sec
            if left_sec is None:
                return None
            is_held = before_sec is not None and before_sec < left_sec <= LONGER * before_sec
            self.shown_left_sec = before_sec if is_held else left_sec
            return self.shown_left_sec

    def _estimated_left_sec(self) -> float | None:
        """Seconds left by the speed so far, if the frames that are being computed are ready in time or now; None if unknown."""
        if self.state != "running" or not 0 < self.done < self.total:
            return None
        now, step = time.monotonic(), min(self.step, self.total - self.done)
        usual_sec = (self.last_progress - self.stage_start) / self.done  # of a frame
        slowest_sec = max(usual_sec, (now - self.stage_start) / (self.done + step))
        left_sec = slowest_sec * (self.total - self.done - step) + max(
            0.0, step * usual_sec - (now - self.last_progress)
        )
        return left_sec if left_sec > 0 else None

    def enter(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Record progress; raises CancelledError if the owner cancelled the job."""
        if self.cancelling.is_set():
            raise CancelledError
        with self.lock:
            self.last_progress = time.monotonic()
            if stage != self.stage:
                self.stage, self.stage_start, self.shown_left_sec = stage, self.last_progress, None
            self.step = max(1, done - self.done)
            self.state, self.done, self.total = "running", done, total

    def end(self, state: State, error: str = "", report: dict[str, Any] | None = None) -> None:
        """Record the end of the job and delete unfinished results, from which an interrupted job goes on."""
        if self.work.is_dir() and state != "interrupted":
            remove_own(self.work)
        with self.lock:
            self.state, self.error, self.report, self.ended = state, error, report or {}, time.time()
        try:
            self.save()
        except OSError:
            log.exception("A job could not be recorded")

    def wait_again(self) -> None:
        """Put an interrupted job back to the state before it ran."""
        with self.lock:
            self.state, self.stage, self.error, self.ended = "waiting", "", "", None
            self.done = self.total = 0
            self.cancelling.clear()
        self.save()

    def save(self) -> None:
        """Write the record of the job into its folder; OSError if it cannot be written."""
        order = self.order
        with self.lock:
            record = {
                "owner": self.owner,
                "kind": order.kind,
                "video": order.video.name,
                "audio": order.audio.name,
                "model": order.model,
                "settings": order.settings,
                "options": asdict(order.options),
                "names": self.names,
                "uploads": [path.relative_to(self.folder.parent.parent).as_posix() for path in self.uploads],
                "address": self.address,
                "created": self.created,
                "state": self.state,
                "error": self.error,
                "ended": self.ended,
                "report": self.report,
            }
        with atomic_write(self.folder / RECORD) as partial:
            partial.write_text(json.dumps(record), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "WebJob":
        """The job of a folder, interrupted if it had not ended; one of `DAMAGED` without a valid record."""
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        inputs, store = folder / "input", folder.parent.parent
        options = JobOptions(**record["options"])
        files = inputs / record["video"], inputs / record["audio"]
        order = Order(record["kind"], *files, record["model"], dict(record["settings"]), options)
        job = cls(folder.name, str(record["owner"]), order, folder, (record["names"][0], record["names"][1]))
        job.uploads = tuple(store / name for name in record["uploads"])
        job.address, job.created = record["address"], float(record["created"])
        job.state, job.error, job.ended, job.report = (record[key] for key in ("state", "error", "ended", "report"))
        if not job.is_over:
            job.end("interrupted", texts.STOPPED)
        return job


def plain_stem(name: str) -> str:
    """The stem of a file name, safe for a path: only letters, digits, '-' and '_', never empty."""
    return re.sub(r"[^\w-]+", "_", Path(name).stem).strip("_-")[:STEM_LENGTH] or "video"


class JobStore:
    """All jobs of one app and their folders."""

    def __init__(self, folder: Path, limits: Limits):
        """`folder` belongs to the app alone: uploads are in it, jobs in its subfolder `jobs`."""
        self.folder, self.jobs_folder, self.limits = folder.resolve(), folder.resolve() / "jobs", limits
        self.jobs_folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._lock = RLock()
        self._jobs = {job.id: job for job in sorted(self._recorded(), key=lambda job: job.created)}
        self.browser_secret = kept_secret(self.folder / SECRET)

    def _recorded(self) -> Iterator[WebJob]:
        """The jobs of an earlier run of the app."""
        for folder in self.jobs_folder.iterdir():
            if (folder / RECORD).is_file() and ID_PATTERN.fullmatch(folder.name):
                try:
                    yield WebJob.load(folder)
                except DAMAGED:
                    log.warning("The record of the job %s is damaged", folder.name)

    def resume(self, job: WebJob) -> None:
        """Let an interrupted job wait for the worker again; WebError for any other, or if there are too many jobs."""
        with self._lock:
            if job.state != "interrupted":
                raise WebError(texts.CANNOT_GO_ON.format(state=texts.STATES[job.state]))
            self._check_room(job.owner, job.address)
            job.wait_again()

    def uploaded(self, path: str | Path) -> Path:
        """The resolved path of a file that was uploaded to this app; WebError for any other path."""
        real = Path(path).resolve()
        inside = real.is_relative_to(self.folder) and not real.is_relative_to(self.jobs_folder)
        if not inside or not real.is_file():
            raise WebError(texts.FILE_GONE.format(name=Path(path).name))
        return real

    def add(self, owner: str, order: Order, names: tuple[str, str], address: str = "") -> WebJob:
        """A new job with its own folder and copies of the files; WebError if there are too many jobs."""
        with self._lock:
            self._check_room(owner, address)
            job_id = secrets.token_urlsafe(ID_BYTES)
            folder = self.jobs_folder / job_id
            folder.mkdir(mode=0o700)
            try:
                video = copied(order.video, folder / "input", "video")
                audio = copied(order.audio, folder / "input", "audio")
                kept = Order(order.kind, video, audio, order.model, order.settings, order.options)
                job = WebJob(job_id, owner, kept, folder, names, (order.video, order.audio), address)
                job.save()
            except OSError as error:
                remove_own(folder)
                raise WebError(disk_problem(error)) from error
            self._jobs[job_id] = job
            return job

    def get(self, job_id: str, owner: str) -> WebJob:
        """The job of this id; the same WebError if it does not exist or has another owner."""
        with self._lock:
            job = self._jobs.get(job_id) if isinstance(job_id, str) else None
        if job is None or not secrets.compare_digest(job.owner.encode(), owner.encode()):
            raise WebError(texts.UNKNOWN_JOB)
        return job

    def of(self, owner: str) -> list[WebJob]:
        """The jobs of an owner, the newest first."""
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if owner and job.owner == owner]

    def forget(self, job: WebJob) -> None:
        """Delete an ended job and its files."""
        assert job.is_over, "a running job still needs its files"
        with self._lock:
            self._jobs.pop(job.id, None)
        remove_own(job.folder)

    def delete(self, job: WebJob) -> None:
        """Delete an ended job and its files, and the uploads that no other job was made from."""
        self.forget(job)
        with self._lock:
            used = {path for other in self._jobs.values() for path in other.uploads}
        for path in set(job.uploads) - used:
            if UPLOAD_PATTERN.fullmatch(path.parent.name) and path.parent.is_dir():
                remove_own(path.parent)

    def sweep(self, now: float | None = None) -> None:
        """Delete what is older than `keep_sec`: ended jobs, job folders of an earlier app, and uploads."""
        oldest = (time.time() if now is None else now) - self.limits.keep_sec
        with self._lock:
            for job in [job for job in self._jobs.values() if job.ended is not None and job.ended < oldest]:
                self.forget(job)
            known = set(self._jobs)
        for folder in self.jobs_folder.iterdir():
            if folder.name not in known and ID_PATTERN.fullmatch(folder.name) and newest(folder) < oldest:
                remove_own(folder)
        for folder in self.folder.iterdir():
            if folder.is_dir() and UPLOAD_PATTERN.fullmatch(folder.name) and newest(folder) < oldest:
                remove_own(folder)

    def _check_room(self, owner: str, address: str) -> None:
        unfinished = [job for job in self._jobs.values() if not job.is_over]
        mine = sum(job.owner == owner for job in unfinished)
        if mine >= self.limits.unfinished_jobs_each:
            raise WebError(texts.TOO_MANY_YOURS.format(count=mine))
        near = sum(job.address == address for job in unfinished)
        if address and near >= self.limits.unfinished_jobs_address:
            raise WebError(texts.TOO_MANY_NEAR.format(count=near))
        if len(unfinished) >= self.limits.unfinished_jobs:
            raise WebError(texts.TOO_MANY.format(count=len(unfinished)))


def kept_secret(path: Path) -> str:
    """The content of a file of random letters, which is made if it is missing."""
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(secrets.token_urlsafe(ID_BYTES), encoding="ascii")
            partial.chmod(0o600)
    return path.read_text(encoding="ascii")


def disk_problem(error: OSError) -> str:
    """A sentence for a file that could not be written."""
    return (
        texts.DISK_FULL
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else texts.NOT_WRITTEN.format(reason=error.strerror)
    )


def copied(source: Path, folder: Path, name: str) -> Path:
    """A hard link to a file, or a copy if the file system has no links, which remains when the upload is deleted."""
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
    """Time of the last change (ctime) of a folder or anything in it."""
    return max(path.stat().st_ctime for path in (folder, *tree(folder)))


def tree(folder: Path) -> Iterator[Path]:
    """Everything below a folder, deepest first; links are not followed."""
    for root, folders, files in os.walk(folder, topdown=False):
        yield from (Path(root) / name for name in (*files, *folders))


def remove_own(folder: Path) -> None:
    """Delete a folder of the app and everything in it."""
    for path in tree(folder):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    folder.rmdir()
