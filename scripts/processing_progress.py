"""The progress of a data-processing run: a live table in a terminal, or a line a minute in a log."""

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from latentsync.processing.report.funnel import label
from latentsync.processing.run.progress import StageProgress

LOG_EVERY_SEC = 60.0
WIDE = 115  # columns of the terminal


class ProgressDisplay:
    """Shows the stages' progress; a context manager."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, refresh_per_second=4)
        self._started = self._logged = time.monotonic()

    def __enter__(self) -> "ProgressDisplay":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if not self._console.is_terminal:
            self._console.print()

    def show(self, stages: Sequence[StageProgress]) -> None:
        now = time.monotonic()
        self._live.update(progress_table(stages, now - self._started, self._console.width >= WIDE))
        if not self._console.is_terminal and now - self._logged > LOG_EVERY_SEC:
            self._logged = now
            counts = ", ".join(f"{label(each.stage)} {each.done.clips_in:,}" for each in stages)
            self._console.print(f"{now - self._started:,.0f} s: {counts}", soft_wrap=True)


def progress_table(stages: Sequence[StageProgress], elapsed_sec: float, is_wide: bool = True) -> Table:
    """One row for each stage: clips done, speed in clips and in seconds of video per second, time left."""
    names = ["stage", "clips", "kept", "dropped", "failed", "left"]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in [*names, "clips/s", "video", "progress"] if is_wide else names:
        table.add_column(name, no_wrap=True, justify="left" if name in ("stage", "progress") else "right")
    for each in stages:
        table.add_row(*_cells(each, elapsed_sec)[: len(table.columns)])
    return table


def _cells(each: StageProgress, elapsed_sec: float) -> list[str | ProgressBar]:
    done = each.done
    rate = done.clips_in / max(elapsed_sec, 1e-9)
    left = timedelta(seconds=round((each.expected_in - done.clips_in) / rate)) if rate else ""
    return [
        label(each.stage),
        f"{done.clips_in:,} of {each.expected_in:,.0f}" if each.expected_in else "",
        *(f"{count:,}" for count in (done.kept, done.dropped, done.failed)),
        str(left),
        f"{rate:.2f}" if rate else "",
        f"{done.video_sec / max(elapsed_sec, 1e-9):.1f} x" if rate else "",
        ProgressBar(total=max(each.expected_in, 1e-9), completed=done.clips_in, width=20),
    ]
