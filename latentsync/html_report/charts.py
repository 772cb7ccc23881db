"""Charts as inline SVG; colours are classes of the style sheet, so that they follow a light or dark page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Interval = Mapping[str, float]  # mean, low, high

BARS_WIDTH, BAR_PX, GAP_PX, NAME_PX, NUMBER_PX = 860, 26, 14, 190, 190
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT, FOOT_PX, HEAD_PX, SIDE_PX = 420, 190, 34, 24, 14
INTERVAL_WIDTH, LABEL_PX, VALUE_PX, ROW_PX, TOP_PX = 340, 112, 46, 22, 8
CURVE_WIDTH, CURVE_HEIGHT = 720, 190
CURVE_MARGIN = (34, 10, 8, 22)  # left, right, top, bottom


@dataclass(frozen=True)
class StackedBar:
    """One bar of several parts, with its name before it and a text after it."""

    name: str
    parts: Sequence[tuple[str, float, str]]  # CSS class, length, tooltip
    text: str


def stacked_bars(bars: Sequence[StackedBar], longest: float, title: str) -> Markup:
    """One line for each bar; a bar of length `longest` fills the width."""
    scale = (BARS_WIDTH - NAME_PX - NUMBER_PX) / max(longest, 1e-9)
    drawn: list[str] = []
    for index, bar in enumerate(bars):
        top, left = index * (BAR_PX + GAP_PX), float(NAME_PX)
        middle = top + BAR_PX / 2 + 5
        drawn.append(_text(NAME_PX - 12, middle, bar.name, "end"))
        for kind, length, hint in bar.parts:
            if length > 0:
                drawn.append(_box(left, top, max(length * scale, 1.0), BAR_PX, kind, hint))
                left += length * scale
        drawn.append(_text(left + 10, middle, bar.text, "start", "small"))
    return _svg(BARS_WIDTH, len(bars) * (BAR_PX + GAP_PX), drawn, title, "wide-chart")


def histogram(
    edges: Sequence[float],
    kept: Sequence[int],
    dropped: Sequence[int],
    bounds: Sequence[float],
    curve: Sequence[float],
    unit: str,
    title: str,
) -> Markup:
    """Kept on top of dropped counts for each bin, bounds as dashed lines, and a curve over the bins' lower edges (or empty)."""
    low, high = edges[0], edges[-1]
    across = (HISTOGRAM_WIDTH - 2 * SIDE_PX) / (high - low)
    height = HISTOGRAM_HEIGHT - FOOT_PX - HEAD_PX
    up = height / max(1, max(a + b for a, b in zip(kept, dropped, strict=True)))
    base = HISTOGRAM_HEIGHT - FOOT_PX
    parts: list[str] = []
    for left, right, a, b in zip(edges, edges[1:], kept, dropped, strict=False):
        x, wide = SIDE_PX + (left - low) * across, max((right - left) * across - 1, 0.5)
        hint = f"{left:.4g} to {right:.4g} {unit}: {a} kept, {b} dropped"
        parts += [_box(x, base - b * up, wide, b * up, "dropped", hint)] if b else []
        parts += [_box(x, base - (a + b) * up, wide, a * up, "kept", hint)] if a else []
    points = [
        (SIDE_PX + (edge - low) * across, base - value / max(*curve, 1e-9) * height)
        for edge, value in zip(edges, curve, strict=False)
    ]
    parts += [_polyline("hours", points)] if points else []
    parts += [_bound(bound, SIDE_PX + (bound - low) * across, base) for bound in bounds]
    parts.append(_line("axis", SIDE_PX, HISTOGRAM_WIDTH - SIDE_PX, base, base))
    parts.append(_text(SIDE_PX, base + 16, f"{low:.4g}", "start", "small"))
    parts.append(_text(HISTOGRAM_WIDTH - SIDE_PX, base + 16, f"{high:.4g} {unit}", "end", "small"))
    return _svg(HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT, parts, title)


def intervals(rows: Sequence[tuple[str, Interval, int]], digits: int) -> Markup:
    """A dot with its interval for every row (label, interval, number of the colour)."""
    values = [row[1][key] for row in rows for key in ("low", "high")]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.5 * abs(high) or 1.0
    low, high = low - margin, high + margin
    left, right = LABEL_PX, INTERVAL_WIDTH - VALUE_PX
    height = TOP_PX + ROW_PX * len(rows) + 4

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = [_line("grid", at, at, 2, height - 2) for at in (left, right)]
    if low < 0 < high:
        parts.append(_line("zero", x(0), x(0), 2, height - 2))
    for index, (label, interval, colour) in enumerate(rows):
        y = TOP_PX + ROW_PX * index + ROW_PX / 2 - 2
        parts += [
            _text(left - 8, y + 4, label, "end", "soft"),
            _line(f"span s{colour}", x(interval["low"]), x(interval["high"]), y, y),
            f'<circle class="dot s{colour}" cx="{x(interval["mean"]):.1f}" cy="{y:.1f}" r="4.5"/>',
            _text(INTERVAL_WIDTH, y + 4, f"{interval['mean']:.{digits}f}", "end", "value"),
        ]
    return _svg(INTERVAL_WIDTH, height, parts)


def curves(lines: Sequence[tuple[str, NDArray[np.floating], int]], fps: float) -> Markup:
    """Lip openings over time: one line a curve (label, [t] from 0 to 1, number of the colour), NaN left out."""
    left, right, top, bottom = CURVE_MARGIN
    longest = max(len(values) for _, values, _ in lines)
    x_step = (CURVE_WIDTH - left - right) / max(1, longest - 1)
    base, span = CURVE_HEIGHT - bottom, CURVE_HEIGHT - top - bottom
    parts = [_line("grid", left, CURVE_WIDTH - right, base, base)]
    for second in np.arange(0, (longest - 1) / fps + 1e-6, 0.5):
        at = left + second * fps * x_step
        parts += [_line("grid", at, at, base, base + 4), _text(at, CURVE_HEIGHT - 5, f"{second:g} s", "middle", "soft")]
    for label, values, colour in lines:
        points = [(left + i * x_step, base - span * v) for i, v in enumerate(values) if np.isfinite(v)]
        parts.append(_polyline(f"curve s{colour}", points, label))
    parts += [_text(left - 6, top + 8, "open", "end", "soft"), _text(left - 6, base, "shut", "end", "soft")]
    return _svg(CURVE_WIDTH, CURVE_HEIGHT, parts, kind="wide-chart tiny")


def _bound(value: float, x: float, base: float) -> str:
    x = min(max(x, SIDE_PX), HISTOGRAM_WIDTH - SIDE_PX)
    side, shift = ("start", 4) if x < HISTOGRAM_WIDTH / 2 else ("end", -4)
    return _line("bound", x, x, HEAD_PX - 12, base) + _text(x + shift, HEAD_PX - 4, f"{value:g}", side, "bound")


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _polyline(kind: str, points: Sequence[tuple[float, float]], hint: str = "") -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{places}">{f"<title>{escape(hint)}</title>" if hint else ""}</polyline>'


def _box(x: float, y: float, width: float, height: float, kind: str, hint: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place} rx="1.5"><title>{escape(hint)}</title></rect>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "name") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], title: str = "", kind: str = "") -> Markup:
    label = f' aria-label="{escape(title)}"' if title else ""
    head = f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img"{label}>'
    return Markup(head + "".join(parts) + "</svg>")
