"""Numbers from manifests: input and output of each stage, reasons of dropped clips, and distributions of the scores."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from latentsync.processing.stages.contract import DURATION, Measure

BINS = 32
HOUR_SEC = 3600.0


@dataclass(frozen=True)
class Share:
    """A number of clips and their total length."""

    clips: int
    hours: float


@dataclass(frozen=True)
class StageCount:
    """One line of the funnel. Hours are durations in the source; those of unreadable files are unknown and count as 0."""

    stage: str
    given: Share
    kept: Share
    dropped: Mapping[str, Share]  # by reason, the most hours first
    failed: Mapping[str, Share]  # by kind of error
    work_hours: float  # of the step that begins with this stage, summed over workers


@dataclass(frozen=True)
class Histogram:
    """Distribution of a score in clips, and the hours of measured clips that each lower bound would keep."""

    measure: Measure
    edges: list[float]
    kept: list[int]  # clips in each bin that the stage kept
    dropped: list[int]
    hours_from: list[float]  # hours of clips at or above each bin's lower edge


@dataclass(frozen=True)
class Funnel:
    """All numbers of a report."""

    stages: list[StageCount]
    histograms: list[Histogram] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def funnel_of(tables: Mapping[str, pd.DataFrame], shown: list[Measure]) -> Funnel:
    """The funnel of the stages' tables, which are in order."""
    stages, before = [], None
    for stage, table in tables.items():
        stages.append(_count(stage, table, before))
        before = table
    histograms = [histogram(tables[measure.stage], measure) for measure in shown]
    return Funnel(stages, [each for each in histograms if each is not None])


def histogram(table: pd.DataFrame, measure: Measure) -> Histogram | None:
    """None if no clip has the score."""
    values = _values(table, measure.name)
    known = values.notna()
    if not known.any():
        return None
    values, kept, hours = values[known].to_numpy(), (table["verdict"] == "kept")[known], _hours(table)[known]
    edges = _edges(values, measure)
    return Histogram(
        measure,
        [round(float(edge), 6) for edge in edges],
        np.histogram(values[kept], edges)[0].tolist(),
        np.histogram(values[~kept], edges)[0].tolist(),
        [round(float(hours[values >= edge].sum()), 6) for edge in edges[:-1]],
    )


def _count(stage: str, table: pd.DataFrame, before: pd.DataFrame | None) -> StageCount:
    parents = table["parent"].drop_duplicates()
    source = table if before is None else before[(before["verdict"] == "kept") & before["clip"].isin(parents)]
    of = {verdict: table[table["verdict"] == verdict] for verdict in ("kept", "dropped", "failed")}
    return StageCount(
        stage,
        Share(len(parents), _sum_hours(source)),
        _share(of["kept"]),
        _by_reason(of["dropped"]),
        _by_reason(of["failed"]),
        round(float(table["work_sec"].sum()) / HOUR_SEC, 6),
    )


def _by_reason(table: pd.DataFrame) -> dict[str, Share]:
    shares = {str(reason): _share(rows) for reason, rows in table.groupby("reason")}
    return dict(sorted(shares.items(), key=lambda entry: (-entry[1].hours, -entry[1].clips, entry[0])))


def _share(table: pd.DataFrame) -> Share:
    return Share(len(table), _sum_hours(table))


def _sum_hours(table: pd.DataFrame) -> float:
    return round(float(_hours(table).sum()), 6)


def _hours(table: pd.DataFrame) -> pd.Series:
    return (table["end_sec"] - table["start_sec"]) / HOUR_SEC


def _values(table: pd.DataFrame, name: str) -> pd.Series:
    if name == DURATION:
        return table["end_sec"] - table["start_sec"]
    if name not in table:
        return pd.Series([np.nan] * len(table), dtype="float64")
    return pd.to_numeric(table[name]).astype("float64")


def _edges(values: np.ndarray, measure: Measure) -> np.ndarray:
    """Bins over all values and thresholds; few whole numbers get one bin each."""
    bounds = [bound for bound in (measure.at_least, measure.at_most) if bound is not None]
    low, high = min([*values, *bounds]), max([*values, *bounds])
    if np.all(values == np.round(values)) and high - low < 2 * BINS:
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1.5)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high + (high - low) * 1e-6, BINS + 1)


def hours_text(hours: float) -> str:
    """A duration in the unit that suits it, as in "1.5 h" or "20 s"."""
    if hours >= 100:
        return f"{hours:,.0f} h"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def label(name: str) -> str:
    """The code of a stage or reason as words."""
    return name.replace("_", " ")
