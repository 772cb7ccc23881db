"""Other thresholds on manifests that are there: no video is opened.

A clip can be dropped where it was kept. A clip that was dropped is kept now as far as it was measured: the stages after
that one never saw it, so it ends as `not_measured` and is counted apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from latentsync.processing.manifests.manifest import frame_of, rows_of
from latentsync.processing.manifests.row import ManifestRow
from latentsync.processing.stages.contract import Rule


@dataclass(frozen=True)
class Reapplied:
    """Manifests with new verdicts, and the clips that would have to be measured further."""

    tables: dict[str, pd.DataFrame]
    unmeasured: dict[str, int]  # clips that a stage keeps now and whose files were never made, by stage


def reapply(tables: Mapping[str, pd.DataFrame], before: Mapping[str, Rule], now: Mapping[str, Rule]) -> Reapplied:
    """Judge every clip of every stage again; `tables` are in the order of the stages, `before` the rules they were made by.

    What no rule dropped, such as a file that cannot be read, stays dropped.
    """
    judged: dict[str, pd.DataFrame] = {}
    unmeasured: dict[str, int] = {}
    alive: set[str] | None = None  # clips that the stage before keeps
    for stage, table in tables.items():
        given = table if alive is None else table[table["parent"].isin(alive)]
        rows = [_judge(row, before[stage], now[stage]) for row in rows_of(given)]
        unmeasured[stage] = sum(
            new.verdict == "kept" and old == "dropped" for new, old in zip(rows, given["verdict"], strict=True)
        )
        judged[stage] = frame_of(rows)
        alive = {row.clip for row in rows if row.verdict == "kept"}
    return Reapplied(judged, unmeasured)


def _judge(row: ManifestRow, before: Rule, now: Rule) -> ManifestRow:
    by_rule = before.decide(row.scores)
    if row.verdict == "failed" or (row.verdict == "dropped" and (by_rule is None or by_rule != row.reason)):
        return row
    reason = now.decide(row.scores)
    if reason is None:
        return replace(row, verdict="kept", reason="", detail="")
    return replace(row, verdict="dropped", reason=reason, detail=now.explain(reason, row.scores), file="")
