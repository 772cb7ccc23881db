"""The tasks and actors that Ray runs: a group of steps on one clip, and the tracker of progress."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import pyarrow as pa

from latentsync.media.container import limit_threads
from latentsync.processing.run.chain import Chain, Item
from latentsync.processing.run.progress import LocalTracker, Tally

COLUMN = "item"


def to_row(item: Item) -> dict[str, str]:
    """A clip and its next step as one row of a Ray data set."""
    return {COLUMN: json.dumps(item.to_dict())}


def run_group(batch: pa.Table, chain: Chain) -> Iterator[pa.Table]:
    """Run the clips of a batch through a group of steps; yields the clips for the next group, one row at a time."""
    _use_one_core()
    for text in batch.column(COLUMN).to_pylist():
        for item in chain(Item.from_dict(json.loads(text))):
            yield pa.Table.from_pylist([to_row(item)])


class GroupWorker:
    """`run_group` in an actor, whose process keeps its networks loaded."""

    def __init__(self, chain: Chain):
        self._chain = chain

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        yield from run_group(batch, self._chain)


class RemoteTracker:
    """A `Tracker` whose counts are in a Ray actor; calls wait while that actor restarts."""

    def __init__(self, actor: Any):
        self._actor = actor

    def begin(self, step: str, clip: str) -> int:
        return _answer(self._actor.begin.remote(step, clip))

    def end(self, step: str, clip: str, tallies: Mapping[str, Tally]) -> None:
        _answer(self._actor.end.remote(step, clip, tallies))

    def snapshot(self) -> dict[str, Tally]:
        return _answer(self._actor.snapshot.remote())


def start_tracker() -> RemoteTracker:
    """Start the tracker on the cluster; it reserves no core."""
    import ray

    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return RemoteTracker(ray.remote(LocalTracker).options(**options).remote())


def _answer(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def _use_one_core() -> None:
    """Each clip gets one core. Ray sets OMP_NUM_THREADS for other libraries, which OpenCV and libav ignore."""
    cv2.setNumThreads(1)
    limit_threads(1)
