"""The report of a run: one HTML page that needs nothing else, and the same numbers as JSON."""

import base64
import json
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from latentsync.processing.report.charts import funnel_chart, histogram_chart, hours_text, label
from latentsync.processing.report.examples import EXAMPLES_EACH
from latentsync.processing.report.funnel import Funnel, Histogram, Share, StageCount, funnel_of
from latentsync.processing.run_folder import EXAMPLES
from latentsync.processing.stages.contract import Measure
from latentsync.processing.storage import Folder

# How the report looks, on a light and on a dark page.
STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #667085; --line: #e3e6eb;
  --kept: #2f7fd1; --dropped: #f0a35e; --failed: #cf4b4b; --hours: #17806d; --bound: #1c2430; }
@media (prefers-color-scheme: dark) { :root { --page: #12151a; --card: #1b2028; --ink: #e6e9ee; --soft: #98a2b3; --line: #2c333e;
  --kept: #5aa2ea; --dropped: #d9884a; --failed: #e06c6c; --hours: #4fc3ac; --bound: #e6e9ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 18px; } h2 { font-size: 18px; margin: 0 0 6px; } h3 { font-size: 14px; margin: 22px 0 8px; }
p { color: var(--soft); margin: 0 0 14px; max-width: 78ch; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; margin-top: 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.card b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
dl { display: grid; gap: 2px; margin: 18px 0 0; font-size: 13px; }
dl div { display: flex; gap: 10px; } dt { color: var(--soft); min-width: 92px; } dd { margin: 0; overflow-wrap: anywhere; }
code { white-space: nowrap; }
.legend { display: flex; gap: 18px; font-size: 13px; } .legend i { display: inline-block; width: 12px; height: 12px;
  border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
i.kept { background: var(--kept); } i.dropped { background: var(--dropped); } i.failed { background: var(--failed); }
svg { width: 100%; height: auto; display: block; font-size: 13px; }
.wide { overflow-x: auto; } .wide svg { min-width: 640px; }
rect.kept { fill: var(--kept); } rect.dropped { fill: var(--dropped); } rect.failed { fill: var(--failed); }
text { fill: var(--ink); } text.small { fill: var(--soft); font-size: 12px; } text.bound { fill: var(--bound); font-size: 12px;
  font-weight: 600; }
.axis { stroke: var(--line); } .threshold { stroke: var(--bound); stroke-dasharray: 4 3; stroke-width: 1.4; }
.hours { fill: none; stroke: var(--hours); stroke-width: 1.8; }
table { border-collapse: collapse; width: 100%; margin-top: 20px; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 12px; }
th, td { padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td small { color: var(--soft); margin-left: 8px; }
.why { padding-left: 28px; } th.n { text-align: right; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 22px 28px; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); }
.charts figcaption { color: var(--ink); font-weight: 600; }
.groups { display: flex; flex-wrap: wrap; gap: 6px 30px; }
.gallery { display: flex; flex-wrap: wrap; gap: 14px; } .gallery figure { width: 148px; }
.gallery img, .gallery .none { width: 100%; height: 104px; object-fit: contain; border-radius: 8px; background: var(--page); }
.gallery .none { display: grid; place-items: center; color: var(--soft); font-size: 12px; }
.gallery figcaption { overflow-wrap: anywhere; font-size: 12px; margin-top: 4px; }
.gallery b { color: var(--ink); font-weight: 600; }
"""


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
