"""What `scripts.inference` prints: progress bars, notes, the summary of a job, and the table of many."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from latentsync.inference.batch import JobOutcome
from latentsync.inference.jobs.report import JobReport
from latentsync.inference.preflight import sheet_path


def as_note(warning: str) -> str:
    """A warning as it is printed."""
    return f"Note: {warning}"


def summary_lines(report: JobReport, is_preflight: bool, shown: Sequence[str] = ()) -> str:
    """The summary of a job, after its warnings; warnings that were `shown` before are not repeated."""
    lines = [as_note(warning) for warning in report.warnings if warning not in shown]
    if is_preflight:
        return "\n".join(
            [*lines, f"Would write {report.output}: {report.summary()} Sheet: {sheet_path(report.output)}"]
        )
    return "\n".join([*lines, f"{report.output}: {report.summary()}"])


def progress_bars(console: Console) -> Progress:
    """A bar for each pass, with frames done and time left."""
    columns = (TextColumn("{task.description:13}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def show_outcomes(outcomes: Sequence[JobOutcome], console: Console) -> None:
    """Print the outcomes of many jobs as a table."""
    table = Table("job", "output", "result")
    for outcome in outcomes:
        table.add_row(str(outcome.entry.number), str(outcome.entry.output), outcome.error or outcome.summary)
    console.print(table)
