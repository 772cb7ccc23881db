"""The manifests: one Parquet table for each stage, with the outcome of every clip and the reason.

A worker writes the outcomes of one clip at a step as one small file, a pending record. `compact` moves the pending records
into the tables; it may be interrupted anywhere, and adding a record twice leaves one set of rows. A clip is done at a stage
if rows of that stage have it as `parent`.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from latentsync.data.storage import Folder
from latentsync.processing.manifests.row import ManifestRow

FACTS = {
    "clip": "string",
    "parent": "string",
    "source": "string",
    "source_id": "string",
    "start_sec": "float64",
    "end_sec": "float64",
    "verdict": "string",
    "reason": "string",
    "detail": "string",
    "file": "string",
    "file_start_sec": "float64",
}
TIMES = {"work_sec": "float64", "finished_at": "float64"}  # these differ between two runs over the same input
PANDAS_TYPES = {pa.string(): pd.StringDtype(), pa.large_string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype()}
ORDER = ["source", "start_sec", "end_sec", "clip", "parent"]
READERS = 16  # threads: an object store has a long latency, but serves many requests at once
PENDING_RECORDS = "news"  # folder of the records that are not in the tables yet; existing output folders have this name
StepRecord = Mapping[str, Sequence[ManifestRow]]  # by the stage's name


class Manifests:
    """The tables of one output folder; workers may record while `compact` runs."""

    def __init__(self, folder: Folder, stages: Sequence[str]):
        self.folder = folder
        self.stages = tuple(stages)

    def record(self, step: str, clip: str, record: StepRecord) -> None:
        """Write the outcomes of one clip at a step."""
        content = {stage: [asdict(row) for row in rows] for stage, rows in record.items()}
        self.folder.write(_pending_record(step, clip), json.dumps(content, ensure_ascii=False).encode("utf-8"))

    def recorded(self, step: str, clip: str) -> StepRecord | None:
        """The pending record of a clip at a step; None if there is none."""
        try:
            return _parse(self.folder.read(_pending_record(step, clip)))
        except FileNotFoundError:
            return None

    def table(self, stage: str) -> pd.DataFrame:
        """The rows of a stage, without those of pending records.

        Columns: those of `FACTS`, one for each score (empty where a row lacks it), those of `TIMES`.
        """
        try:
            content = self.folder.read(f"{stage}.parquet")
        except FileNotFoundError:
            return frame_of([])
        return pq.read_table(io.BytesIO(content)).to_pandas(types_mapper=PANDAS_TYPES.get)

    def tables(self) -> dict[str, pd.DataFrame]:
        """All stages' tables, in the order of the stages."""
        return {stage: self.table(stage) for stage in self.stages}

    def pending_records(self) -> list[str]:
        """File names of the records that are not in the tables yet."""
        return [f"{PENDING_RECORDS}/{name}" for name in self.folder.under(PENDING_RECORDS).files()]

    def compact(self) -> None:
        """Move the pending records into the tables; newer rows of a clip replace its older ones."""
        names = self.pending_records()
        with ThreadPoolExecutor(READERS) as pool:
            records = list(pool.map(lambda name: _parse(self.folder.read(name)), names))
            for stage in self.stages:
                rows = [row for record in records for row in record.get(stage, ())]
                if rows:
                    table, fresh = self.table(stage), frame_of(rows)
                    self.write(stage, joined(table[~table["parent"].isin(fresh["parent"])], fresh))
            list(pool.map(self.folder.remove, names))

    def write(self, stage: str, table: pd.DataFrame) -> None:
        """Replace a stage's table; the rows are sorted, so that equal rows give an equal file."""
        names = [*FACTS, *sorted(score_columns(table)), *TIMES]
        ordered = table[names].sort_values(ORDER, kind="stable", ignore_index=True)
        buffer = io.BytesIO()
        arrow = pa.Table.from_pandas(ordered, preserve_index=False).replace_schema_metadata(None)
        pq.write_table(arrow, buffer, compression="zstd")
        self.folder.write(f"{stage}.parquet", buffer.getvalue())


def frame_of(rows: Sequence[ManifestRow]) -> pd.DataFrame:
    """Rows as a table with the columns described in `Manifests.table`."""
    score_names = sorted({name for row in rows for name in row.scores})
    assert not {*score_names} & {*FACTS, *TIMES}, f"a score has the name of another column: {score_names}"
    columns: dict[str, Any] = {
        name: pd.Series([getattr(row, name) for row in rows], dtype=FACTS[name]) for name in FACTS
    }
    columns |= {name: _score_column([row.scores.get(name) for row in rows]) for name in score_names}
    columns |= {name: pd.Series([getattr(row, name) for row in rows], dtype=TIMES[name]) for name in TIMES}
    return pd.DataFrame(columns)


def joined(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The rows of both tables."""
    parts = [table for table in (old, new) if len(table)]
    return pd.concat(parts, ignore_index=True) if parts else new


def score_columns(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns if name not in FACTS and name not in TIMES]


def rows_of(table: pd.DataFrame) -> list[ManifestRow]:
    """The rows of a table."""
    scores = score_columns(table)
    return [
        ManifestRow(
            **{name: record[name] for name in (*FACTS, *TIMES)},
            scores={name: record[name] for name in scores if not pd.isna(record[name])},
        )
        for record in table.to_dict("records")
    ]


def _score_column(values: list[Any]) -> pd.Series:
    """A column of integers, floats or strings, as the values are."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        return pd.Series(values, dtype="string")
    whole = all(isinstance(value, int) for value in known)
    return pd.Series(values, dtype="Int64" if whole else "float64")


def _parse(content: bytes) -> StepRecord:
    return {stage: [ManifestRow(**row) for row in rows] for stage, rows in json.loads(content).items()}


def _pending_record(step: str, clip: str) -> str:
    key = hashlib.sha256(clip.encode("utf-8")).hexdigest()[:32]
    return f"{PENDING_RECORDS}/{step}/{key[:2]}/{key}.json"
