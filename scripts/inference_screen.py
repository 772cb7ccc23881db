"""What `scripts.inference` shows: progress, what a job did, and the table at the end of many."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from latentsync.inference.batch import JobOutcome
from latentsync.inference.jobs.report import JobReport
from latentsync.inference.preflight import sheet_path


def as_note(warning: str) -> str:
    return f"Note: {warning}"


def told(report: JobReport, only_looked: bool, already: Sequence[str] = ()) -> str:
    """What a job did; warnings that are on the screen `already` are not repeated."""
    lines = [as_note(warning) for warning in report.warnings if warning not in already]
    if only_looked:
        return "\n".join(
            [*lines, f"Would write {report.output}: {report.summary()} Sheet: {sheet_path(report.output)}"]
        )
    return "\n".join([*lines, f"{report.output}: {report.summary()}"])


def progress_bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description:13}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def show_outcomes(outcomes: Sequence[JobOutcome], console: Console) -> None:
    """The table at the end of many jobs."""
    table = Table("job", "output", "result")
    for outcome in outcomes:
        table.add_row(str(outcome.entry.number), str(outcome.entry.output), outcome.error or outcome.summary)
    console.print(table)
