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

Show = Callable[[Sequence[StageProgress]], None]


@dataclass(frozen=True)
class RunOutcome:
    """What a run did."""

    tallies: Mapping[str, Tally]  # of this run, by stage
    without_source: int  # clips that could not go on because their source is gone


def run(plan: Plan, run_folder: RunFolder, settings: RunSettings, show: Show = lambda progress: None) -> RunOutcome:
    """Bring every source of a run_folder to its end; called again after an interruption, it goes on where that was.

    `show` is called about twice a second with each stage's progress in this run. A clip on which a stage keeps failing is
    recorded as failed, and tried again only by the next run.

    Raises:
        ValueError: another run works on the same output, or a stage cannot be made (weights or a library are missing).
        OSError: the disk is full.
    """
    with run_lock(run_folder):
        manifests = Manifests(run_folder.manifests, stage_names(plan))
        prepare(run_folder, plan, manifests)
        waiting = backlog(run_folder, plan, manifests)
        tallies: Mapping[str, Tally] = {}
        if waiting.items:
            with ray_workers(plan, run_folder, settings) as workers:
                tallies = _waves(plan, run_folder, manifests, workers, show)
                waiting = backlog(run_folder, plan, manifests)
        _tidy(run_folder, plan, manifests)
        return RunOutcome(tallies, waiting.without_source)


@dataclass(frozen=True)
class Workers:
    """Those who do the work: `bring_on` takes clips through all steps that are left to them and returns then."""

    bring_on: Callable[[Sequence[Item]], None]
    tallies: Callable[[], Mapping[str, Tally]]


@contextlib.contextmanager
def ray_workers(plan: Plan, run_folder: RunFolder, settings: RunSettings) -> Iterator[Workers]:
    """The workers of a Ray that is started here or joined."""
    with ray_session(settings.ray_address, settings.cores, settings.gpus) as cluster:
        tracker = start_tracker()

        def bring_on(items: Sequence[Item]) -> None:
            _drain(_stream(plan, run_folder, settings, cluster, tracker, items))

        yield Workers(bring_on, tracker.snapshot)


def _waves(
    plan: Plan, run_folder: RunFolder, manifests: Manifests, workers: Workers, show: Show
) -> Mapping[str, Tally]:
    """Hand out what waits until nothing does."""
    counts = backlog(run_folder, plan, manifests).counts

    def tell() -> None:
        show(progress_of(manifests.stages, workers.tallies(), counts))

    with _told(tell):
        before: list[str] = []
        while items := backlog(run_folder, plan, manifests).items:
            keys = [item.key for item in items]
            assert keys != before, "each wave of clips makes progress"
            before = keys
            workers.bring_on(items)
            manifests.compact()
    return workers.tallies()


def _stream(
    plan: Plan, run_folder: RunFolder, settings: RunSettings, cluster: Cluster, tracker: Tracker, items: Sequence[Item]
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
            chain = Chain(group, plan, run_folder, tracker)
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


def _tidy(run_folder: RunFolder, plan: Plan, manifests: Manifests) -> None:
    if not run_folder.keep_stages:
        remove_spent_files(run_folder, plan, manifests)
    for stage in manifests.stages:
        run_folder.output.under(stage).prune()
    manifests.folder.under(PENDING_RECORDS).prune()
    clear_staging(run_folder)
