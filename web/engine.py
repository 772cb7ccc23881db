"""The worker of the app: it loads the models once and runs one job after the other."""

import gc
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

from latentsync.inference.jobs.job import check_job
from latentsync.inference.jobs.report import FrameReport, JobReport, save_report
from latentsync.inference.timing import DETECT, GENERATE
from latentsync.weights.adapters import adapter_text, adapters_of
from web import texts
from web.errors import CancelledError
from web.jobs import WebJob
from web.models import ModelChoice, Models
from web.orders import previewed
from web.sentences import page_sentence
from web.speed import Speeds
from web.store import JobStore

if TYPE_CHECKING:
    from latentsync.inference.pipeline import LipsyncPipeline  # imports PyTorch, which the first job does

SWEEP_SEC = 60.0
MOUTHS_PER_SEC, MOUTH = 4, 0.8  # the mouth's height in the box of a face, from its top
SPEEDS = "speeds.json"  # in the app's folder
log = logging.getLogger(__name__)


def mouths_of(frames: Sequence[FrameReport]) -> list[list[float]]:
    """Where the mouths are, about `MOUTHS_PER_SEC` times a second: seconds, x, y of the middle and the face's width in px."""
    found: list[list[float]] = []
    for frame in frames:
        if frame.box is not None and (not found or frame.time_sec >= found[-1][0] + 1 / MOUTHS_PER_SEC):
            x0, y0, x1, y1 = frame.box
            found.append(
                [round(frame.time_sec, 2), round((x0 + x1) / 2), round(y0 + MOUTH * (y1 - y0)), round(x1 - x0)]
            )
    return found


class Engine:
    """Runs jobs in its own thread; a cancelled job ends within one window of frames."""

    def __init__(self, models: Models, store: JobStore, unload_sec: float | None = None):
        """`unload_sec`: free the models after this idle time; None keeps them."""
        self.models, self.store, self.unload_sec = models, store, unload_sec
        self.speeds = Speeds(store.folder / SPEEDS)
        self.pipeline: LipsyncPipeline | None = None
        self.loaded: ModelChoice | None = None
        self._waiting: deque[WebJob] = deque()
        self._running: WebJob | None = None
        self._changed = Condition()
        self._stopping = False
        self._idle_since = self._swept = time.monotonic()
        self._thread = Thread(target=self._work, name="lip-sync worker", daemon=True)

    def start(self) -> "Engine":
        self._thread.start()
        return self

    def stop(self, timeout_sec: float = 30.0) -> None:
        """Interrupt the running job and the waiting ones, and end the thread."""
        with self._changed:
            self._stopping = True
            for job in self._waiting:
                job.end("interrupted", texts.STOPPED)
            self._waiting.clear()
            if self._running is not None:
                self._running.cancelling.set()
            self._changed.notify_all()
        self._thread.join(timeout_sec)

    def submit(self, job: WebJob) -> None:
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()

    def cancel(self, job: WebJob) -> None:
        """A waiting job ends at once, a running one at its next progress report."""
        with self._changed:
            job.cancelling.set()
            if job in self._waiting:
                self._waiting.remove(job)
                job.end("cancelled")

    def place(self, job: WebJob) -> int:
        """Number of jobs before this one, including the running one."""
        with self._changed:
            return self._waiting.index(job) + 1 if job in self._waiting else 0

    def unload(self) -> None:
        """Free the models' memory."""
        if self.pipeline is None:
            return
        import torch

        kind = self.pipeline.models.device.type
        self.pipeline, self.loaded = None, None
        gc.collect()
        module: Any = getattr(torch, kind, None)
        if hasattr(module, "empty_cache"):
            module.empty_cache()

    def _work(self) -> None:
        while True:
            job = self._next()
            if self._stopping:
                return
            if job is not None:
                self._do(job)
                self._running, self._idle_since = None, time.monotonic()
            self._housekeep()

    def _next(self) -> WebJob | None:
        with self._changed:
            if not self._waiting and not self._stopping:
                self._changed.wait(min(SWEEP_SEC, self.unload_sec or SWEEP_SEC))
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running

    def _housekeep(self) -> None:
        """Work between jobs: delete expired files, unload idle models."""
        now = time.monotonic()
        if now - self._swept >= SWEEP_SEC:
            self._swept = now
            self._quietly_sweep()
        is_idle = not self._waiting and self.unload_sec is not None and now - self._idle_since >= self.unload_sec
        if self.pipeline is not None and is_idle:
            self.unload()

    def _quietly_sweep(self) -> None:
        try:
            self.store.sweep()
        except OSError:
            log.exception("Expired files could not be deleted")

    def _do(self, job: WebJob) -> None:
        try:
            wanted = self.models.check(job.order.model, job.order.settings).made_for(job.order.settings)
            job.enter(texts.LOAD_STAGE if wanted != self.loaded else texts.BEGIN_STAGE)
            report = self._run(job, self._pipeline_of(wanted))
            adapters = [(Path(path.name), scale) for path, scale in adapters_of(report.settings.adapter)]
            settings = replace(report.settings, adapter=adapter_text(adapters))
            shown = replace(report, output=job.output.name, video=job.names[0], audio=job.names[1], settings=settings)
            save_report(shown, job.report_path)
            facts = shown.to_dict()
            del facts["per_frame"]  # large for a long video
            job.leave_stage()
            facts["mouths"] = mouths_of(report.per_frame)
            facts["stage_sec"] = {} if job.is_resumed else {name: round(sec, 3) for name, sec in job.stage_sec.items()}
            self.speeds.learn(job.order.model, facts)
            job.end("done", report=facts)
        except CancelledError:
            job.end("interrupted", texts.STOPPED) if self._stopping else job.end("cancelled")
        except (ValueError, OSError) as error:
            job.end("failed", page_sentence(error, job))
        except Exception as error:  # a bug ends one job, never the app
            log.exception("A %s job failed", job.order.kind)
            job.end("failed", texts.UNEXPECTED.format(kind=type(error).__name__))

    def _pipeline_of(self, wanted: ModelChoice) -> "LipsyncPipeline":
        if self.pipeline is None or self.loaded != wanted:
            self.unload()
            self.pipeline = self.models.load(wanted)
            self.loaded = wanted
        return self.pipeline

    def _run(self, job: WebJob, pipeline: "LipsyncPipeline") -> JobReport:
        from latentsync.inference.preflight import preflight

        order = job.order
        job.enter(texts.BEGIN_STAGE)
        settings = pipeline.models.defaults.changed(order.settings)
        if speed := self.speeds.of(order.model):
            job.detect_share = speed.detect_share(order.settings)
        options = previewed(order.options) if order.kind == "preview" else order.options
        checked = check_job(order.video, order.audio, job.output, options)

        if order.kind == "preflight":
            job.enter(DETECT)
            return preflight(pipeline, checked, settings, job.sheet, job.enter)
        frames = len(checked.timeline)

        def progress(stage: str, done: int, total: int) -> None:
            job.enter(stage, done, total)
            if done == total:  # the next stage may run long before its first report
                job.enter(texts.WRITE_STAGE) if stage == GENERATE else job.enter(GENERATE, 0, frames)

        job.enter(DETECT)
        return pipeline.run(checked, settings, progress, job.work)
