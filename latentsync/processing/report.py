"""The report of a run: one HTML page that needs nothing else, and the same numbers as JSON."""

import base64
import json
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from latentsync.processing.charts import funnel_chart, histogram_chart, hours_text, label
from latentsync.processing.examples import EXAMPLES_EACH
from latentsync.processing.funnel import Funnel, Histogram, Measure, Share, StageCount, funnel_of
from latentsync.processing.job import EXAMPLES
from latentsync.processing.report_style import STYLE
from latentsync.processing.storage import Folder

PAGE, NUMBERS = "report.html", "report.json"
Shown = Mapping[tuple[str, str], list[dict[str, Any]]]  # examples by stage and reason


def write_report(
    manifests: Folder,
    output: Folder,
    tables: Mapping[str, pd.DataFrame],
    shown: list[Measure],
    about: Mapping[str, str],
) -> Funnel:
    """Write `report.html` and `report.json` into a folder of manifests; the pictures come from the `output` folder.

    `tables` are the stages' manifests in their order; `about` is a line or two of facts for the head of the page.
    """
    funnel = funnel_of(tables, shown)
    examples = _examples(tables, output)
    numbers = {"about": dict(about), **funnel.to_dict(), "examples": _without_pictures(examples)}
    manifests.write(NUMBERS, (json.dumps(numbers, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
    manifests.write(PAGE, page(funnel, examples, about).encode("utf-8"))
    return funnel


def page(funnel: Funnel, examples: Shown, about: Mapping[str, str]) -> str:
    """The whole page as HTML."""
    sections = [
        _headline(funnel, about),
        f'<section><h2>Hours through the stages</h2>{_legend()}<div class="wide">{funnel_chart(funnel.stages)}</div>'
        f"{_reasons_table(funnel)}</section>",
        f'<section><h2>How the scores lie</h2>{_scores_note()}<div class="charts">'
        + "".join(_chart(each) for each in funnel.histograms)
        + "</div></section>",
        _gallery(examples),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Data processing</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _headline(funnel: Funnel, about: Mapping[str, str]) -> str:
    given, kept = funnel.stages[0].given, funnel.stages[-1].kept
    failed = sum(share.clips for stage in funnel.stages for share in stage.failed.values())
    cards = [
        (f"{given.clips:,}", f"videos, {hours_text(given.hours)}"),
        (f"{kept.clips:,}", f"training clips, {hours_text(kept.hours)}"),
        (f"{kept.hours / given.hours:.0%}" if given.hours else "–", "of the hours kept"),
        (f"{failed:,}", "failed clips; the same command tries them again" if failed else "failed clips"),
    ]
    shown = "".join(f'<div class="card"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in cards)
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in about.items())
    return f'<header><h1>Data processing</h1><div class="cards">{shown}</div><dl>{facts}</dl></header>'


def _legend() -> str:
    kinds = "".join(f'<span><i class="{kind}"></i>{kind}</span>' for kind in ("kept", "dropped", "failed"))
    return f'<p class="legend">{kinds}</p>'


def _reasons_table(funnel: Funnel) -> str:
    rows = "".join(_stage_rows(stage) for stage in funnel.stages)
    names = [("stage", ""), ("in", "n"), ("kept", "n"), ("why not", "why"), ("clips", "n"), ("time", "n")]
    head = "<tr>" + "".join(f'<th class="{kind}">{name}</th>' for name, kind in names) + "</tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _stage_rows(stage: StageCount) -> str:
    reasons: list[tuple[str, Share | None]] = [(label(name), share) for name, share in stage.dropped.items()]
    reasons += [(f"failed: {name}", share) for name, share in stage.failed.items()]
    reasons = reasons or [("", None)]
    span = f'rowspan="{len(reasons)}"'
    first = (
        f"<td {span}>{escape(label(stage.stage))}</td>"
        f'<td {span} class="n">{stage.given.clips:,}<small>{hours_text(stage.given.hours)}</small></td>'
        f'<td {span} class="n">{stage.kept.clips:,}<small>{hours_text(stage.kept.hours)}</small></td>'
    )
    lines = []
    for number, (reason, share) in enumerate(reasons):
        told = (
            f'<td class="n">{share.clips:,}</td><td class="n">{hours_text(share.hours)}</td>'
            if share
            else "<td></td><td></td>"
        )
        lines.append(f'<tr>{first if number == 0 else ""}<td class="why">{escape(reason)}</td>{told}</tr>')
    return "".join(lines)


def _scores_note() -> str:
    return (
        "<p>Bars count the clips that a stage measured. A dashed line is the threshold in force. The curve tells how many "
        "of the measured hours would stay if the threshold were at that place, from all at its top to none at its foot. "
        "Other thresholds can be applied to the manifests without measuring again (<code>--reapply</code>).</p>"
    )


def _chart(data: Histogram) -> str:
    return f"<figure><figcaption>{escape(data.measure.title)}</figcaption>{histogram_chart(data)}</figure>"


def _examples(tables: Mapping[str, pd.DataFrame], output: Folder) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Up to a handful of dropped clips for each stage and reason, those with a picture first."""
    pictures = output.under(EXAMPLES).files()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for stage, table in tables.items():
        for reason, rows in table[table["verdict"] != "kept"].groupby("reason"):
            names = {clip: f"{stage}/{reason}/{clip}.jpg" for clip in rows["clip"]}
            pictured = rows["clip"].map(lambda clip, names=names: names[clip] in pictures)
            chosen = pd.concat([rows[pictured], rows[~pictured]]).head(EXAMPLES_EACH)
            found[stage, str(reason)] = [
                _example(row, names[row["clip"]], pictures, output) for _, row in chosen.iterrows()
            ]
    return found


def _example(row: pd.Series, name: str, pictures: Mapping[str, int], output: Folder) -> dict[str, Any]:
    picture = base64.b64encode(output.read(f"{EXAMPLES}/{name}")).decode() if name in pictures else ""
    facts = {key: row[key] for key in ("clip", "source", "start_sec", "end_sec", "detail")}
    return {**facts, "picture": picture}


def _without_pictures(examples: Shown) -> dict[str, dict[str, list[dict[str, Any]]]]:
    told: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (stage, reason), entries in examples.items():
        plain = [{key: value for key, value in entry.items() if key != "picture"} for entry in entries]
        told.setdefault(stage, {})[reason] = plain
    return told


def _gallery(examples: Shown) -> str:
    groups = []
    for (stage, reason), entries in examples.items():
        figures = "".join(_figure(entry) for entry in entries)
        title = f"{label(stage)}: {label(reason)}"
        groups.append(f'<div><h3>{escape(title)}</h3><div class="gallery">{figures}</div></div>')
    shown = f'<div class="groups">{"".join(groups)}</div>' if groups else "<p>Nothing was dropped.</p>"
    return f"<section><h2>Examples of what was dropped</h2>{shown}</section>"


def _figure(entry: Mapping[str, Any]) -> str:
    image = '<div class="none">no picture</div>'
    if entry["picture"]:
        image = f'<img alt="" src="data:image/jpeg;base64,{entry["picture"]}">'
    span = f"{entry['start_sec']:.2f}–{entry['end_sec']:.2f} s" if entry["end_sec"] else ""
    return (
        f"<figure>{image}<figcaption><b>{escape(str(entry['source']))}</b> <span>{span}</span>"
        f"<br>{escape(str(entry['detail']))}</figcaption></figure>"
    )
