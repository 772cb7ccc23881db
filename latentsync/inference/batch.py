"""Many jobs from one list, CSV or JSON lines: each with its own files and, if need be, its own settings."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

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
class Outcome:
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


def run_all(entries: Sequence[JobEntry], run: Callable[[JobEntry], str]) -> Iterator[Outcome]:
    """Run every entry; one that fails in a way that a sentence tells (ValueError, OSError) does not stop the others."""
    for entry in entries:
        yield outcome_of(entry, partial(run, entry))


def outcome_of(entry: JobEntry, run: Callable[[], str]) -> Outcome:
    """What becomes of one entry; an error that a sentence tells (ValueError, OSError) is part of it."""
    try:
        return Outcome(entry, summary=run())
    except (ValueError, OSError) as error:
        return Outcome(entry, error=str(error))


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
