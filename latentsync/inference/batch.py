"""Runs many jobs from a list (CSV or JSON lines), each with its own files and settings: in turn, on worker processes, or on Ray."""

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
from typing import TYPE_CHECKING, Any

from latentsync.inference.jobs.speakers_file import is_sought, is_speakers_file
from latentsync.inference.jobs.workers import SPAWN, Load, WorkerPool
from latentsync.inference.settings import AUTO, InferenceSettings, JobOptions
from latentsync.weights.adapters import beside

if TYPE_CHECKING:
    import torch  # slow to import, and not needed to check a list

    from latentsync.inference.pipeline import LipsyncPipeline

FILES = ("video", "audio", "output")
SPEAKERS = "speakers"  # in place of audio
SETTINGS = tuple(field.name for field in fields(InferenceSettings))
OPTIONS = tuple(field.name for field in fields(JobOptions))
TRUE = {"1", "true", "yes"}


@dataclass(frozen=True)
class JobEntry:
    """One entry of a list: its files, and the settings that it overrides."""

    number: int  # from 1
    video: Path
    audio: Path  # or a file of speakers
    output: Path
    settings: Mapping[str, Any]  # fields of `InferenceSettings`
    options: Mapping[str, Any]  # fields of `JobOptions`


@dataclass(frozen=True)
class JobOutcome:
    """The result of an entry: a summary, or the error."""

    entry: JobEntry
    summary: str = ""
    error: str = ""


def read_jobs(path: Path) -> list[JobEntry]:
    """Read a `.csv` file (with a header line) or a `.jsonl` file; file names are relative to its folder.

    The columns are video, audio, output, and any field of `InferenceSettings` or `JobOptions`; empty values are ignored. In
    place of an audio file a job may have a file of `speakers`; beside one, `auto` or an RTTM file.

    Raises ValueError if the file is missing or empty, a line cannot be parsed, a column is unknown, a file name is missing, or
    two entries write the same output.
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
    """Run every entry in turn. A ValueError or OSError becomes the entry's outcome; the others still run."""
    for entry in entries:
        yield outcome_of(entry, partial(run, entry))


def outcome_of(entry: JobEntry, run: Callable[[], str]) -> JobOutcome:
    """The outcome of running one entry; a ValueError or OSError is its error."""
    try:
        return JobOutcome(entry, summary=run())
    except (ValueError, OSError) as error:
        return JobOutcome(entry, error=str(error))


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable list of jobs ({error}): save it as CSV in UTF-8.") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a readable list of jobs ({error}): save it in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}). Correct the line.") from error
        if not isinstance(row, dict):
            raise ValueError(
                f'{path}, line {number}: give an object such as {{"video": ..., "audio": ..., "output": ...}}.'
            )
        yield row


def _entry(path: Path, number: int, row: Mapping[str, Any]) -> JobEntry:
    given = {name: value for name, value in row.items() if value not in (None, "", [])}
    if SPEAKERS in given and "audio" in given and is_sought(str(given[SPEAKERS])):
        if given[SPEAKERS] != AUTO:
            given[SPEAKERS] = str(path.parent / str(given[SPEAKERS]))
    elif SPEAKERS in given:
        if "audio" in given or not is_speakers_file(Path(str(given[SPEAKERS]))):
            raise ValueError(
                f"{path}, job {number}: give speakers, a .json, .csv, .srt or .vtt file, in place of audio; or auto or an .rttm"
                " file beside it."
            )
        given["audio"] = given.pop(SPEAKERS)
    unknown = [str(name) for name in given if name not in (*FILES, *SETTINGS, *OPTIONS)]
    if unknown:
        known = ", ".join((*FILES, *SETTINGS, *OPTIONS))
        raise ValueError(f"{path}, job {number}: {unknown[0]!r} is unknown. Known are {known}.")
    missing = [name for name in FILES if name not in given]
    if missing:
        raise ValueError(f"{path}, job {number}: {missing[0]} is missing. Every job needs video, audio and output.")
    files = {name: path.parent / str(given[name]) for name in FILES}
    try:
        settings = {name: _typed(InferenceSettings, name, given[name]) for name in SETTINGS if name in given}
        options = {name: _typed(JobOptions, name, given[name]) for name in OPTIONS if name in given}
        InferenceSettings().changed(settings)
        if "adapter" in settings:
            settings["adapter"] = beside(settings["adapter"], path.parent)
        JobOptions().changed(options)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{path}, job {number}: {error}") from error
    return JobEntry(number, **files, settings=settings, options=options)


def _typed(schema: type, name: str, value: Any) -> Any:
    """A value converted to the type of the field `name` of `schema`; CSV files hold text only."""
    if name == "fps":
        return Fraction(str(value))
    if name in ("min_face_px", "max_yaw_deg", "start_sec", "limit_sec"):
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


# On worker processes, each with its own models on its own device.
RunEntry = Callable[["LipsyncPipeline", JobEntry], str]  # pickled for the workers; returns a summary


def run_all_spread(entries: Sequence[JobEntry], run: RunEntry, pool: WorkerPool) -> Iterator[JobOutcome]:
    """Run the entries on the processes of a pool; yields outcomes in the order of the entries.

    A ValueError or OSError becomes the entry's outcome; the others still run.
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
                    yield JobOutcome(entry, error="its process was killed: run the list again with fewer workers.")
        finally:
            executor.shutdown(cancel_futures=True)


_pipeline: Callable[[], "LipsyncPipeline"]  # of a worker process


def _begin(load: Load, devices: "multiprocessing.Queue[torch.device]", threads: int) -> None:
    """Initialise a worker process with one of the devices; the first job loads the models and reports errors of loading."""
    global _pipeline
    import torch

    torch.set_num_threads(threads)
    device = devices.get()
    _pipeline = cache(lambda: load(device))


def _run(run: RunEntry, entry: JobEntry) -> str:
    return run(_pipeline(), entry)


# On a Ray cluster, whose machines share a disk: files have the same names on all of them.
class Worker:
    """A Ray actor with its own models, on the device that Ray assigns to it."""

    def __init__(self, load: Load, run: RunEntry):
        self.load, self.run_entry = load, run

    @cached_property
    def pipeline(self) -> "LipsyncPipeline":
        """Loaded in the first job, which reports errors of loading."""
        from latentsync.device import pick_device

        return self.load(pick_device())

    def run(self, entry: JobEntry) -> JobOutcome:
        """Run one job of the list."""
        return outcome_of(entry, lambda: self.run_entry(self.pipeline, entry))


def run_all_on_cluster(
    entries: Sequence[JobEntry], run: RunEntry, load: Load, gpus: float, workers: int
) -> Iterator[JobOutcome]:
    """Run the entries on `workers` actors of the running Ray cluster; yields outcomes in the order of the entries.

    With `gpus` each actor has a GPU to itself. If an actor dies, its job fails and a new actor is started.
    """
    import ray

    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(Worker)

    def start() -> Any:
        return remote.remote(load, run)

    yield from _in_order(entries, [start() for _ in range(min(workers, len(entries)))], start)


def _in_order(entries: Sequence[JobEntry], workers: Sequence[Any], start: Callable[[], Any]) -> Iterator[JobOutcome]:
    """Give each worker a job as soon as it is free, and replace workers that die.

    `ray.util.ActorPool` does not fit: it gives further jobs to an actor that has died.
    """
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
