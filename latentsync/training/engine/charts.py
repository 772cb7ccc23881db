"""Training charts as PNG files, drawn without a display. Errors in drawing are logged, not raised."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from latentsync.files import atomic_write

log = logging.getLogger(__name__)
SIZE_INCHES = (9.0, 3.2)  # of one panel
BINS = 40


@dataclass(frozen=True)
class CurvePanel:
    """Named curves, [(step, value), ...] each, and optionally a horizontal reference line."""

    title: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    level: float | None = None
    level_name: str = ""


@dataclass(frozen=True)
class HistogramPanel:
    """Histograms of named lists of values on one axis."""

    title: str
    values: Mapping[str, Sequence[float]]
    limits: tuple[float, float] | None = None
    bins: int = BINS
    marks: Mapping[str, float] = field(default_factory=dict)  # named vertical lines


Panel = CurvePanel | HistogramPanel


def save_charts(path: Path, panels: Sequence[Panel]) -> bool:
    """Draw panels below each other into a PNG file, written atomically; returns False on an error, which is logged."""
    try:
        _draw(path, [panel for panel in panels if not _is_empty(panel)])
    except Exception as error:  # a chart must not stop a training
        log.warning("the chart %s was not drawn: %s", path, error)
        return False
    return True


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """The points (step, value) of one name in log rows."""
    return [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, [] if it does not exist; incomplete rows are skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _is_empty(panel: Panel) -> bool:
    return not any(len(values) for values in (panel.curves if isinstance(panel, CurvePanel) else panel.values).values())


def _draw(path: Path, panels: Sequence[Panel]) -> None:
    if not panels:
        return
    figure = Figure(figsize=(SIZE_INCHES[0], SIZE_INCHES[1] * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        if isinstance(panel, CurvePanel):
            _draw_curves(axes, panel)
        else:
            _draw_histograms(axes, panel)
        axes.set_title(panel.title)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw_curves(axes: Any, panel: CurvePanel) -> None:
    for name, points in panel.curves.items():
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=name, marker="o" if len(points) < 3 else None)
    if panel.level is not None:
        axes.axhline(panel.level, color="grey", linestyle="--", label=panel.level_name)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)


def _draw_histograms(axes: Any, panel: HistogramPanel) -> None:
    for name, values in panel.values.items():
        axes.hist(values, bins=panel.bins, range=panel.limits, alpha=0.55, density=True, label=name)
    for name, value in panel.marks.items():
        axes.axvline(value, color="black", linestyle=":", label=name)
