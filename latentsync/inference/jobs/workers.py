"""Processes that help with one job: each writes parts that nobody else writes, into the same job folder.

Every process loads models of its own onto its own device. The parts of a job are planned before they are written and do not
depend on each other, so the result has the same bytes whoever writes which (on equal devices with as many threads).
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from latentsync.inference.jobs.job import LipsyncJob
from latentsync.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from latentsync.inference.pipeline import LipsyncPipeline

Load = Callable[
    [torch.device], "LipsyncPipeline"
]  # is sent to the processes: a function of a module, or a `partial` of one
SPAWN = multiprocessing.get_context("spawn")  # a fork of a process that has used threads or a GPU may hang
GRACE_SEC = 1.0  # for a process to end by itself; what it leaves unfinished is free to others


@dataclass(frozen=True)
class WorkerPool:
    """Processes beside this one: how each gets its models, the device of each, and how many threads it computes with."""

    load: Load
    devices: Sequence[torch.device]
    threads: int


class StoppedError(Exception):
    """The process that asked for help needs it no longer."""


@contextmanager
def worker_pool(
    pool: WorkerPool | None, job: LipsyncJob, settings: InferenceSettings, folder: Path
) -> Iterator[list[str]]:
    """Let a pool write parts of a job while the block writes parts too; `settings` have their seed.

    Gives a list that tells at the end, in sentences, what went wrong in other processes: others write their parts then.
    """
    errors: list[str] = []
    stop, told = SPAWN.Event(), SPAWN.SimpleQueue()
    helpers = [
        SPAWN.Process(target=_help, args=(pool, device, job, settings, folder, stop, told), daemon=True)
        for device in (pool.devices if pool else ())
    ]
    for helper in helpers:
        helper.start()
    try:
        yield errors
    finally:
        stop.set()
        for helper in helpers:
            helper.join(GRACE_SEC)
            if helper.exitcode:
                errors.append(f"a process that helped ended with code {helper.exitcode}; others did its work.")
            helper.terminate()  # where it is still loading its models
            helper.join()
        while not told.empty():
            errors.append(told.get())


def _help(
    pool: WorkerPool,
    device: torch.device,
    job: LipsyncJob,
    settings: InferenceSettings,
    folder: Path,
    stop: Event,
    told: "SimpleQueue[str]",
) -> None:
    """In a process of its own: write parts until none is free, or nobody needs them."""
    parent = multiprocessing.parent_process()

    def check(done: int) -> None:
        if stop.is_set() or (parent is not None and not parent.is_alive()):
            raise StoppedError

    torch.set_num_threads(pool.threads)
    with suppress(StoppedError, KeyboardInterrupt):
        try:
            pool.load(device).assist(job, settings, folder, check)
        except (ValueError, OSError, RuntimeError) as error:
            told.put(f"a process on {device} could not help ({error}); others did its work.")
