"""Many jobs from one list, CSV or JSON lines: each with its own files and, if need be, its own settings."""

import csv
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch

from latentsync.device import pick_device
from latentsync.inference.jobs.workers import SPAWN, Load, WorkerPool
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions

FILES = ("video", "audio", "output")
SETTINGS = tuple(field.name for field in fields(InferenceSettings))
OPTIONS = tuple(field.name for field in fields(JobOptions))
TRUE = {"1", "true", "yes"}


@dataclass(frozen=True)
class JobEntry:
    """One entry of a list: files, and what it sets differently from the other ones."""

    number: int  # of the entry, from 1 on
    video: Path
    audio: Path
    output: Path
    settings: Mapping[str, Any]  # entries of `InferenceSettings`
    options: Mapping[str, Any]  # entries of `JobOptions`


@dataclass(frozen=True)
class JobOutcome:
    """What became of an entry: a summary, or why there is none."""

    entry: JobEntry
    summary: str = ""
    error: str = ""


def read_jobs(path: Path) -> list[JobEntry]:
    """Read a `.csv` (with a head line) or `.jsonl` file; relative file names count from its folder.

    The columns are video, audio, output, and any entry of `InferenceSettings` or `JobOptions`; empty ones are left out.

    Raises ValueError if the file is missing or empty, a line is not readable, an entry is unknown, a file is not named, or
    two entries write one output.
    """
    if not path.is_file():
        raise ValueError(f"the list of jobs {path} does not exist: give a .csv or .jsonl file.")
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"the list of jobs {path} is neither .csv nor .jsonl: give one of these.")
    rows = readers[path.suffix.lower()](path)
    entries = [_entry(path, number, row) for number, row in enumerate(rows, 1)]
    if not entries:
        raise ValueError(f"the list of jobs {path} is empty: give a line for every video.")
    _check_outputs(path, entries)
    return entries


def run_all(entries: Sequence[JobEntry], run: Callable[[JobEntry], str]) -> Iterator[JobOutcome]:
    """Run every entry; one that fails in a way that a sentence tells (ValueError, OSError) does not stop the others."""
    for entry in entries:
        yield outcome_of(entry, partial(run, entry))


def outcome_of(entry: JobEntry, run: Callable[[], str]) -> JobOutcome:
    """What becomes of one entry; an error that a sentence tells (ValueError, OSError) is part of it."""
    try:
        return JobOutcome(entry, summary=run())
    except (ValueError, OSError) as error:
        return JobOutcome(entry, error=str(error))


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable list of jobs ({error}): save it as CSV in UTF-8.") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no readable list of jobs ({error}): save it in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: this is no JSON ({error}). Mend the line.") from error
        if not isinstance(row, dict):
            raise ValueError(
                f'{path}, line {number}: give an object such as {{"video": ..., "audio": ..., "output": ...}}.'
            )
        yield row


def _entry(path: Path, number: int, row: Mapping[str, Any]) -> JobEntry:
    given = {name: value for name, value in row.items() if value not in (None, "", [])}
    unknown = [str(name) for name in given if name not in (*FILES, *SETTINGS, *OPTIONS)]
    if unknown:
        known = ", ".join((*FILES, *SETTINGS, *OPTIONS))
        raise ValueError(f"{path}, job {number}: {unknown[0]!r} is unknown. There are {known}.")
    missing = [name for name in FILES if name not in given]
    if missing:
        raise ValueError(f"{path}, job {number}: it names no {missing[0]}. Every job has video, audio and output.")
    files = {name: path.parent / str(given[name]) for name in FILES}
    try:
        settings = {name: _typed(InferenceSettings, name, given[name]) for name in SETTINGS if name in given}
        options = {name: _typed(JobOptions, name, given[name]) for name in OPTIONS if name in given}
        InferenceSettings().changed(settings)
        JobOptions().changed(options)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{path}, job {number}: {error}") from error
    return JobEntry(number, **files, settings=settings, options=options)


def _typed(schema: type, name: str, value: Any) -> Any:
    """A value as its field wants it; CSV files hold words only."""
    if name == "fps":
        return Fraction(str(value))
    if name in ("min_face_px", "max_yaw_deg", "limit_sec"):
        return float(value)
    if name in ("video_track", "audio_track"):
        return int(str(value))
    default = getattr(schema(), name)
    if isinstance(default, bool):
        return value if isinstance(value, bool) else str(value).lower() in TRUE
    return type(default)(value)


def _check_outputs(path: Path, entries: Sequence[JobEntry]) -> None:
    seen: dict[Path, int] = {}
    for entry in entries:
        first = seen.setdefault(entry.output.resolve(), entry.number)
        if first != entry.number:
            raise ValueError(
                f"{path}: jobs {first} and {entry.number} both write {entry.output}. Give each its own output."
            )


# Many jobs spread over processes, each with models of its own on a device of its own.
RunEntry = Callable[[LipsyncPipeline, JobEntry], str]  # is sent to the processes; returns a line about what it did


def run_all_spread(entries: Sequence[JobEntry], run: RunEntry, pool: WorkerPool) -> Iterator[JobOutcome]:
    """Run every entry in one of the pool's processes; outcomes in the order of the entries.

    One that fails in a way that a sentence tells (ValueError, OSError) does not stop the others.
    """
    devices = SPAWN.Queue()
    for device in pool.devices:
        devices.put(device)
    arguments = (pool.load, devices, pool.threads)
    with ProcessPoolExecutor(len(pool.devices), SPAWN, initializer=_begin, initargs=arguments) as executor:
        futures = [executor.submit(_run, run, entry) for entry in entries]
        try:
            for entry, future in zip(entries, futures, strict=True):
                try:
                    yield outcome_of(entry, future.result)
                except BrokenProcessPool:
                    yield JobOutcome(
                        entry, error="its process was ended from outside: give the list again, with fewer workers."
                    )
        finally:
            executor.shutdown(cancel_futures=True)


_pipeline: Callable[[], LipsyncPipeline]  # of a process of the pool


def _begin(load: Load, devices: "multiprocessing.Queue[torch.device]", threads: int) -> None:
    """A process of the pool takes one of the devices; its models are loaded with the first job, which tells what is wrong."""
    global _pipeline
    torch.set_num_threads(threads)
    device = devices.get()
    _pipeline = cache(lambda: load(device))


def _run(run: RunEntry, entry: JobEntry) -> str:
    return run(_pipeline(), entry)


# Many jobs spread over the machines of a Ray cluster. Files are named alike on all of them, as on a shared disk.
class Worker:
    """A process somewhere in the cluster, with models of its own on the device that it was given."""

    def __init__(self, load: Load, run: RunEntry):
        self.load, self.run_entry = load, run

    @cached_property
    def pipeline(self) -> LipsyncPipeline:
        """Loaded with the first job, which tells what is wrong."""
        return self.load(pick_device())

    def run(self, entry: JobEntry) -> JobOutcome:
        """One job of the list."""
        return outcome_of(entry, lambda: self.run_entry(self.pipeline, entry))


def run_all_on_cluster(
    entries: Sequence[JobEntry], run: RunEntry, load: Load, gpus: float, workers: int
) -> Iterator[JobOutcome]:
    """Run every entry in one of `workers` processes of the Ray that is running; outcomes in the order of the entries.

    With `gpus` each process has one of them to itself; a job whose process ends is told, and the others go on.
    """
    import ray

    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(Worker)

    def start() -> Any:
        return remote.remote(load, run)

    yield from _in_order(entries, [start() for _ in range(min(workers, len(entries)))], start)


def _in_order(entries: Sequence[JobEntry], workers: Sequence[Any], start: Callable[[], Any]) -> Iterator[JobOutcome]:
    """Give each worker a job as soon as it is free."""
    import ray

    free, waiting = deque(workers), deque(entries)
    running: dict[Any, tuple[Any, JobEntry]] = {}
    done: dict[int, JobOutcome] = {}
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
                done[entry.number] = JobOutcome(entry, error=f"its process ended: {error}")
                worker = start()
            free.append(worker)
        yield done.pop(wanted.number)
