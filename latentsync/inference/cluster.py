"""Many jobs spread over the machines of a Ray cluster. Files are named alike on all of them, as on a shared disk."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from latentsync.device import pick_device
from latentsync.inference.batch import JobEntry, Outcome, outcome_of
from latentsync.inference.helpers import Load
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.spread import RunEntry


class Worker:
    """A process somewhere in the cluster, with models of its own on the device that it was given."""

    def __init__(self, load: Load, run: RunEntry):
        self.load, self.run_entry = load, run

    @cached_property
    def pipeline(self) -> LipsyncPipeline:
        """Loaded with the first job, which tells what is wrong."""
        return self.load(pick_device())

    def run(self, entry: JobEntry) -> Outcome:
        """One job of the list."""
        return outcome_of(entry, lambda: self.run_entry(self.pipeline, entry))


def run_all_on_cluster(
    entries: Sequence[JobEntry], run: RunEntry, load: Load, gpus: float, workers: int
) -> Iterator[Outcome]:
    """Run every entry in one of `workers` processes of the Ray that is running; outcomes in the order of the entries.

    With `gpus` each process has one of them to itself; a job whose process ends is told, and the others go on.
    """
    import ray

    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(Worker)

    def start() -> Any:
        return remote.remote(load, run)

    yield from _in_order(entries, [start() for _ in range(min(workers, len(entries)))], start)


def _in_order(entries: Sequence[JobEntry], workers: Sequence[Any], start: Callable[[], Any]) -> Iterator[Outcome]:
    """Give each worker a job as soon as it is free."""
    import ray

    free, waiting = deque(workers), deque(entries)
    running: dict[Any, tuple[Any, JobEntry]] = {}
    done: dict[int, Outcome] = {}
    for wanted in entries:
        while wanted.number not in done:
            while free and waiting:
                worker, entry = free.popleft(), waiting.popleft()
                running[worker.run.remote(entry)] = worker, entry
            result = ray.wait(list(running))[0][0]
            worker, entry = running.pop(result)
            try:
                done[entry.number] = ray.get(result)
            except ray.exceptions.RayActorError as error:
                done[entry.number] = Outcome(entry, error=f"its process ended: {error}")
                worker = start()
            free.append(worker)
        yield done.pop(wanted.number)
