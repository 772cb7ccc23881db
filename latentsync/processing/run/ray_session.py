"""Ray for one run: started and stopped on this machine, or a cluster joined at an address."""

import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentsync.data.storage import remove_tree

OBJECT_STORE_BYTES = 100 * 2**20  # only rows of manifests pass through it, never frames or sound
MAX_SOCKET_FOLDER = 40  # characters: Ray appends about 65, and a socket path may have 107
STARTS = 3
ANSWER_SEC = 5.0
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
QUEUE_RATIO = 4.0  # clips that may wait between two groups of steps, per clip in progress in the later group
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD": "0",  # limit queues from the first waiting clip on
    "RAY_worker_niceness": "0",  # workers run at the priority of the command
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker without a GPU sees none
}


@dataclass(frozen=True)
class Cluster:
    """The resources of a cluster."""

    cores: float
    gpus: float
    nodes: int


@contextlib.contextmanager
def ray_session(address: str = "", cores: int | None = None, gpus: int | None = None) -> Iterator[Cluster]:
    """Start Ray on this machine, or join the cluster at `address` ("auto", "host:6379", "ray://host:10001").

    Without `cores` and `gpus` the whole machine is used. If Ray is started here, it is stopped at the end and its
    folder removed; a session that the program has already started is used unchanged. Raises ValueError if a cluster cannot be
    reached.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield _cluster()
        return
    folder = None if address else _short_folder()
    try:
        _join(address) if address else _start(_own(cores, gpus, folder))
        yield _cluster()
    finally:
        ray.shutdown()
        if folder:
            remove_tree(folder)


def _join(address: str) -> None:
    import ray

    _check_answers(address)
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        raise ValueError(f"--ray_address {address}: no Ray cluster answers there ({error}).") from error


def _check_answers(address: str) -> None:
    """Raises ValueError if nothing answers at host:port; Ray itself would retry for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SEC).close()
    except OSError as error:
        raise ValueError(f"--ray_address {address}: nothing answers there ({error}).") from error


def _start(options: dict[str, Any]) -> None:
    """Start Ray, with retries: its own limit of 30 s is too short on a busy machine."""
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            ray.init(**options, **QUIET)
            return
        except Exception as error:  # Ray raises plain Exception
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == STARTS:
                raise OSError(f"Ray could not be started on this machine: {error}") from error


def _cluster() -> Cluster:
    import ray

    _configure_data()
    resources = ray.cluster_resources()
    return Cluster(resources.get("CPU", 0), resources.get("GPU", 0), len(ray.nodes()))


def _own(cores: int | None, gpus: int | None, folder: Path | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "address": "local",  # otherwise Ray joins another program's cluster on this machine
        "num_cpus": cores,
        "num_gpus": gpus,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    return options | ({"_temp_dir": str(folder)} if folder else {})


def _short_folder() -> Path | None:
    """A folder for Ray's logs and sockets; None where its name would be too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="ls-ray-"))
    if len(str(folder)) <= MAX_SOCKET_FOLDER:
        return folder
    folder.rmdir()
    return None


def _configure_data() -> None:
    """One clip per block, so that each is scheduled by itself; bounded queues; none of Ray's own output."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1
    context.downstream_capacity_backpressure_ratio = QUEUE_RATIO
    context.op_resource_reservation_enabled = False  # it would reserve a core for each group, even an idle one
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a single long clip makes no visible progress
    logging.getLogger("ray.data").setLevel(logging.ERROR)
