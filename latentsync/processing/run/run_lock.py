"""Ensures that one run at a time uses an output folder, and that workers of a killed run have ended.

When the process of a run is killed, its workers notice within some seconds. Until then they might publish or remove files
that the next run needs. So each run writes its id into the folder, a worker of another run stops before it records
anything, and the next run waits until such workers have ended.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from latentsync.data.storage import remove_tree
from latentsync.files import process_lives
from latentsync.processing.run_folder import LOCAL_STAGING, RunFolder

LOCK = "lock"
CURRENT_RUN = "current_run"
WAIT_SEC = 30.0  # for the workers of a killed run; they end after about 4 s
POLL_SEC = 0.2


class StaleRun(RuntimeError):
    """The run of a worker was killed, and another run has taken over the output folder."""


@contextlib.contextmanager
def run_lock(run_folder: RunFolder) -> Iterator[None]:
    """Lock the output folder for a run; the lock ends with the process.

    Raises ValueError if another run is active there. A remote folder has no lock: the user must start one run at a time.
    """
    if not run_folder.output.is_local:
        _take_over(run_folder)
        yield
        return
    run_folder.staging_root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{run_folder.manifests.root}/{LOCK}").acquire(timeout=0):
            _take_over(run_folder)
            yield
    except Timeout as error:
        where = run_folder.output.address
        raise ValueError(f"Another run is active in {where}: wait for it, or choose another --output_dir.") from error


def check_current(run_folder: RunFolder) -> None:
    """Raises StaleRun if another run has taken over the output folder."""
    if run_folder.manifests.read(CURRENT_RUN).decode() != run_folder.run_id:
        raise StaleRun(f"another run is active in {run_folder.output.address}")


def clear_staging(run_folder: RunFolder) -> None:
    if run_folder.staging_root.is_dir():
        remove_tree(run_folder.staging_root)


def _take_over(run_folder: RunFolder) -> None:
    run_folder.manifests.write(CURRENT_RUN, run_folder.run_id.encode())
    if not run_folder.output.is_local:
        _clear_dead_runs(run_folder)
    elif run_folder.staging_root.is_dir():
        _wait_for_owners(list(run_folder.staging_root.iterdir()))
        for leftover in run_folder.staging_root.iterdir():
            remove_tree(leftover)


def _clear_dead_runs(run_folder: RunFolder) -> None:
    """Remove the staging folders that killed runs with a remote output left on this machine."""
    for folder in run_folder.staging_root.parent.glob(f"{LOCAL_STAGING}*"):
        if folder.is_dir() and not any(_owner_lives(child) for child in folder.iterdir()):
            remove_tree(folder)


def _wait_for_owners(folders: list[Path]) -> None:
    until = time.monotonic() + WAIT_SEC
    while any(_owner_lives(folder) for folder in folders) and time.monotonic() < until:
        time.sleep(POLL_SEC)


def _owner_lives(folder: Path) -> bool:
    """Whether the process in a staging folder's name still runs on this machine."""
    host, _, pid = folder.name.rpartition("-")[0].rpartition("-")
    return host == socket.gethostname() and pid.isdigit() and process_lives(host, int(pid))
