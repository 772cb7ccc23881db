"""Stages that overlap: the same result as in turns, bounded queues, one error told once, and no thread left behind."""

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentsync.inference.jobs import render
from latentsync.inference.jobs.source import Source
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.threads import run_ahead, run_behind
from latentsync.inference.timing import GENERATE, StageTimer
from latentsync.media.container import MediaError
from latentsync.media.pixels.picture import Picture
from latentsync.media.video.write import VideoWriter
from tests.support.tiny import NUM_FRAMES, StubDetector, make_audio, make_video, tiny_models
from tests.support.whole_runs import FAST

TIMERS = StageTimer("first"), StageTimer("second")


@pytest.fixture(autouse=True)
def no_thread_outlives_a_test() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def counted(stop: int, made: list[int]) -> Iterator[int]:
    for index in range(stop):
        made.append(index)
        yield index


def test_run_ahead_keeps_the_order_and_its_capacity() -> None:
    made: list[int] = []
    with run_ahead(counted(50, made), 3, *TIMERS) as items:  # type: ignore[arg-type]
        for place, item in enumerate(items):
            assert item == place
            time.sleep(0.001)
            assert len(made) <= place + 1 + 3 + 1  # consumed, in the queue, and one that waits for room
    assert made == list(range(50))


def test_run_behind_finishes_and_keeps_its_capacity() -> None:
    done: list[int] = []

    def consume(items: Iterator[int]) -> None:
        for item in items:
            time.sleep(0.001)
            done.append(item)

    with run_behind(consume, 3, *TIMERS) as put:
        for index in range(50):
            put(index)
            assert index - len(done) <= 3 + 1
    assert done == list(range(50))


class StageFailed(Exception):
    pass


def failing(at: int) -> Iterator[int]:
    yield from range(at)
    raise StageFailed("broken")


def test_an_error_in_run_ahead_is_raised_after_the_items_before_it() -> None:
    taken = []
    with pytest.raises(StageFailed, match="broken") as caught, run_ahead(failing(5), 2, *TIMERS) as items:  # type: ignore[arg-type]
        for item in items:
            taken.append(item)
    assert taken == list(range(5)) and caught.value.__cause__ is None


@pytest.mark.parametrize("at", [0, 3, 9])  # the last one is raised on leaving the block
def test_an_error_in_run_behind_is_raised_in_the_caller(at: int) -> None:
    def consume(items: Iterator[int]) -> None:
        for item in items:
            if item == at:
                raise StageFailed("broken")

    with pytest.raises(StageFailed, match="broken"), run_behind(consume, 2, *TIMERS) as put:
        for index in range(10):
            put(index)


def test_an_error_of_the_last_of_three_stages_ends_them_all() -> None:
    def last(items: Iterator[int]) -> None:
        for item in items:
            if item == 20:
                raise StageFailed("broken")

    def middle(items: Iterator[int]) -> None:
        for item in items:
            put_last(item)

    made: list[int] = []
    with (
        pytest.raises(StageFailed, match="broken"),
        run_ahead(counted(10_000, made), 2, *TIMERS) as items,  # type: ignore[arg-type]
        run_behind(last, 2, *TIMERS) as put_last,
        run_behind(middle, 2, *TIMERS) as put_middle,
    ):
        for item in items:
            put_middle(item)
    assert len(made) < 50


def test_a_caller_that_stops_early_stops_and_closes_the_generator() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with pytest.raises(StageFailed), run_ahead(endless(), 2, *TIMERS) as items:  # type: ignore[arg-type]
        next(items)
        raise StageFailed
    assert closed.is_set()


def test_waiting_and_work_are_timed_separately() -> None:
    slow, quick = StageTimer("slow"), StageTimer("quick")

    def slow_items() -> Iterator[int]:
        for index in range(5):
            time.sleep(0.02)
            yield index

    with quick.running(), run_ahead(slow_items(), 1, slow, quick) as items:  # type: ignore[arg-type]
        assert list(items) == list(range(5))
    assert slow.busy_sec > 0.1 - 0.01 > slow.output_sec and quick.input_sec > quick.busy_sec


# whole jobs

FRAMES = 60


@pytest.fixture(scope="module")
def pipelines() -> dict[bool, LipsyncPipeline]:
    return {overlapped: LipsyncPipeline(tiny_models(), StubDetector(), overlapped) for overlapped in (False, True)}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A clip shorter than its audio, so that it is played backwards too, in output segments of half a second."""
    monkeypatch.setattr(render, "OUTPUT_SEGMENT_SEC", 0.5)
    video = make_video(tmp_path / "v.mp4", FRAMES, dark=range(20, 33))
    return video, make_audio(tmp_path / "a.wav", 1.6 * FRAMES / 25)


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("reference", ["current", "elsewhere"])
@pytest.mark.slow
def test_overlapped_stages_give_the_same_bytes_as_stages_in_one_thread(
    tmp_path: Path, pair: tuple[Path, Path], pipelines: dict[bool, LipsyncPipeline], overlap: int, reference: str
) -> None:
    settings = FAST.changed({"overlap": overlap, "reference": reference})
    results, reports = {}, {}
    for overlapped, pipeline in pipelines.items():
        output = tmp_path / f"{overlapped}.mp4"
        reports[overlapped] = pipeline(*pair, output, settings)
        results[overlapped] = output.read_bytes()
    assert results[True] == results[False]
    assert reports[True].per_frame == reports[False].per_frame
    assert [stage.name for stage in reports[True].timeline] == [
        "read to look",
        "look",
        "read",
        "repaint",
        "paste",
        "write",
    ]
    assert reports[True].bottleneck and not reports[False].timeline
    stored = reports[True].to_dict()
    assert stored["pace"] == reports[True].bottleneck and stored["timeline"][0]["lane"] == "read to look"


def test_few_frames_are_in_memory(
    tmp_path: Path,
    pair: tuple[Path, Path],
    pipelines: dict[bool, LipsyncPipeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A group before the networks, one in them, one after them, the piece being played backwards, and one per thread."""
    alive: list[weakref.ref] = []
    most, read = 0, Source.pictures

    def counted_read(self: Source, *which: Any) -> Iterator[Picture]:
        nonlocal most
        for picture in read(self, *which):
            alive[:] = [seen for seen in alive if seen() is not None] + [weakref.ref(picture)]
            most = max(most, len(alive))
            yield picture
            del picture

    monkeypatch.setattr(Source, "pictures", counted_read)
    pipelines[True](*pair, tmp_path / "o.mp4", FAST)
    assert NUM_FRAMES < most <= 4 * NUM_FRAMES + render.WRITE_BEHIND + 6


@pytest.mark.parametrize("stop_at", [1, 30, 90])
@pytest.mark.slow
def test_a_stop_ends_all_threads_and_the_job_resumes_later(
    tmp_path: Path, pair: tuple[Path, Path], pipelines: dict[bool, LipsyncPipeline], stop_at: int
) -> None:
    output = tmp_path / "o.mp4"

    def stop(stage: str, done: int, total: int) -> None:
        if stage == GENERATE and done >= stop_at:
            raise StageFailed("stop")

    with pytest.raises(StageFailed, match="stop"):
        pipelines[True](*pair, output, FAST, progress=stop)
    assert not output.exists() and not list(tmp_path.rglob("*.partial"))
    pipelines[True](*pair, output, FAST)
    pipelines[False](*pair, tmp_path / "whole.mp4", FAST)
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_progress_rises_to_all_frames_in_the_callers_thread(
    tmp_path: Path, pair: tuple[Path, Path], pipelines: dict[bool, LipsyncPipeline]
) -> None:
    calls: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        if stage == GENERATE:
            calls.append(done)

    report = pipelines[True](*pair, tmp_path / "o.mp4", FAST, progress=progress)
    assert calls == sorted(calls) and calls[-1] == report.frames


def test_an_error_of_a_stage_is_raised_unchanged(
    tmp_path: Path,
    pair: tuple[Path, Path],
    pipelines: dict[bool, LipsyncPipeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: VideoWriter, picture: Picture, *when: int) -> None:
        raise MediaError("cannot write: the disk is full.")

    monkeypatch.setattr(VideoWriter, "write_picture", full)
    with pytest.raises(MediaError, match="the disk is full"):
        pipelines[True](*pair, tmp_path / "o.mp4", FAST)


def test_an_error_of_the_source_is_raised_unchanged(
    tmp_path: Path,
    pair: tuple[Path, Path],
    pipelines: dict[bool, LipsyncPipeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, passes = Source.pictures, []

    def torn(self: Source, *which: Any) -> Iterator[Picture]:
        passes.append(which)
        for place, picture in enumerate(read(self, *which)):
            if len(passes) > 2 and place == 3:
                raise MediaError("cannot decode v.mp4 at 0.52 s: a frame is missing.")
            yield picture

    monkeypatch.setattr(Source, "pictures", torn)
    with pytest.raises(MediaError, match="a frame is missing"):
        pipelines[True](*pair, tmp_path / "o.mp4", FAST)
