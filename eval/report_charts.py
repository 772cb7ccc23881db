"""Charts of a report as SVG in the colours of the page."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

Interval = Mapping[str, float]  # mean, low, high

WIDTH, LABEL, VALUE, ROW, TOP = 340, 112, 46, 22, 8
CURVE = (720, 190)  # w, h
CURVE_MARGIN = (34, 10, 8, 22)  # left, right, top, bottom


def interval_chart(rows: Sequence[tuple[str, Interval, int]], digits: int) -> str:
    """Chart of a dot and its interval for each row (label, interval, colour number)."""
    values = [row[1][key] for row in rows for key in ("low", "high")]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.5 * abs(high) or 1.0
    low, high = low - margin, high + margin
    left, right = LABEL, WIDTH - VALUE
    height = TOP + ROW * len(rows) + 4

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = [f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="{height - 2}"/>' for at in (left, right)]
    if low < 0 < high:
        parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="2" y2="{height - 2}"/>')
    for index, (label, interval, colour) in enumerate(rows):
        y = TOP + ROW * index + ROW / 2 - 2
        ends = " ".join(f'x{i + 1}="{x(interval[key]):.1f}"' for i, key in enumerate(("low", "high")))
        parts += [
            f'<text class="name" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>',
            f'<line class="span s{colour}" {ends} y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<circle class="dot s{colour}" cx="{x(interval["mean"]):.1f}" cy="{y:.1f}" r="4.5"/>',
            f'<text class="value" x="{WIDTH}" y="{y + 4:.1f}" text-anchor="end">{interval["mean"]:.{digits}f}</text>',
        ]
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def curve_chart(curves: Sequence[tuple[str, NDArray[np.floating], int]], fps: float) -> str:
    """Chart of lip openings over time: one line per curve (label, [t] from 0 to 1, colour number); NaN is skipped."""
    width, height = CURVE
    left, right, top, bottom = CURVE_MARGIN
    longest = max(len(values) for _, values, _ in curves)
    x_step = (width - left - right) / max(1, longest - 1)
    base, span = height - bottom, height - top - bottom
    parts = [f'<line class="grid" x1="{left}" x2="{width - right}" y1="{base}" y2="{base}"/>']
    for second in np.arange(0, (longest - 1) / fps + 1e-6, 0.5):
        at = left + second * fps * x_step
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text class="name" x="{at:.1f}" y="{height - 5}" text-anchor="middle">{second:g} s</text>')
    for label, values, colour in curves:
        points = [f"{left + i * x_step:.1f},{base - span * v:.1f}" for i, v in enumerate(values) if np.isfinite(v)]
        parts.append(
            f'<polyline class="curve s{colour}" points="{" ".join(points)}"><title>{escape(label)}</title></polyline>'
        )
    parts.append(f'<text class="name" x="{left - 6}" y="{top + 8}" text-anchor="end">open</text>')
    parts.append(f'<text class="name" x="{left - 6}" y="{base}" text-anchor="end">shut</text>')
    return f'<svg class="wide" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def legend(names: Sequence[tuple[str, int]]) -> str:
    """Names of the systems beside their colours."""
    keys = [f'<span class="key"><i class="s{colour}"></i>{escape(name)}</span>' for name, colour in names]
    return f'<p class="legend">{"".join(keys)}</p>'
