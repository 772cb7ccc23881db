"""What the page says while a job runs: the time left is no guess that jumps, and each bar is that of what goes on."""

import json
from pathlib import Path

import numpy as np
import pytest

from latentsync.inference.settings import JobOptions
from latentsync.inference.timing import SHEET
from tests.web.support import ApiClient
from web import texts, views
from web.jobs import Order, WebJob
from web.page import outcome_html
from web.serve import Server

WINDOW = 16


@pytest.fixture
def job(tmp_path: Path) -> WebJob:
    order = Order("run", tmp_path / "v.mp4", tmp_path / "a.wav", "demo", {}, JobOptions())
    return WebJob("x", order, tmp_path, ("v.mp4", "a.wav"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("web.jobs.time.monotonic", lambda: now[0])
    return now


def shown_each_second(job: WebJob, clock: list[float], windows_sec: list[float]) -> list[float | None]:
    """The time left as the page asks for it, once a second, while windows take these times."""
    shown, total = [], WINDOW * len(windows_sec)
    job.enter("Generate lips", 0, total)
    for number, window_sec in enumerate(windows_sec, 1):
        for _ in range(int(window_sec)):
            clock[0] += 1
            shown.append(job.left_sec)
        job.enter("Generate lips", WINDOW * number, total)
    return shown


STEADY = [20.0] * 6
UNEVEN = [22.0, 18.0, 24.0, 17.0, 21.0, 19.0]
LATE_END = [10.0, 10.0, 10.0, 40.0]


@pytest.mark.parametrize("windows_sec", [STEADY, UNEVEN, LATE_END])
def test_the_time_left_falls_and_never_rests_at_zero(job: WebJob, clock: list[float], windows_sec: list[float]) -> None:
    shown = shown_each_second(job, clock, windows_sec)
    known = [left for left in shown if left is not None]
    assert len(known) > len(shown) / 3 and min(known) > 0
    assert not [after for before, after in zip(known, known[1:], strict=False) if after > before], "it never rises so"
    stated = np.array([np.nan if left is None else left for left in shown])
    true = np.arange(len(shown) - 1, -1, -1)
    if windows_sec is not LATE_END:
        assert np.nanmax(np.abs(stated - true) / (true + 5)) < 0.3


def test_the_time_left_rises_if_the_rest_takes_much_longer(job: WebJob, clock: list[float]) -> None:
    shown = [left for left in shown_each_second(job, clock, [5.0, 5.0, 60.0, 60.0, 60.0]) if left is not None]
    assert shown[-1] < max(shown) and max(shown) > 2 * shown[0]


def test_a_last_window_that_takes_long_has_no_time_left_of_zero(job: WebJob, clock: list[float]) -> None:
    shown_each_second(job, clock, [10.0, 10.0])
    job.enter("Write", 0, 0)
    job.enter("Generate lips", 0, 32)
    clock[0] += 10
    job.enter("Generate lips", 16, 32)
    for _ in range(30):
        clock[0] += 1
        assert "0.0 s" not in views.progress_html(job, "") and " 0 s" not in views.progress_html(job, "")


def test_a_check_has_a_stage_for_each_of_its_works(server: Server, pair: tuple[Path, Path]) -> None:
    seen: list[tuple[str, int, int]] = []
    enter = WebJob.enter

    def noted(job: WebJob, stage: str, done: int = 0, total: int = 0) -> None:
        seen.append((stage, done, total))
        enter(job, stage, done, total)

    client = ApiClient(server.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WebJob, "enter", noted)
        job_id = client.submit(pair, kind="preflight")
        status = client.ended(job_id)
    drawn = [entry for entry in seen if entry[0] == SHEET]
    assert drawn[0] == (SHEET, 0, 0) and drawn[-1] == (SHEET, 10, 10) and len(drawn) > 10
    full = [entry for entry in seen if entry[1] == entry[2] > 0]
    assert [seen[seen.index(entry) + 1][0] for entry in full[:-1]] == [SHEET], (
        "a full bar is followed by the next stage"
    )
    assert "would be edited" in status["summary"]
    report = client.report(job_id)
    assert "synced" not in json.dumps(report) and report["planned"]


def test_stages_are_numbered_in_the_order_of_their_job() -> None:
    assert views.stage_text("preflight", SHEET).startswith("Step 2 of 2")
    assert views.stage_text("run", "Generate lips").startswith("Step 2 of 2")
    assert views.stage_text("preflight", "Find the face") == views.stage_text("run", "Find the face")
    assert views.stage_text("run", texts.LOAD_STAGE) == texts.LOAD_STAGE


def test_a_cancelled_job_promises_nothing_about_settings(job: WebJob) -> None:
    job.end("cancelled")
    assert "settings" not in outcome_html(job)
