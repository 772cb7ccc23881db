"""Drawings for the report as inline SVG; colours are CSS variables, so that they follow a light or dark page."""

from collections.abc import Sequence
from html import escape

from latentsync.processing.report.funnel import Histogram, StageCount

WIDTH, BAR_PX, GAP_PX, NAME_PX, NUMBER_PX = 860, 26, 14, 190, 190
CHART_WIDTH, CHART_HEIGHT, FOOT_PX, HEAD_PX, SIDE_PX = 420, 190, 34, 24, 14


def funnel_chart(stages: Sequence[StageCount]) -> str:
    """One bar a stage, as long as the hours that it was given: kept, dropped and failed parts."""
    longest = max([stage.given.hours for stage in stages] + [1e-9])
    scale = (WIDTH - NAME_PX - NUMBER_PX) / longest
    height = len(stages) * (BAR_PX + GAP_PX)
    parts = [_stage_bar(stage, index * (BAR_PX + GAP_PX), scale) for index, stage in enumerate(stages)]
    return _svg(WIDTH, height, "Hours in and out of each stage", parts)


def _stage_bar(stage: StageCount, top: float, scale: float) -> str:
    dropped = sum(share.hours for share in stage.dropped.values())
    failed = sum(share.hours for share in stage.failed.values())
    widths = [("kept", stage.kept.hours), ("dropped", dropped), ("failed", failed)]
    left, drawn = float(NAME_PX), []
    for kind, hours in widths:
        if hours > 0:
            drawn.append(_box(left, top, max(hours * scale, 1.0), BAR_PX, kind, f"{kind}: {hours_text(hours)}"))
            left += hours * scale
    middle = top + BAR_PX / 2 + 5
    name = _text(NAME_PX - 12, middle, label(stage.stage), "end")
    percent = f" · {stage.kept.hours / stage.given.hours:.0%}" if stage.given.hours else ""
    number = _text(left + 10, middle, f"{hours_text(stage.kept.hours)}{percent}", "start", "small")
    return name + "".join(drawn) + number


def histogram_chart(data: Histogram) -> str:
    """Kept on top of dropped clips, the thresholds as dashed lines, and the hours that each bound would keep as a line."""
    width, height = CHART_WIDTH - 2 * SIDE_PX, CHART_HEIGHT - FOOT_PX - HEAD_PX
    low, high = data.edges[0], data.edges[-1]
    across = width / (high - low)
    up = height / max(1, max(kept + dropped for kept, dropped in zip(data.kept, data.dropped, strict=True)))
    base = CHART_HEIGHT - FOOT_PX
    parts = []
    for left, right, kept, dropped in zip(data.edges, data.edges[1:], data.kept, data.dropped, strict=False):
        x, wide = SIDE_PX + (left - low) * across, max((right - left) * across - 1, 0.5)
        told = f"{left:.4g} to {right:.4g} {data.measure.unit}: {kept} kept, {dropped} dropped"
        parts.append(_box(x, base - dropped * up, wide, dropped * up, "dropped", told) if dropped else "")
        parts.append(_box(x, base - (kept + dropped) * up, wide, kept * up, "kept", told) if kept else "")
    parts.append(_hours_line(data, across, base, height))
    parts += [_threshold(bound, low, across, base) for bound in (data.measure.at_least, data.measure.at_most)]
    parts.append(f'<line class="axis" x1="{SIDE_PX}" x2="{CHART_WIDTH - SIDE_PX}" y1="{base}" y2="{base}"/>')
    parts += [_text(SIDE_PX, base + 16, f"{low:.4g}", "start", "small")]
    parts += [_text(CHART_WIDTH - SIDE_PX, base + 16, f"{high:.4g} {data.measure.unit}", "end", "small")]
    return _svg(CHART_WIDTH, CHART_HEIGHT, data.measure.title, parts)


def _hours_line(data: Histogram, across: float, base: float, height: float) -> str:
    if data.measure.at_most is not None:  # a bound from one side only has no meaning here
        return ""
    most = max(data.hours_from + [1e-9])
    points = [
        f"{SIDE_PX + (edge - data.edges[0]) * across:.1f},{base - hours / most * height:.1f}"
        for edge, hours in zip(data.edges, data.hours_from, strict=False)
    ]
    return f'<polyline class="hours" points="{" ".join(points)}"/>'


def _threshold(bound: float | None, low: float, across: float, base: float) -> str:
    if bound is None:
        return ""
    x = min(max(SIDE_PX + (bound - low) * across, SIDE_PX), CHART_WIDTH - SIDE_PX)
    side = "start" if x < CHART_WIDTH / 2 else "end"
    shift = 4 if side == "start" else -4
    line = f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD_PX - 12}" y2="{base}"/>'
    return line + _text(x + shift, HEAD_PX - 4, f"{bound:g}", side, "bound")


def hours_text(hours: float) -> str:
    """Hours as a person says them."""
    if hours >= 100:
        return f"{hours:,.0f} h"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def label(name: str) -> str:
    """A stage's or reason's code as words."""
    return name.replace("_", " ")


def _box(x: float, y: float, width: float, height: float, kind: str, told: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place} rx="1.5"><title>{escape(told)}</title></rect>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "name") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"
