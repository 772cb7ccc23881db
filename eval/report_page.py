"""A report as one HTML page that needs nothing but itself (and, for the videos, the files beside it)."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from eval.metrics import Column, columns_of
from eval.report_charts import curve_chart, interval_chart, legend
from latentsync.timebase import MODEL_FPS

STYLE = Path(__file__).with_name("report.css")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body><main>{body}</main></body></html>
"""
ARROWS = {"higher": "↑", "lower": "↓", "": ""}
TASK_TITLES = {
    "reconstruction": ("Reconstruction", "Each video with its own sound: the result should equal the input."),
    "cross": (
        "Another sound",
        "Each video with somebody else's sound: the lips must follow it and forget the old ones.",
    ),
    "silent": ("Silence", "Each video under silence: the mouth should close and keep still."),
}


def page(report: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """The page of a report (see `eval.report`); `pictures` are strips, curves and videos by task."""
    colours = {system["name"]: index for index, system in enumerate(report["systems"])}
    body = [header(report), verdicts(report), overview(report)]
    body += [section(report, task, pictures.get(task, {}), colours) for task in report["tasks"]]
    body += [systems(report), notes(report)]
    parts = {"title": escape(report["title"]), "style": STYLE.read_text(encoding="utf-8"), "body": "".join(body)}
    return PAGE.format(**parts)


def header(report: Mapping[str, Any]) -> str:
    command = f"<pre><code>{escape(report['command'])}</code></pre>"
    return f'<header><h1>{escape(report["title"])}</h1><p class="lead">{escape(report["lead"])}</p>{command}</header>'


def verdicts(report: Mapping[str, Any]) -> str:
    """What holds and what does not, in sentences."""
    lines = [
        f'<li class="{"holds" if check["holds"] else "fails"}">{escape(check["what"])}</li>'
        for check in report["checks"]
    ]
    warnings = [f'<li class="warning">{escape(text)}</li>' for text in report["warnings"]]
    return f'<ul class="verdicts">{"".join(lines + warnings)}</ul>'


def overview(report: Mapping[str, Any]) -> str:
    """Success, speed and memory of every system."""
    rows = []
    for system in report["systems"]:
        total = report["totals"][system["name"]]
        reasons = ", ".join(f"{count} × {escape(reason)}" for reason, count in total["failures"].items()) or "none"
        speed = [number(total["seconds_per_second"], 1), number(total["peak_mb"], 0)]
        cells = [f"{total['scored']} of {total['clips']}", reasons, *speed]
        rows.append(tr([escape(system["name"]), *cells], first="th"))
    names = ["system", "clips scored", "without a score", "seconds of work per second of video", "peak memory, MB"]
    return f"<h2>Success, speed, memory</h2>{table(names, rows)}"


def section(report: Mapping[str, Any], task: str, pictures: Mapping[str, Any], colours: Mapping[str, int]) -> str:
    title, text = TASK_TITLES[task]
    results = report["tasks"][task]
    shown = [metric for metric in columns_of(task) if any(metric.name in r["scores"] for r in results.values())]
    parts = [f"<section><h2>{title}</h2><p>{text} {count_text(results)}</p>", score_table(results, shown)]
    parts.append(legend([(name, colours[name]) for name in results]))
    parts.append(f'<div class="charts">{"".join(charts(results, shown, colours))}</div>')
    if "curves" in pictures:
        curves = [(name, values, colours[name]) for name, values in pictures["curves"].items()]
        caption = f"Opening of the lips over time, {escape(pictures['curves_of'])}; every curve in its own range."
        parts.append(f"<figure>{curve_chart(curves, MODEL_FPS)}<figcaption>{caption}</figcaption></figure>")
    parts += [strips(name, rows) for name, rows in pictures.get("strips", {}).items()]
    parts += [video(path) for path in pictures.get("videos", [])]
    return "".join([*parts, every_clip(report, task, shown), "</section>"])


def count_text(results: Mapping[str, Any]) -> str:
    counts = {name: f"{r['scored']} of {r['videos']}" for name, r in results.items()}
    return "Clips scored: " + ", ".join(f"{escape(name)} {count}" for name, count in counts.items()) + "."


def score_table(results: Mapping[str, Any], shown: Sequence[Column]) -> str:
    """Means with half their intervals' widths, one row a system."""
    head = ["", *(f"{escape(m.label)} {ARROWS[m.better]}" for m in shown)]
    rows = [
        tr([escape(name), *(cell(r["scores"].get(m.name), m) for m in shown)], first="th")
        for name, r in results.items()
    ]
    return table(head, rows)


def cell(summary: Mapping[str, float] | None, metric: Column) -> str:
    if summary is None:
        return '<span class="none">–</span>'
    half = (summary["high"] - summary["low"]) / 2
    return f"{summary['mean']:.{metric.digits}f}<small> ± {half:.{metric.digits}f}</small>"


def charts(results: Mapping[str, Any], shown: Sequence[Column], colours: Mapping[str, int]) -> Iterator[str]:
    for metric in (m for m in shown if m.chart):
        rows = [(n, r["scores"][metric.name], colours[n]) for n, r in results.items() if metric.name in r["scores"]]
        caption = f"{escape(metric.label)} {ARROWS[metric.better]}"
        yield f"<figure><figcaption>{caption}</figcaption>{interval_chart(rows, metric.digits)}</figure>"


def strips(name: str, rows: Mapping[str, str]) -> str:
    picture = '<div class="strip"><b>{0}</b><img alt="{0}" src="{1}"></div>'
    lines = [picture.format(escape(system), url) for system, url in rows.items()]
    return f"<figure>{''.join(lines)}<figcaption>{escape(name)}</figcaption></figure>"


def video(path: str) -> str:
    return f'<video controls preload="metadata" src="{escape(path)}"></video>'


def every_clip(report: Mapping[str, Any], task: str, shown: Sequence[Column]) -> str:
    rows = []
    for row in (row for row in report["rows"] if row["task"] == task):
        values = (
            [number(row.get(m.name), m.digits) for m in shown]
            if row["scored"]
            else [f"<em>{escape(row['reason'])}</em>"]
        )
        rows.append(tr([escape(row["clip"]), escape(row["system"]), *values]))
    head = ["clip", "system", *(escape(m.label) for m in shown)]
    return f"<details><summary>Every clip</summary>{table(head, rows)}</details>"


def systems(report: Mapping[str, Any]) -> str:
    rows = []
    for system in report["systems"]:
        facts = "; ".join(f"{escape(str(key))}: {escape(str(value))}" for key, value in system.items() if key != "name")
        rows.append(tr([escape(system["name"]), facts], first="th"))
    return f'<h2>What was compared</h2><div class="facts">{table(["system", "facts"], rows)}</div>'


def notes(report: Mapping[str, Any]) -> str:
    judge = report["judge"]
    lines = [
        f"Sync is judged by {judge['network']}, fingerprint {judge['fingerprint']}.",
        *(text[:1].upper() + text[1:] + "." for text in judge["stand_ins"]),
        "± is half the width of a 95 % bootstrap interval of the mean over clips; with few clips it is too narrow.",
        "Intervals of two systems overlap although one is better on every clip: compare clip by clip below each section.",
        *(f"{name} was left out: {why}" for name, why in report["skipped"].items()),
    ]
    return f"<h2>How to read it</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    names = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def tr(cells: Sequence[str], first: str = "td") -> str:
    tags = [first, *["td"] * (len(cells) - 1)]
    return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for tag, text in zip(tags, cells, strict=True)) + "</tr>"


def number(value: Any, digits: int) -> str:
    return '<span class="none">–</span>' if value is None else f"{value:.{digits}f}"
