"""Runs a plan over a folder of videos with Ray Data: every core and GPU, bounded queues, a clip at a time.

A group of steps is one operator: ordinary tasks on cores, a pool of actors for networks where there are GPUs. Only lines
of manifests travel between operators; the clips lie in the output folder. Ray repeats what a dead worker or a lost machine
had begun, and the manifests keep what was done, so nothing is done twice and nothing is forgotten.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from latentsync.processing.config import RunSettings
from latentsync.processing.manifests.manifest import NEWS, Manifests
from latentsync.processing.plan import Plan, groups_of, stage_names
from latentsync.processing.run.chain import Chain, Item
from latentsync.processing.run.operators import GroupWorker, remote_watch, run_group, to_row
from latentsync.processing.run.progress import StageProgress, Tally, Watcher, progress_of
from latentsync.processing.run.ray_session import Cluster, ray_session
from latentsync.processing.run.resume import pending, prepare, remove_spent_files
from latentsync.processing.run.run_lock import clear_staging, owned
from latentsync.processing.run_folder import Job

POLL_SEC = 0.5

Show = Callable[[Sequence[StageProgress]], None]


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    tallies: Mapping[str, Tally]  # of this run, by stage
    without_source: int  # clips that could not go on because their source is gone


def run(plan: Plan, job: Job, settings: RunSettings, show: Show = lambda progress: None) -> Outcome:
    """Bring every source of a job to its end; called again after an interruption, it goes on where that was.

    `show` is called about twice a second with each stage's progress in this run. A clip on which a stage keeps failing is
    recorded as failed, and tried again only by the next run.

    Raises:
        ValueError: another run works on the same output, or a stage cannot be made (weights or a library are missing).
        OSError: the disk is full.
    """
    with owned(job):
        manifests = Manifests(job.manifests, stage_names(plan))
        prepare(job, plan, manifests)
        waiting = pending(job, plan, manifests)
        tallies: Mapping[str, Tally] = {}
        if waiting.items:
            with ray_workers(plan, job, settings) as workers:
                tallies = _waves(plan, job, manifests, workers, show)
                waiting = pending(job, plan, manifests)
        _tidy(job, plan, manifests)
        return Outcome(tallies, waiting.without_source)


@dataclass(frozen=True)
class Workers:
    """Those who do the work: `bring_on` takes clips through all steps that are left to them and returns then."""

    bring_on: Callable[[Sequence[Item]], None]
    tallies: Callable[[], Mapping[str, Tally]]


@contextlib.contextmanager
def ray_workers(plan: Plan, job: Job, settings: RunSettings) -> Iterator[Workers]:
    """The workers of a Ray that is started here or joined."""
    with ray_session(settings.ray_address, settings.cores, settings.gpus) as cluster:
        watcher = remote_watch()

        def bring_on(items: Sequence[Item]) -> None:
            _drain(_stream(plan, job, settings, cluster, watcher, items))

        yield Workers(bring_on, watcher.snapshot)


def _waves(plan: Plan, job: Job, manifests: Manifests, workers: Workers, show: Show) -> Mapping[str, Tally]:
    """Hand out what waits until nothing does."""
    counts = pending(job, plan, manifests).counts

    def tell() -> None:
        show(progress_of(manifests.stages, workers.tallies(), counts))

    with _told(tell):
        before: list[str] = []
        while items := pending(job, plan, manifests).items:
            keys = [item.key for item in items]
            assert keys != before, "each wave of clips makes progress"
            before = keys
            workers.bring_on(items)
            manifests.compact()
    return workers.tallies()


def _stream(
    plan: Plan, job: Job, settings: RunSettings, cluster: Cluster, watcher: Watcher, items: Sequence[Item]
) -> Any:
    """The Ray data set that does the work when it is read; it yields nothing."""
    import ray.data

    stream: Any = None
    has_gpu = cluster.gpus > 0
    for number, group in enumerate(groups_of(plan, has_gpu)):
        names = {step.name for step in group}
        rows = [to_row(item) for item in items if item.step in names]
        if rows:
            fresh = ray.data.from_items(rows, override_num_blocks=len(rows))
            stream = fresh if stream is None else stream.union(fresh)
        if stream is not None:
            chain = Chain(group, plan, job, watcher)
            on_gpu = has_gpu and any(step.needs_gpu for step in group)
            work = _on_gpus(chain, cluster, settings) if on_gpu else _on_cores(chain, number)
            stream = stream.map_batches(batch_size=1, batch_format="pyarrow", **work)
    return stream


def _on_cores(chain: Chain, number: int) -> dict[str, Any]:
    # Ray Data merges neighbours that ask for the same; a merged pair would keep all cuts of a source on one core.
    return {"fn": partial(run_group, chain=chain), "num_cpus": 1 - number / 1000}


def _on_gpus(chain: Chain, cluster: Cluster, settings: RunSettings) -> dict[str, Any]:
    import ray.data

    most = max(1, int(cluster.gpus * settings.workers_per_gpu))
    return {
        "fn": GroupWorker,
        "fn_constructor_kwargs": {"chain": chain},
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=max(1, int(cluster.gpus))),
        "num_gpus": 1 / settings.workers_per_gpu,
        "num_cpus": 0,  # it must not wait for a core that cuts videos for it
    }


def _drain(stream: Any) -> None:
    """Do the work; an error in a worker that concerns the whole run is raised as what it was there."""
    from ray.exceptions import RayTaskError, UserCodeException

    try:
        for _ in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            pass
    except RayTaskError as error:
        cause: BaseException | None = error
        while isinstance(cause, (RayTaskError, UserCodeException)):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise (cause or error) from None


@contextlib.contextmanager
def _told(tell: Callable[[], None]) -> Iterator[None]:
    """Report progress from a thread of its own while the body runs, and once more at its end."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SEC):
            tell()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
        tell()
    finally:
        done.set()
        thread.join()


def _tidy(job: Job, plan: Plan, manifests: Manifests) -> None:
    if not job.keep_stages:
        remove_spent_files(job, plan, manifests)
    for stage in manifests.stages:
        job.output.under(stage).prune()
    manifests.folder.under(NEWS).prune()
    clear_staging(job)
