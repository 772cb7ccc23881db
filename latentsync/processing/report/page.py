"""The report of a run: one HTML page that loads nothing from elsewhere, and the same numbers as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from latentsync.data.storage import Folder
from latentsync.html_report import render
from latentsync.html_report.charts import StackedBar, histogram, stacked_bars
from latentsync.processing.report.examples import EXAMPLES_EACH
from latentsync.processing.report.funnel import Funnel, Histogram, Share, StageCount, funnel_of, hours_text, label
from latentsync.processing.run_folder import EXAMPLES
from latentsync.processing.stages.contract import Measure

PAGE, NUMBERS = "report.html", "report.json"
TITLE = "Data processing"
TEMPLATE = Path(__file__).with_name("page.html")
Examples = Mapping[tuple[str, str], list[dict[str, Any]]]  # by stage and reason


def write_report(
    manifests: Folder,
    output: Folder,
    tables: Mapping[str, pd.DataFrame],
    shown: list[Measure],
    about: Mapping[str, str],
) -> Funnel:
    """Write `report.html` and `report.json` into a folder of manifests; the pictures come from the `output` folder.

    `tables` are the manifests in the order of the stages; `about` has facts for the head of the page.
    """
    funnel = funnel_of(tables, shown)
    examples = _examples(tables, output)
    numbers = {"about": dict(about), **funnel.to_dict(), "examples": _without_pictures(examples)}
    manifests.write(NUMBERS, (json.dumps(numbers, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
    manifests.write(PAGE, page(funnel, examples, about).encode("utf-8"))
    return funnel


def page(funnel: Funnel, examples: Examples, about: Mapping[str, str]) -> str:
    """The whole page as HTML."""
    return render(
        TEMPLATE,
        title=TITLE,
        about=about,
        cards=_cards(funnel),
        stages=funnel.stages,
        funnel_chart=_funnel_chart(funnel.stages),
        histograms=[(data.measure.title, _histogram_chart(data)) for data in funnel.histograms],
        examples=examples,
        reasons_of=_reasons_of,
        hours_text=hours_text,
        label=label,
    )


def _cards(funnel: Funnel) -> list[tuple[str, str]]:
    """The headline numbers as text, each with its caption."""
    given, kept = funnel.stages[0].given, funnel.stages[-1].kept
    failed = sum(share.clips for stage in funnel.stages for share in stage.failed.values())
    return [
        (f"{given.clips:,}", f"videos, {hours_text(given.hours)}"),
        (f"{kept.clips:,}", f"training clips, {hours_text(kept.hours)}"),
        (f"{kept.hours / given.hours:.0%}" if given.hours else "–", "of the hours kept"),
        (f"{failed:,}", "failed clips; the same command tries them again" if failed else "failed clips"),
    ]


def _funnel_chart(stages: Sequence[StageCount]) -> Markup:
    """One bar for each stage, as long as the hours of its input: kept, dropped and failed parts."""
    bars = []
    for stage in stages:
        dropped, failed = (sum(share.hours for share in part.values()) for part in (stage.dropped, stage.failed))
        hours = {"kept": stage.kept.hours, "dropped": dropped, "failed": failed}
        percent = f" · {stage.kept.hours / stage.given.hours:.0%}" if stage.given.hours else ""
        parts = [(kind, length, f"{kind}: {hours_text(length)}") for kind, length in hours.items()]
        bars.append(StackedBar(label(stage.stage), parts, f"{hours_text(stage.kept.hours)}{percent}"))
    return stacked_bars(bars, max(stage.given.hours for stage in stages), "Hours in and out of each stage")


def _histogram_chart(data: Histogram) -> Markup:
    measure = data.measure
    bounds = [bound for bound in (measure.at_least, measure.at_most) if bound is not None]
    # With an upper bound too, the hours above a lower bound are not those that would be kept.
    hours = data.hours_from if measure.at_most is None else []
    return histogram(data.edges, data.kept, data.dropped, bounds, hours, measure.unit, measure.title)


def _reasons_of(stage: StageCount) -> list[tuple[str, Share | None]]:
    """Why clips ended at a stage, for its rows in the table; one empty entry if none did."""
    reasons: list[tuple[str, Share | None]] = [(label(name), share) for name, share in stage.dropped.items()]
    reasons += [(f"failed: {name}", share) for name, share in stage.failed.items()]
    return reasons or [("", None)]


def _examples(tables: Mapping[str, pd.DataFrame], output: Folder) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """A few dropped clips for each stage and reason, those with a picture first."""
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


def _without_pictures(examples: Examples) -> dict[str, dict[str, list[dict[str, Any]]]]:
    listed: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (stage, reason), entries in examples.items():
        plain = [{key: value for key, value in entry.items() if key != "picture"} for entry in entries]
        listed.setdefault(stage, {})[reason] = plain
    return listed
