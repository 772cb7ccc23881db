"""Many jobs spread over processes, each with models of its own on a device of its own."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache

import torch

from latentsync.inference.batch import JobEntry, Outcome, outcome_of
from latentsync.inference.helpers import SPAWN, Load, Team
from latentsync.inference.pipeline import LipsyncPipeline

RunEntry = Callable[[LipsyncPipeline, JobEntry], str]  # is sent to the processes; returns a line about what it did


def run_all_spread(entries: Sequence[JobEntry], run: RunEntry, team: Team) -> Iterator[Outcome]:
    """Run every entry in one of the team's processes; outcomes in the order of the entries.

    One that fails in a way that a sentence tells (ValueError, OSError) does not stop the others.
    """
    devices = SPAWN.Queue()
    for device in team.devices:
        devices.put(device)
    arguments = (team.load, devices, team.threads)
    with ProcessPoolExecutor(len(team.devices), SPAWN, initializer=_begin, initargs=arguments) as pool:
        futures = [pool.submit(_run, run, entry) for entry in entries]
        try:
            for entry, future in zip(entries, futures, strict=True):
                try:
                    yield outcome_of(entry, future.result)
                except BrokenProcessPool:
                    yield Outcome(
                        entry, error="its process was ended from outside: give the list again, with fewer workers."
                    )
        finally:
            pool.shutdown(cancel_futures=True)


_pipeline: Callable[[], LipsyncPipeline]  # of a process of the team


def _begin(load: Load, devices: "multiprocessing.Queue[torch.device]", threads: int) -> None:
    """A process of the team takes one of the devices; its models are loaded with the first job, which tells what is wrong."""
    global _pipeline
    torch.set_num_threads(threads)
    device = devices.get()
    _pipeline = cache(lambda: load(device))


def _run(run: RunEntry, entry: JobEntry) -> str:
    return run(_pipeline(), entry)
