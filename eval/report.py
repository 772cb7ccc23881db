"""Report of systems on clips, as HTML and JSON: eval/report.sh --set FOLDER --out FOLDER [--ours demo] [--help].

A set comes from `python -m eval.bench_clips`. The true videos and a copy of the input are always compared too. Results are
kept under --work, so that an interrupted report continues.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from eval.clip_sets import CROSS, TASKS, load_set, of_tasks, parse_tasks
from eval.metrics import LoadedNetwork, Tools, load_network, report_metrics
from eval.networks import CACHE, add_detector, add_sync_model, cache_of, judge_facts, sync_judge
from eval.report_outcomes import SystemOutcome, add_pictures, run_all, score_all
from eval.report_page import page
from eval.report_tables import checks, totals, warnings
from eval.rows import summary
from eval.systems import Command, Copy, Results, System, Truth, named, ours
from latentsync.face.detection.detector import make_detector
from latentsync.files import atomic_write
from scripts.command import run_command

MADE_BY = "latentsync eval/report 1"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval/report.sh", description=__doc__)
    add = parser.add_argument
    add("--set", type=Path, required=True, help="folder of evaluation clips")
    add("--out", type=Path, required=True, help="folder of the report: report.html, report.json and videos")
    add("--work", type=Path, help="folder in which results are kept (default: results, in the set's folder)")
    add("--ours", nargs="*", default=[], metavar="MODEL", help="this project's pipeline: demo, or the file of a U-Net")
    add("--command", nargs="*", default=[], metavar="NAME='PROGRAM {video} {audio} {out}'", help="any other program")
    add(
        "--results", nargs="*", default=[], metavar="NAME=FOLDER", help="finished results, NAME_TASK.mp4 for every clip"
    )
    add("--tasks", nargs="+", default=list(TASKS), metavar="TASK[:CLIPS]", help="default: all clips of all tasks")
    add("--title", default="Lip-sync report")
    add("--shown", type=int, default=2, help="clips per task that are shown with pictures (default: %(default)s)")
    add_sync_model(parser)
    add_detector(parser)
    add("--cache", type=Path, default=CACHE, help="folder of cached features (default: %(default)s)")
    add("--no_cache", action="store_true", help="do not cache features")
    add("--device", help="cpu, or a GPU (default: the best available)")
    args = parser.parse_args(argv)
    args.given = sys.argv[1:] if argv is None else argv
    return args


def systems_of(args: argparse.Namespace) -> list[System]:
    """The true videos first, copies last, and the user's systems between them; ValueError for equal names."""
    chosen: list[System] = [ours(text, args.device) for text in args.ours]
    chosen += [named(text, Command) for text in args.command]
    chosen += [named(text, lambda name, folder: Results(name, Path(folder))) for text in args.results]
    systems = [Truth(), *chosen, Copy()]
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise ValueError(f"Two of the systems {', '.join(names)} have the same name: give each its own.")
    return systems


def check_folder(out: Path) -> None:
    """Raises ValueError if the folder holds a report.html or report.json that no report wrote."""
    path = out / "report.json"
    if not path.exists() and not (out / "report.html").exists():
        return
    try:
        assert json.loads(path.read_text(encoding="utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{out} holds a report.html or report.json that this command did not write: give another folder."
        ) from error


def make_report(args: argparse.Namespace) -> int:
    check_folder(args.out)
    facts, clips = load_set(args.set)
    chosen = list(of_tasks(clips, parse_tasks(args.tasks)))
    if not chosen:
        raise ValueError(f"{args.set} has no clip of the tasks {', '.join(args.tasks)}.")
    systems = systems_of(args)
    judge = sync_judge(args)
    networks, skipped = load_networks(args)
    tools = Tools(make_detector(args.detector), cache_of(args), judge, networks)
    system_facts = [{"name": system.name, **system.facts()} for system in systems]
    outcomes = run_all(systems, chosen, args.work or args.set / "results")
    score_all(outcomes, tools)
    report = describe(args, facts, system_facts, outcomes)
    report |= {"judge": judge_facts(args, judge), "skipped": skipped}
    write(args.out, report, add_pictures(outcomes, tools.detector, tools.cache, args.out, args.shown))
    return 0 if any(outcome.row.scores for outcome in outcomes) else 2


def load_networks(args: argparse.Namespace) -> tuple[dict[str, LoadedNetwork], dict[str, str]]:
    """Networks of the metrics by name, and why some metrics are left out."""
    from latentsync.device import pick_device

    networks, skipped = {}, {}
    for metric in report_metrics():
        try:
            if metric.weights:
                networks[metric.name] = load_network(metric.weights, args, pick_device(args.device))
        except ValueError as error:
            skipped[metric.name.upper()] = f"its weights are missing ({type(error).__name__})."
    return networks, skipped


def describe(
    args: argparse.Namespace, facts: dict[str, Any], systems: list[dict[str, Any]], outcomes: list[SystemOutcome]
) -> dict[str, Any]:
    """The report as plain values."""
    names = [system["name"] for system in systems]
    tasks = list(dict.fromkeys(outcome.clip.task for outcome in outcomes))
    by_task = {t: {n: [o.row for o in outcomes if (o.clip.task, o.system) == (t, n)] for n in names} for t in tasks}
    results = {task: {name: summary(rows) for name, rows in found.items()} for task, found in by_task.items()}
    people = len({outcome.clip.name for outcome in outcomes})
    report = {
        "made_by": MADE_BY,
        "title": args.title,
        "lead": f"{len(names)} systems on clips of {people} people, set “{facts.get('set', args.set.name)}”.",
        "command": f"eval/report.sh {shlex.join(args.given)}",
        "set": {key: value for key, value in facts.items() if key != "list"},
        "systems": systems,
        "totals": {name: totals([o for o in outcomes if o.system == name]) for name in names},
        "tasks": results,
        "checks": checks(results.get(CROSS, {}), names[1:-1]),
        "warnings": warnings(results, names),
        "rows": [outcome.to_dict() for outcome in outcomes],
    }
    return report


def write(out: Path, report: dict[str, Any], pictures: dict[str, Any]) -> None:
    files = {"report.json": json.dumps(report, indent=1) + "\n", "report.html": page(report, pictures)}
    for name, text in files.items():
        with atomic_write(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    for check in report["checks"]:
        print(f"{'holds' if check['holds'] else 'FAILS'}: {check['what']}")
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    print(out / "report.html")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_command("report", lambda: make_report(args))


if __name__ == "__main__":
    sys.exit(main())
