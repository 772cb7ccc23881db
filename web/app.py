"""The app without its page: what the page and the API share."""

from pathlib import Path
from typing import Any

from web import texts
from web.engine import Engine
from web.errors import WebError
from web.jobs import JobStore, WebJob
from web.models import Models
from web.orders import Inspector, Wish, make_order
from web.sentences import amount
from web.settings import AppSettings


class WebApp:
    """Models, jobs and worker of one app."""

    def __init__(self, models: Models, settings: AppSettings):
        self.models, self.settings = models, settings
        self.store = JobStore(settings.folder, settings.limits)
        self.inspector = Inspector(self.store, settings.limits)
        self.engine = Engine(models, self.store, settings.unload_sec)

    def start(self) -> "WebApp":
        self.store.sweep()
        self.engine.start()
        return self

    def stop(self) -> None:
        self.engine.stop()

    def submit(
        self,
        owner: str,
        wish: Wish,
        video: str | None,
        audio: str | None,
        names: tuple[str, str] | None = None,
        address: str = "",
    ) -> WebJob:
        """Check the request and put a job into the queue; WebError or ValueError if it is invalid.

        `address`: the client's network, whose unfinished jobs are limited; empty for a user who logged in.
        """
        if not video or not audio:
            raise WebError(texts.NEED_BOTH)
        names = names or (Path(video).name, Path(audio).name)
        order = make_order(wish, self.store.uploaded(video), self.store.uploaded(audio), self.models)
        self.inspector.video(video, names[0])
        self.inspector.sound(audio, names[1])
        job = self.store.add(owner, order, names, address)
        self.engine.submit(job)
        return job

    def cancel(self, job_id: str, owner: str) -> WebJob:
        job = self.store.get(job_id, owner)
        self.engine.cancel(job)
        return job

    def resume(self, job_id: str, owner: str) -> WebJob:
        """Let an interrupted job go on from where it was; WebError if it did not stop half-way."""
        job = self.store.get(job_id, owner)
        self.store.resume(job)
        self.engine.submit(job)
        return job

    def delete(self, job_id: str, owner: str) -> None:
        """Delete the files and uploads of an ended job; a running one is cancelled, and its files expire later."""
        job = self.store.get(job_id, owner)
        if job.is_over:
            self.store.delete(job)
        else:
            self.engine.cancel(job)

    def status(self, job: WebJob) -> dict[str, Any]:
        """Status of a job as plain values for JSON."""
        with job.lock:
            left_sec = job.left_sec
            expires = None if job.ended is None else job.ended + self.settings.limits.keep_sec
            return {
                "job_id": job.id,
                "kind": job.order.kind,
                "state": job.state,
                "place": self.engine.place(job) if job.state == "waiting" else 0,
                "stage": job.stage,
                "frames_done": job.done,
                "frames": job.total,
                "left_sec": None if left_sec is None else round(left_sec, 1),
                "error": job.error,
                "summary": job.report.get("summary", ""),
                "warnings": list(job.report.get("warnings", ())),
                "kept_until": None if expires is None else round(expires),
            }

    def results(self, job: WebJob) -> list[Path]:
        """The files of a finished job; WebError if there are none."""
        if not job.is_over:
            raise WebError(texts.UNFINISHED_JOB.format(state=texts.STATES[job.state]))
        if not job.results:
            raise WebError(texts.NO_FILES.format(state=texts.STATES[job.state], error=job.error or texts.CANCELLED))
        return job.results

    def waiting_text(self, job: WebJob) -> str:
        return texts.WAITING.format(place=amount(self.engine.place(job), texts.JOBS_BEFORE))
