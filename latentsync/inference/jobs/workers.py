"""Worker processes that share one job: each writes output segments that no other process writes, into the same job folder.

Every process loads its own models onto its own device. The segments of a job are planned before they are written and do not
depend on each other, so the result has the same bytes whichever process writes which (on equal devices with equal thread counts).
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.inference.jobs.job import LipsyncJob
from latentsync.inference.settings import InferenceSettings

if TYPE_CHECKING:
    import torch  # slow to import, and not needed to check a job

    from latentsync.inference.pipeline import LipsyncPipeline

Load = Callable[["torch.device"], "LipsyncPipeline"]  # pickled: a module's function or a partial of it
SPAWN = multiprocessing.get_context("spawn")  # a forked process may hang if its parent has used threads or a GPU
GRACE_SEC = 1.0  # time for a worker to end by itself; other processes write the segments that it leaves unfinished


@dataclass(frozen=True)
class WorkerPool:
    """Worker processes to start: `load` returns the pipeline of each, on one of `devices`; `threads` of the CPU for each."""

    load: Load
    devices: Sequence["torch.device"]
    threads: int


class StoppedError(Exception):
    """Raised in a worker when the main process has finished or stopped."""


@contextmanager
def worker_pool(
    pool: WorkerPool | None, job: LipsyncJob, settings: InferenceSettings, folder: Path
) -> Iterator[list[str]]:
    """Run worker processes that write segments of a job while the block writes segments too; `settings` have the job's seed.

    Yields a list that is filled with the workers' errors, one sentence each, on leaving the block. If a worker fails, the
    other processes write its segments, and the job continues.
    """
    errors: list[str] = []
    stop, worker_errors = SPAWN.Event(), SPAWN.SimpleQueue()
    workers = [
        SPAWN.Process(target=_work, args=(pool, device, job, settings, folder, stop, worker_errors), daemon=True)
        for device in (pool.devices if pool else ())
    ]
    for worker in workers:
        worker.start()
    try:
        yield errors
    finally:
        stop.set()
        for worker in workers:
            worker.join(GRACE_SEC)
            if worker.exitcode:
                errors.append(
                    f"a worker process ended with code {worker.exitcode}; other processes wrote its segments."
                )
            worker.terminate()  # it may still be loading its models
            worker.join()
        while not worker_errors.empty():
            errors.append(worker_errors.get())


def _work(
    pool: WorkerPool,
    device: "torch.device",
    job: LipsyncJob,
    settings: InferenceSettings,
    folder: Path,
    stop: Event,
    errors: "SimpleQueue[str]",
) -> None:
    """Target of a worker process: write segments until none is left, or the main process ends."""
    import torch

    parent = multiprocessing.parent_process()

    def check(done: int) -> None:
        if stop.is_set() or (parent is not None and not parent.is_alive()):
            raise StoppedError

    torch.set_num_threads(pool.threads)
    with suppress(StoppedError, KeyboardInterrupt):
        try:
            pool.load(device).assist(job, settings, folder, check)
        except (ValueError, OSError, RuntimeError) as error:
            errors.put(f"a worker process on {device} failed ({error}); other processes wrote its segments.")
