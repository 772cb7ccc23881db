"""Applying other thresholds to existing manifests without opening a video.

A clip that was kept may be dropped now. A clip that was dropped may be kept by that stage now, but the later stages never
measured it, so it has no rows there and is counted as unmeasured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from latentsync.processing.manifests.manifest import frame_of, rows_of
from latentsync.processing.manifests.row import ManifestRow
from latentsync.processing.stages.contract import Rule


@dataclass(frozen=True)
class Reapplied:
    """Manifests with new verdicts, and the number of clips that later stages would have to measure."""

    tables: dict[str, pd.DataFrame]
    unmeasured: dict[str, int]  # by stage: clips that are kept now and whose files were never written


def reapply(tables: Mapping[str, pd.DataFrame], before: Mapping[str, Rule], now: Mapping[str, Rule]) -> Reapplied:
    """Decide again on every clip of every stage; `tables` are in the order of the stages, `before` are the rules of the run.

    A clip that no rule dropped, such as a file that cannot be read, stays dropped.
    """
    judged: dict[str, pd.DataFrame] = {}
    unmeasured: dict[str, int] = {}
    remaining: set[str] | None = None  # clips that the stage before keeps
    for stage, table in tables.items():
        given = table if remaining is None else table[table["parent"].isin(remaining)]
        rows = [_judge(row, before[stage], now[stage]) for row in rows_of(given)]
        unmeasured[stage] = sum(
            new.verdict == "kept" and old == "dropped" for new, old in zip(rows, given["verdict"], strict=True)
        )
        judged[stage] = frame_of(rows)
        remaining = {row.clip for row in rows if row.verdict == "kept"}
    return Reapplied(judged, unmeasured)


def _judge(row: ManifestRow, before: Rule, now: Rule) -> ManifestRow:
    by_rule = before.decide(row.scores)
    if row.verdict == "failed" or (row.verdict == "dropped" and (by_rule is None or by_rule != row.reason)):
        return row
    reason = now.decide(row.scores)
    if reason is None:
        return replace(row, verdict="kept", reason="", detail="")
    return replace(row, verdict="dropped", reason=reason, detail=now.explain(reason, row.scores), file="")
