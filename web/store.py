"""All jobs of the app: their folders, owners and expiry.

A job has an id that cannot be guessed, and only its owner can access it: a browser, a user if there is a login, or a client of
the job API. Its folder has copies of the uploads, under neutral names, and the results.
"""

import json
import logging
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

from latentsync.inference.jobs.speakers_file import audio_names
from web import texts
from web.errors import ErrorCode, WebError
from web.expired import Expired
from web.files import ID_BYTES, copied, disk_problem, kept_secret, newest, remove_own
from web.jobs import API_OWNER, INPUT, RECORD, SPEAKERS_FILE, NewJob, Speakers, Submission, Webhook, WebJob
from web.settings import Limits

DAMAGED = (OSError, ValueError, KeyError, TypeError, IndexError)
SECRET, EXPIRED = "browser.key", "expired.json"  # in the app's folder
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{32}")
UPLOAD_PATTERN = re.compile(r"[0-9a-f]{64}")  # Gradio's folder of an upload is the hash of its content
log = logging.getLogger(__name__)


class JobStore:
    """All jobs of one app and their folders."""

    def __init__(self, folder: Path, limits: Limits):
        """`folder` belongs to the app alone: uploads are in it, jobs in its subfolder `jobs`."""
        self.folder, self.jobs_folder, self.limits = folder.resolve(), folder.resolve() / "jobs", limits
        self.jobs_folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._lock, self._expired = RLock(), Expired(self.folder / EXPIRED)
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
            if new.speakers is not None:
                copies["audio"], sounds = self._stored_speakers(new.speakers, folder / INPUT)
                uploads |= sounds
            job = WebJob(job_id, replace(order, **copies), folder, new.names, tuple(uploads.values()), submission)
            job.webhook = Webhook(new.webhook_url) if new.webhook_url else None
            job.save()
            return job
        except OSError:
            remove_own(folder)
            raise

    def _stored_speakers(self, speakers: Speakers, folder: Path) -> tuple[Path, dict[str, Path]]:
        """The file of speakers in a job's folder, with copies of the uploads that it names; and these uploads."""
        uploads = {name: path for name, path in speakers.sounds.items() if path.is_relative_to(self.folder)}
        places = {name: str(path) for name, path in speakers.sounds.items()}
        for number, (name, path) in enumerate(uploads.items()):
            places[name] = copied(path, folder, f"sound_{number}").name
        file = folder / SPEAKERS_FILE
        folder.mkdir(exist_ok=True)
        content = audio_names(speakers.content, folder / "none", places.__getitem__)
        file.write_text(json.dumps(content), encoding="utf-8")
        return file, {f"sound {name}": path for name, path in uploads.items()}

    def repeated(self, submission: Submission) -> list[WebJob]:
        """The jobs that this submission made before, by its key; WebError if another submission had the key."""
        with self._lock:
            same = [job for job in self._jobs.values() if submission.key and job.submission.key == submission.key]
            known = [job for job in same if job.owner == submission.owner]
        if any(job.submission.fingerprint != submission.fingerprint for job in known):
            raise WebError(texts.OTHER_REQUEST, ErrorCode.IDEMPOTENCY_CONFLICT)
        return known

    def get(self, job_id: str, owner: str) -> WebJob:
        """The job of this id; the same WebError if it does not exist or has another owner, and another if it has expired."""
        with self._lock:
            job = self._jobs.get(job_id) if isinstance(job_id, str) else None
        if job is None or not secrets.compare_digest(job.owner.encode(), owner.encode()):
            self._check_expired(job_id, owner)
            raise WebError(texts.UNKNOWN_JOB, ErrorCode.NOT_FOUND)
        return job

    def _check_expired(self, each: str, owner: str) -> None:
        if owner and isinstance(each, str) and self._expired.has(each, owner):
            raise WebError(texts.EXPIRED, ErrorCode.EXPIRED)

    def listed(self, list_id: str, owner: str) -> list[WebJob]:
        """The jobs of a list in their order; the same WebError if it does not exist or has another owner."""
        found = [job for job in reversed(self.of(owner)) if list_id and job.submission.list_id == list_id]
        if not found:
            self._check_expired(list_id, owner)
            raise WebError(texts.UNKNOWN_LIST, ErrorCode.NOT_FOUND)
        return found

    def uploads_of(self, client: str) -> set[Path]:
        """The folders of uploads from which jobs of an owner, or of a network address, were made, and of what was copied from
        them."""
        with self._lock:
            jobs = [job for job in self._jobs.values() if client in (job.owner, job.submission.address)]
        return {path for job in jobs for path in (*(upload.parent for upload in job.uploads), job.folder / INPUT)}

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

    def going_on(self, job: WebJob) -> WebJob:
        """The job of the same list that a page shows next: a job that has ended is followed by the first one that has not."""
        if not job.is_over or not job.submission.list_id:
            return job
        return next((each for each in self.listed(job.submission.list_id, job.owner) if not each.is_over), job)

    def checked(self, owner: str, video: str, audio: str) -> WebJob | None:
        """The newest finished check of two uploads, which were given by their paths; None if there is none."""
        files = (Path(video), Path(audio))
        checks = (job for job in self.of(owner) if job.order.kind == "preflight" and job.state == "done")
        return next((job for job in checks if job.uploads == files), None)

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
        now = time.time() if now is None else now
        oldest = now - self.limits.keep_sec
        with self._lock:
            for job in [job for job in self._jobs.values() if job.ended is not None and job.ended < oldest]:
                self.forget(job)
                self._expired.add([job.id, job.submission.list_id], job.owner, now)
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
