"""Jobs of the app: their orders, progress, folders, owners and expiry.

A job has an id that cannot be guessed, and only its owner can access it: a browser, a user if there is a login, or a client of
the job API. Its folder has copies of the uploads, under neutral names, and the results.
"""

import errno
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from threading import Event, RLock
from typing import Any, Literal

from latentsync.files import atomic_write
from latentsync.inference.settings import JobOptions
from web import texts
from web.errors import CancelledError, ErrorCode, WebError
from web.settings import Limits

Kind = Literal["preflight", "preview", "run"]
State = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]
Delivery = Literal["pending", "delivered", "failed"]
API_OWNER = "client "  # begins the owner's name of jobs of the job API
INPUT = "input"  # in a job's folder: copies of its uploads
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
    """A checked request for a job; its files are in the app's folder, or in a folder that the app may read."""

    kind: Kind
    video: Path
    audio: Path
    model: str
    settings: dict[str, Any]  # fields of InferenceSettings that override the model's defaults
    options: JobOptions


@dataclass
class Webhook:
    """An address that is called when a job has ended."""

    url: str
    state: Delivery = "pending"
    attempts: int = 0
    error: str = ""  # of the last attempt


@dataclass(frozen=True)
class NewJob:
    """What a job is made from."""

    order: Order
    names: tuple[str, str]  # the owner's names of video and audio
    webhook_url: str = ""  # none


@dataclass(frozen=True)
class Submission:
    """Who submits jobs, and how they belong together.

    `address`: the client's network, whose unfinished jobs are limited; empty if the owner is identified by a password or a token.
    `key`: a client's own name of the submission, so that a repeated one makes no second job; `fingerprint`: hash of its content.
    """

    owner: str
    address: str = ""
    list_id: str = ""
    key: str = ""
    fingerprint: str = ""


@dataclass(eq=False)
class WebJob:
    """One order with its progress and result; hold `lock` to change it."""

    id: str
    order: Order  # uploads are copies in `folder`
    folder: Path
    names: tuple[str, str]  # the owner's names of video and audio
    uploads: tuple[Path, ...] = ()  # the files from which those of the order were copied
    submission: Submission = Submission("")
    webhook: Webhook | None = None
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
    def owner(self) -> str:
        return self.submission.owner

    @property
    def is_of_api(self) -> bool:
        return self.owner.startswith(API_OWNER)

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to the job by itself."""
        return self.state not in ("waiting", "running")

    @property
    def output(self) -> Path:
        return self.folder / f"{plain_stem(self.names[0])}_lipsync{output_suffix(self.order.options)}"

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
            if self.webhook is not None:
                self.webhook = Webhook(self.webhook.url)
        self.save()

    def save(self) -> None:
        """Write the record of the job into its folder; OSError if it cannot be written."""
        order = self.order
        with self.lock:
            record = {
                **asdict(self.submission),
                "kind": order.kind,
                "video": self._recorded_path(order.video),
                "audio": self._recorded_path(order.audio),
                "model": order.model,
                "settings": order.settings,
                "options": asdict(order.options),
                "names": self.names,
                "uploads": [path.relative_to(self.folder.parent.parent).as_posix() for path in self.uploads],
                "webhook": None if self.webhook is None else asdict(self.webhook),
                "created": self.created,
                "state": self.state,
                "error": self.error,
                "ended": self.ended,
                "report": self.report,
            }
        with atomic_write(self.folder / RECORD) as partial:
            partial.write_text(json.dumps(record, default=str), encoding="utf-8")

    def _recorded_path(self, path: Path) -> str:
        """A copied upload by its name, any other file by its whole path."""
        return path.name if path.parent == self.folder / INPUT else str(path)

    @classmethod
    def load(cls, folder: Path) -> "WebJob":
        """The job of a folder, interrupted if it had not ended; one of `DAMAGED` without a valid record."""
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        inputs, store, stored = folder / INPUT, folder.parent.parent, record["options"]
        fps = None if stored["fps"] is None else Fraction(stored["fps"])
        options = JobOptions(**{**stored, "fps": fps})
        files = inputs / record["video"], inputs / record["audio"]
        order = Order(record["kind"], *files, record["model"], dict(record["settings"]), options)
        job = cls(folder.name, order, folder, (record["names"][0], record["names"][1]))
        job.submission = Submission(str(record["owner"]), *(record.get(name, "") for name in SUBMISSION[1:]))
        job.webhook = Webhook(**record["webhook"]) if record.get("webhook") else None
        job.uploads = tuple(store / name for name in record["uploads"])
        job.created = float(record["created"])
        job.state, job.error, job.ended, job.report = (record[key] for key in ("state", "error", "ended", "report"))
        if not job.is_over:
            job.end("interrupted", texts.STOPPED)
        return job


SUBMISSION = tuple(field.name for field in fields(Submission))


def output_suffix(options: JobOptions) -> str:
    """The ending of a result's name: that of a container that holds the codec."""
    return ".mov" if options.codec == "prores" else ".mp4"


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
                raise WebError(texts.CANNOT_GO_ON.format(state=texts.STATES[job.state]), ErrorCode.WRONG_STATE)
            self._check_room(job.submission)
            job.wait_again()

    def uploaded(self, path: str | Path) -> Path:
        """The resolved path of a file that was uploaded to this app; WebError for any other path."""
        real = Path(path).resolve()
        is_upload = UPLOAD_PATTERN.fullmatch(real.parent.name) and real.parent.parent == self.folder
        if not is_upload or not real.is_file():
            raise WebError(texts.FILE_GONE.format(name=Path(path).name))
        return real

    def add(self, submission: Submission, new: Sequence[NewJob]) -> tuple[list[WebJob], bool]:
        """New jobs with their own folders and copies of uploads, and whether they are new: a submission that is repeated with its
        key yields the jobs that it made before.

        WebError if there are too many jobs, the disk is full, or another submission had the key; then no job is made.
        """
        with self._lock:
            if known := self.repeated(submission):
                return known, False
            self._check_room(submission, len(new))
            made: list[WebJob] = []
            try:
                for each in new:
                    made.append(self._made(submission, each))
            except OSError as error:
                raise WebError(disk_problem(error), ErrorCode.STORAGE_FULL) from error
            finally:
                if len(made) < len(new):
                    for job in made:
                        remove_own(job.folder)
            self._jobs |= {job.id: job for job in made}
            return made, True

    def _made(self, submission: Submission, new: NewJob) -> WebJob:
        """A job and its folder; OSError if it cannot be written, and then nothing is left of it."""
        job_id, order = secrets.token_urlsafe(ID_BYTES), new.order
        folder = self.jobs_folder / job_id
        folder.mkdir(mode=0o700)
        try:
            paths = {"video": order.video, "audio": order.audio}
            uploads = {name: path for name, path in paths.items() if path.is_relative_to(self.folder)}
            copies: dict[str, Any] = {name: copied(path, folder / INPUT, name) for name, path in uploads.items()}
            job = WebJob(job_id, replace(order, **copies), folder, new.names, tuple(uploads.values()), submission)
            job.webhook = Webhook(new.webhook_url) if new.webhook_url else None
            job.save()
            return job
        except OSError:
            remove_own(folder)
            raise

    def repeated(self, submission: Submission) -> list[WebJob]:
        """The jobs that this submission made before, by its key; WebError if another submission had the key."""
        with self._lock:
            same = [job for job in self._jobs.values() if submission.key and job.submission.key == submission.key]
            known = [job for job in same if job.owner == submission.owner]
        if any(job.submission.fingerprint != submission.fingerprint for job in known):
            raise WebError(texts.OTHER_REQUEST, ErrorCode.IDEMPOTENCY_CONFLICT)
        return known

    def get(self, job_id: str, owner: str) -> WebJob:
        """The job of this id; the same WebError if it does not exist or has another owner."""
        with self._lock:
            job = self._jobs.get(job_id) if isinstance(job_id, str) else None
        if job is None or not secrets.compare_digest(job.owner.encode(), owner.encode()):
            raise WebError(texts.UNKNOWN_JOB, ErrorCode.NOT_FOUND)
        return job

    def listed(self, list_id: str, owner: str) -> list[WebJob]:
        """The jobs of a list in their order; the same WebError if it does not exist or has another owner."""
        found = [job for job in reversed(self.of(owner)) if list_id and job.submission.list_id == list_id]
        if not found:
            raise WebError(texts.UNKNOWN_LIST, ErrorCode.NOT_FOUND)
        return found

    def uploads_of(self, client: str) -> set[Path]:
        """The uploads from which jobs of an owner, or of a network address, were made, and their copies."""
        with self._lock:
            jobs = [job for job in self._jobs.values() if client in (job.owner, job.submission.address)]
        return {path for job in jobs for path in (*job.uploads, job.folder / INPUT)}

    def due_webhooks(self) -> list[WebJob]:
        """Ended jobs whose webhook was not called yet."""
        with self._lock:
            return [
                job for job in self._jobs.values() if job.is_over and job.webhook and job.webhook.state == "pending"
            ]

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

    def _check_room(self, submission: Submission, count: int = 1) -> None:
        """WebError if an owner, an address or all users together would have too many unfinished jobs with `count` more."""
        unfinished = [job for job in self._jobs.values() if not job.is_over]
        mine = sum(job.owner == submission.owner for job in unfinished)
        near = sum(job.submission.address == submission.address for job in unfinished)
        if mine + count > self.jobs_limit(submission.owner):
            sentence = texts.TOO_MANY_YOURS.format(count=mine, limit=self.jobs_limit(submission.owner))
        elif submission.address and near + count > self.limits.unfinished_jobs_address:
            sentence = texts.TOO_MANY_NEAR.format(count=near)
        elif len(unfinished) + count > self.limits.unfinished_jobs:
            sentence = texts.TOO_MANY.format(count=len(unfinished))
        else:
            return
        raise WebError(sentence, ErrorCode.TOO_MANY_JOBS)

    def jobs_limit(self, owner: str) -> int:
        """How many unfinished jobs an owner may have."""
        is_client = owner.startswith(API_OWNER)
        return self.limits.unfinished_jobs_address if is_client else self.limits.unfinished_jobs_each

    def unfinished(self, owner: str) -> int:
        """Number of an owner's jobs that wait or run."""
        return sum(not job.is_over for job in self.of(owner))


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
