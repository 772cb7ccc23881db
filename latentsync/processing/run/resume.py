"""The clips that are still to be processed: kept by a stage, and without a row at the next one."""

from collections.abc import Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd

from latentsync.processing.clip import source_clip
from latentsync.processing.manifests.manifest import Manifests, rows_of
from latentsync.processing.manifests.row import ManifestRow
from latentsync.processing.plan import Plan, StepPlan, last_stage_before
from latentsync.processing.run.chain import Item
from latentsync.processing.run_folder import RunFolder

# Clips in one wave of work; this bounds the memory of the main process and the number of pending records, which are moved
# into the tables between two waves, while no worker is active.
WAVE_SOURCES, WAVE_CLIPS = 1_000, 20_000
SOURCE_BYTES = "source_bytes"  # the score that shows whether a source has changed


@dataclass(frozen=True)
class Backlog:
    """Clips that wait for a step, and the number of those that cannot continue because their source is no longer there."""

    items: list[Item]
    counts: dict[str, int]  # by step, including clips beyond the limit of a wave
    without_source: int


def prepare(run_folder: RunFolder, plan: Plan, manifests: Manifests) -> None:
    """Remove the rows of work that must be repeated: failures, changed sources, clips whose file is missing."""
    manifests.compact()
    tables = manifests.tables()
    changed = _changed_sources(run_folder, tables[plan[0].name])
    for stage in manifests.stages:
        tables[stage], gone = _without(tables[stage], tables[stage]["source"].isin(changed))
        for file in gone["file"]:
            if file:
                run_folder.output.remove(file)
        tables[stage] = tables[stage][tables[stage]["verdict"] != "failed"]
    _forget_missing_files(run_folder, plan, tables)
    for stage, table in tables.items():
        if len(table) or run_folder.manifests.exists(f"{stage}.parquet"):
            manifests.write(stage, table)


def backlog(run_folder: RunFolder, plan: Plan, manifests: Manifests) -> Backlog:
    """The clips that wait for a step, at most one wave; those in late steps first, so that intermediate files are removed early."""
    sources = run_folder.sources()
    items: list[Item] = []
    counts: dict[str, int] = {}
    without_source = 0
    for step in reversed(plan):
        stage = last_stage_before(plan, step)
        done = manifests.table(step.name)["parent"]
        if stage is None:
            waiting = [name for name in sources if name not in set(done)]
            counts[step.name] = len(waiting)
            starts = (ManifestRow("", "", name, scores={SOURCE_BYTES: sources[name]}) for name in waiting)
            items += [Item(step.name, row) for row in islice(starts, WAVE_SOURCES)]
        else:
            table = _waiting(manifests.table(stage), done)
            missing = (table["file"] == "") & ~table["source"].isin(set(sources))
            without_source += int(missing.sum())
            counts[step.name] = int((~missing).sum())
            items += [Item(step.name, row) for row in rows_of(table[~missing].head(WAVE_CLIPS - len(items)))]
    return Backlog(items, counts, without_source)


def remove_spent_files(run_folder: RunFolder, plan: Plan, manifests: Manifests) -> None:
    """Remove intermediate files that a killed worker left; those of waiting and failed clips are kept."""
    tables = manifests.tables()
    in_use = set(tables[plan[-1].stages[-1]]["file"])
    for step in plan[1:]:
        done = tables[step.name]
        table = tables[str(last_stage_before(plan, step))]
        in_use |= set(_waiting(table, done[done["verdict"] != "failed"]["parent"])["file"])
    spent = {file for table in tables.values() for file in table["file"]} - in_use
    for stage in manifests.stages:
        for name in run_folder.output.under(stage).files():
            if f"{stage}/{name}" in spent:
                run_folder.output.remove(f"{stage}/{name}")


def _waiting(table: pd.DataFrame, done: pd.Series) -> pd.DataFrame:
    return table[(table["verdict"] == "kept") & ~table["clip"].isin(done)]


def _without(table: pd.DataFrame, rows: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    return table[~rows], table[rows]


def _changed_sources(run_folder: RunFolder, first: pd.DataFrame) -> set[str]:
    """Sources that have changed since they were read: another size, or newer with other content."""
    sources = run_folder.sources()
    changed = set()
    for row in rows_of(first[first["source"].isin(set(sources))]):
        if sources[row.source] != row.scores.get(SOURCE_BYTES, sources[row.source]) or (
            run_folder.input.modified_at(row.source) > row.finished_at
            and _source_id(run_folder, row.source) != row.source_id
        ):
            changed.add(row.source)
    return changed


def _source_id(run_folder: RunFolder, source: str) -> str:
    return source_clip(Path(run_folder.input.root, source), source, source).source_id


def _forget_missing_files(run_folder: RunFolder, plan: Plan, tables: dict[str, pd.DataFrame]) -> None:
    """Remove the rows of waiting clips whose file is missing; they are made again from the input clip or the source."""
    for step in reversed(plan):
        stage = last_stage_before(plan, step)
        if stage is None:
            continue
        waiting = _waiting(tables[stage], tables[step.name]["parent"])
        folders = {file.split("/")[0] for file in waiting["file"] if file}
        there = {f"{folder}/{name}" for folder in folders for name in run_folder.output.under(folder).files()}
        missing = waiting[(waiting["file"] != "") & ~waiting["file"].isin(there)]
        before = next(each for each in plan if stage in each.stages)
        _forget(before, set(missing["clip"]), tables)


def _forget(step: StepPlan, clips: Set[str], tables: dict[str, pd.DataFrame]) -> None:
    """Remove all rows of those calls of a step whose last stage kept one of `clips`."""
    for stage in reversed(step.stages):
        clips = set(tables[stage][tables[stage]["clip"].isin(clips)]["parent"])
    for stage in step.stages:
        tables[stage], gone = _without(tables[stage], tables[stage]["parent"].isin(clips))
        clips = set(gone["clip"])
