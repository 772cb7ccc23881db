"""A job of the app: its order, progress, result and record. `web.store` keeps all of them."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from threading import Event, RLock
from typing import Any, Literal

from latentsync.files import atomic_write
from latentsync.inference.jobs.found_speakers import found_path
from latentsync.inference.jobs.ranges import parse_ranges
from latentsync.inference.settings import JobOptions
from latentsync.inference.timing import DETECT, GENERATE, SHEET
from web import texts
from web.errors import CancelledError
from web.files import plain_stem, remove_own
from web.speed import USUAL_SHARE

Kind = Literal["preflight", "preview", "run"]
State = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]
Delivery = Literal["pending", "delivered", "failed"]
API_OWNER = "client "  # begins the owner's name of jobs of the job API
INPUT = "input"  # in a job's folder: copies of its uploads
SPEAKERS_FILE = "speakers.json"  # there: of a job with speakers in place of the audio
RECORD = "job.json"  # in a job's folder: what is known about it after the app was stopped
CHECK_SHARE = 0.9  # of the search for faces in a check
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
class Speakers:
    """A file of speakers (see `latentsync.inference.jobs.speakers_file`): its content, and the sounds that it names."""

    content: Mapping[str, Any]
    sounds: Mapping[str, Path]


@dataclass(frozen=True)
class NewJob:
    """What a job is made from."""

    order: Order
    names: tuple[str, str]  # the owner's names of video and audio
    webhook_url: str = ""  # none
    speakers: Speakers | None = None  # in place of the audio


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
    began: float | None = None  # monotonic time at which it began to run
    stage_sec: dict[str, float] = field(default_factory=dict)  # seconds of the stages that are over
    detect_share: float = USUAL_SHARE  # of the search for faces in its time, as far as known
    is_resumed: bool = False
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
        options, stem = self.order.options, plain_stem(self.names[0])
        kind = f"preview_{preview_start_sec(options):g}s" if self.order.kind == "preview" else "lipsync"
        return self.folder / f"{stem}_{kind}{output_suffix(options)}"

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
        main = self.sheet if self.order.kind == "preflight" else self.output
        paths = [main, found_path(self.output), self.report_path]
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
            if self.began is None:
                self.began = self.last_progress
            if stage != self.stage:
                self.leave_stage()
                self.stage, self.stage_start, self.shown_left_sec = stage, self.last_progress, None
            self.step = max(1, done - self.done)
            self.state, self.done, self.total = "running", done, total

    def leave_stage(self) -> None:
        """Record how long the current stage took."""
        if self.stage:
            before_sec, self.stage_sec[self.stage] = (
                self.stage_sec.get(self.stage, 0.0),
                time.monotonic() - self.stage_start,
            )
            self.stage_sec[self.stage] += before_sec

    @property
    def elapsed_sec(self) -> float | None:
        """Seconds since the job began to run; None before."""
        return None if self.began is None else time.monotonic() - self.began

    @property
    def share(self) -> float | None:
        """The part of the whole job that is done, 0 to 1, by the time that its stages usually take; None if unknown."""
        with self.lock:
            if not self.total or self.stage not in (DETECT, SHEET, GENERATE):
                return None
            first = CHECK_SHARE if self.order.kind == "preflight" else self.detect_share
            done = self.done / self.total
            return first * done if self.stage == DETECT else first + (1 - first) * done

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
            self.began, self.is_resumed = None, True
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
        """The job of a folder, interrupted if it had not ended; one of `web.store.DAMAGED` without a valid record."""
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


def preview_start_sec(options: JobOptions) -> float:
    """The second of the video at which a preview begins."""
    ranges = parse_ranges(options.ranges)
    return float(ranges[0].start_sec) if ranges else options.start_sec or 0.0


def output_suffix(options: JobOptions) -> str:
    """The ending of a result's name: that of a container that holds the codec."""
    return ".mov" if options.codec == "prores" else ".mp4"
