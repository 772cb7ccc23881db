"""A report as one HTML page that loads nothing from elsewhere, except the videos beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.metrics import Column, columns_of
from latentsync.html_report import render
from latentsync.html_report.charts import curves, intervals
from latentsync.timebase import MODEL_FPS

TEMPLATE = Path(__file__).with_name("report.html")
ARROWS = {"higher": "↑", "lower": "↓", "": ""}
TASK_TITLES = {
    "reconstruction": ("Reconstruction", "Each video with its own audio: the result should equal the input."),
    "cross": (
        "Another sound",
        "Each video with the sound of another video: the lips must follow it, not their old sound.",
    ),
    "silent": ("Silence", "Each video with silent audio: the mouth should be closed and still."),
}


def page(report: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """The page of a report (see `eval.report`); `pictures` are strips, curves and videos by task."""
    colours = {system["name"]: index for index, system in enumerate(report["systems"])}
    sections = [section(report, task, pictures.get(task, {}), colours) for task in report["tasks"]]
    return render(TEMPLATE, title=report["title"], report=report, sections=sections, notes=notes(report))


def section(
    report: Mapping[str, Any], task: str, pictures: Mapping[str, Any], colours: Mapping[str, int]
) -> dict[str, Any]:
    """The values of one task's section of the page."""
    heading, text = TASK_TITLES[task]
    results = report["tasks"][task]
    metrics = [metric for metric in columns_of(task) if any(metric.name in r["scores"] for r in results.values())]
    lines = [(name, values, colours[name]) for name, values in pictures.get("curves", {}).items()]
    return {
        "heading": heading,
        "text": text,
        "results": results,
        "metrics": metrics,
        "captions": [caption(metric) for metric in metrics],
        "labels": [metric.label for metric in metrics],
        "colours": [(name, f"s{colours[name]}") for name in results],
        "charts": [(caption(m), interval_chart(results, m, colours)) for m in metrics if m.chart],
        "curves": curves(lines, MODEL_FPS) if lines else "",
        "pictures": pictures,
        "rows": [row for row in report["rows"] if row["task"] == task],
    }


def caption(metric: Column) -> str:
    """A metric's name with an arrow in the better direction."""
    return f"{metric.label} {ARROWS[metric.better]}"


def interval_chart(results: Mapping[str, Any], metric: Column, colours: Mapping[str, int]) -> Markup:
    """One metric of all systems."""
    scores = {
        name: result["scores"][metric.name] for name, result in results.items() if metric.name in result["scores"]
    }
    return intervals([(name, score, colours[name]) for name, score in scores.items()], metric.digits)


def notes(report: Mapping[str, Any]) -> list[str]:
    """How to read the page, in sentences."""
    judge = report["judge"]
    return [
        f"Sync is judged by {judge['network']}, fingerprint {judge['fingerprint']}.",
        *(text[:1].upper() + text[1:] + "." for text in judge["stand_ins"]),
        "± is half the width of a 95 % bootstrap interval of the mean over clips; with few clips it is too narrow.",
        "Intervals of two systems may overlap although one is better on every clip: compare clip by clip below each section.",
        *(f"{label[:1].upper()}{label[1:]}: {note}." for label, note in explained(report)),
        *(f"{name} was left out: {why}" for name, why in report["skipped"].items()),
    ]


def explained(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and explanation of each column that has one, in the order of the tables."""
    columns = [column for task in report["tasks"] for column in columns_of(task) if column.note]
    return list(dict.fromkeys((column.label, column.note) for column in columns))
