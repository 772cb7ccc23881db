"""Runs a plan over a folder of videos with Ray Data: every core and GPU, bounded queues, one clip per task.

A group of steps is one operator: tasks on cores, and a pool of actors for networks where there are GPUs. Only rows of
manifests pass between operators; the clips are files in the output folder. Ray repeats the work of a dead worker or a lost
machine, and the manifests record finished work, so no clip is processed twice or lost.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from latentsync.processing.config import RunSettings
from latentsync.processing.manifests.manifest import PENDING_RECORDS, Manifests
from latentsync.processing.plan import Plan, groups_of, stage_names
from latentsync.processing.run.chain import Chain, Item
from latentsync.processing.run.operators import GroupWorker, run_group, start_tracker, to_row
from latentsync.processing.run.progress import StageProgress, Tally, Tracker, progress_of
from latentsync.processing.run.ray_session import Cluster, ray_session
from latentsync.processing.run.resume import backlog, prepare, remove_spent_files
from latentsync.processing.run.run_lock import clear_staging, run_lock
from latentsync.processing.run_folder import RunFolder

POLL_SEC = 0.5

OnProgress = Callable[[Sequence[StageProgress]], None]


@dataclass(frozen=True)
class RunOutcome:
    """The result of a run."""

    tallies: Mapping[str, Tally]  # of this run, by stage
    without_source: int  # unfinished clips whose source is no longer in the input folder


def run(
    plan: Plan, run_folder: RunFolder, settings: RunSettings, on_progress: OnProgress = lambda progress: None
) -> RunOutcome:
    """Process every source of a run folder; after an interruption, a second call continues.

    `on_progress` is called about twice a second with each stage's progress in this run. A clip on which a stage keeps
    failing is recorded as failed, and tried again only by the next run.

    Raises:
        ValueError: another run is active in the same output, or weights or a library of a stage are missing.
        OSError: the disk is full.
    """
    with run_lock(run_folder):
        manifests = Manifests(run_folder.manifests, stage_names(plan))
        prepare(run_folder, plan, manifests)
        waiting = backlog(run_folder, plan, manifests)
        tallies: Mapping[str, Tally] = {}
        if waiting.items:
            with ray_workers(plan, run_folder, settings) as workers:
                tallies = _waves(plan, run_folder, manifests, workers, on_progress)
                waiting = backlog(run_folder, plan, manifests)
        _tidy(run_folder, plan, manifests)
        return RunOutcome(tallies, waiting.without_source)


@dataclass(frozen=True)
class Workers:
    """The workers of a run: `process` runs clips through all their remaining steps and returns when that is done."""

    process: Callable[[Sequence[Item]], None]
    tallies: Callable[[], Mapping[str, Tally]]


@contextlib.contextmanager
def ray_workers(plan: Plan, run_folder: RunFolder, settings: RunSettings) -> Iterator[Workers]:
    """Workers of a Ray cluster, which is started here or joined."""
    with ray_session(settings.ray_address, settings.cores, settings.gpus) as cluster:
        tracker = start_tracker()

        def process(items: Sequence[Item]) -> None:
            _drain(_stream(plan, run_folder, settings, cluster, tracker, items))

        yield Workers(process, tracker.snapshot)


def _waves(
    plan: Plan, run_folder: RunFolder, manifests: Manifests, workers: Workers, on_progress: OnProgress
) -> Mapping[str, Tally]:
    """Process waiting clips in waves until none is left."""
    counts = backlog(run_folder, plan, manifests).counts

    def report() -> None:
        on_progress(progress_of(manifests.stages, workers.tallies(), counts))

    with _progress_thread(report):
        before: list[str] = []
        while items := backlog(run_folder, plan, manifests).items:
            keys = [item.key for item in items]
            assert keys != before, "each wave of clips makes progress"
            before = keys
            workers.process(items)
            manifests.compact()
    return workers.tallies()


def _stream(
    plan: Plan, run_folder: RunFolder, settings: RunSettings, cluster: Cluster, tracker: Tracker, items: Sequence[Item]
) -> Any:
    """The lazy Ray data set that runs the plan when it is iterated; it yields no rows."""
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
            chain = Chain(group, plan, run_folder, tracker)
            on_gpu = has_gpu and any(step.needs_gpu for step in group)
            work = _on_gpus(chain, cluster, settings) if on_gpu else _on_cores(chain, number)
            stream = stream.map_batches(batch_size=1, batch_format="pyarrow", **work)
    return stream


def _on_cores(chain: Chain, number: int) -> dict[str, Any]:
    # Ray Data fuses neighbours with equal resources; a fused pair would keep all segments of a source on one core.
    return {"fn": partial(run_group, chain=chain), "num_cpus": 1 - number / 1000}


def _on_gpus(chain: Chain, cluster: Cluster, settings: RunSettings) -> dict[str, Any]:
    import ray.data

    most = max(1, int(cluster.gpus * settings.workers_per_gpu))
    return {
        "fn": GroupWorker,
        "fn_constructor_kwargs": {"chain": chain},
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=max(1, int(cluster.gpus))),
        "num_gpus": 1 / settings.workers_per_gpu,
        "num_cpus": 0,  # it must not wait for a core that is busy with its own input
    }


def _drain(stream: Any) -> None:
    """Iterate over the stream to its end; raises an error of a worker that ends the run, with its original type."""
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
def _progress_thread(report: Callable[[], None]) -> Iterator[None]:
    """Call `report` from another thread while the body runs, and once more at its end."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SEC):
            report()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
        report()
    finally:
        done.set()
        thread.join()


def _tidy(run_folder: RunFolder, plan: Plan, manifests: Manifests) -> None:
    if not run_folder.keep_stages:
        remove_spent_files(run_folder, plan, manifests)
    for stage in manifests.stages:
        run_folder.output.under(stage).prune()
    manifests.folder.under(PENDING_RECORDS).prune()
    clear_staging(run_folder)
