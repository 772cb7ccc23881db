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
from latentsync.inference.pipeline import GENERATE, LipsyncPipeline
from latentsync.inference.threads import run_ahead, run_behind
from latentsync.inference.timing import StageTimer
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


def test_what_runs_ahead_comes_in_order_and_not_too_far_ahead() -> None:
    made: list[int] = []
    with run_ahead(counted(50, made), 3, *TIMERS) as items:  # type: ignore[arg-type]
        for place, item in enumerate(items):
            assert item == place
            time.sleep(0.001)
            assert len(made) <= place + 1 + 3 + 1  # taken, waiting, and one that waits for room
    assert made == list(range(50))


def test_what_runs_behind_is_done_at_the_end_and_not_too_far_behind() -> None:
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


class Spilt(Exception):
    pass


def failing(at: int) -> Iterator[int]:
    yield from range(at)
    raise Spilt("milk")


def test_an_error_ahead_comes_after_what_was_made_before_it() -> None:
    taken = []
    with pytest.raises(Spilt, match="milk") as caught, run_ahead(failing(5), 2, *TIMERS) as items:  # type: ignore[arg-type]
        for item in items:
            taken.append(item)
    assert taken == list(range(5)) and caught.value.__cause__ is None


@pytest.mark.parametrize("at", [0, 3, 9])  # the last is found out when all is put
def test_an_error_behind_comes_to_who_puts(at: int) -> None:
    def consume(items: Iterator[int]) -> None:
        for item in items:
            if item == at:
                raise Spilt("milk")

    with pytest.raises(Spilt, match="milk"), run_behind(consume, 2, *TIMERS) as put:
        for index in range(10):
            put(index)


def test_an_error_of_the_last_of_three_stages_ends_them_all() -> None:
    def last(items: Iterator[int]) -> None:
        for item in items:
            if item == 20:
                raise Spilt("milk")

    def middle(items: Iterator[int]) -> None:
        for item in items:
            put_last(item)

    made: list[int] = []
    with (
        pytest.raises(Spilt, match="milk"),
        run_ahead(counted(10_000, made), 2, *TIMERS) as items,  # type: ignore[arg-type]
        run_behind(last, 2, *TIMERS) as put_last,
        run_behind(middle, 2, *TIMERS) as put_middle,
    ):
        for item in items:
            put_middle(item)
    assert len(made) < 50


def test_who_stops_early_stops_what_runs_ahead_and_closes_it() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with pytest.raises(Spilt), run_ahead(endless(), 2, *TIMERS) as items:  # type: ignore[arg-type]
        next(items)
        raise Spilt
    assert closed.is_set()


def test_waiting_and_work_are_told_apart() -> None:
    slow, quick = StageTimer("slow"), StageTimer("quick")

    def tired() -> Iterator[int]:
        for index in range(5):
            time.sleep(0.02)
            yield index

    with quick.running(), run_ahead(tired(), 1, slow, quick) as items:  # type: ignore[arg-type]
        assert list(items) == list(range(5))
    assert slow.busy_sec > 0.1 - 0.01 > slow.output_sec and quick.input_sec > quick.busy_sec


# whole jobs

FRAMES = 60


@pytest.fixture(scope="module")
def pipelines() -> dict[bool, LipsyncPipeline]:
    return {overlapped: LipsyncPipeline(tiny_models(), StubDetector(), overlapped) for overlapped in (False, True)}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A clip that is shorter than its sound, so that it is played backwards too, in parts of half a second."""
    monkeypatch.setattr(render, "OUTPUT_SEGMENT_SEC", 0.5)
    video = make_video(tmp_path / "v.mp4", FRAMES, dark=range(20, 33))
    return video, make_audio(tmp_path / "a.wav", 1.6 * FRAMES / 25)


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("reference", ["current", "elsewhere"])
def test_stages_that_overlap_give_the_bytes_of_stages_in_turns(
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


def test_few_frames_are_alive_at_a_time(
    tmp_path: Path,
    pair: tuple[Path, Path],
    pipelines: dict[bool, LipsyncPipeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A group ahead, one in work, one behind, the piece that is being played backwards, and what the threads hold."""
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
def test_a_stop_ends_all_threads_and_the_job_goes_on_later(
    tmp_path: Path, pair: tuple[Path, Path], pipelines: dict[bool, LipsyncPipeline], stop_at: int
) -> None:
    output = tmp_path / "o.mp4"

    def stop(stage: str, done: int, total: int) -> None:
        if stage == GENERATE and done >= stop_at:
            raise Spilt("stop")

    with pytest.raises(Spilt, match="stop"):
        pipelines[True](*pair, output, FAST, progress=stop)
    assert not output.exists() and not list(tmp_path.rglob("*.partial"))
    pipelines[True](*pair, output, FAST)
    pipelines[False](*pair, tmp_path / "whole.mp4", FAST)
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_progress_rises_to_all_frames_in_the_callers_thread(
    tmp_path: Path, pair: tuple[Path, Path], pipelines: dict[bool, LipsyncPipeline]
) -> None:
    told: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        if stage == GENERATE:
            told.append(done)

    report = pipelines[True](*pair, tmp_path / "o.mp4", FAST, progress=progress)
    assert told == sorted(told) and told[-1] == report.frames


def test_a_failing_stage_is_told_in_its_own_words(
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


def test_a_source_that_breaks_off_is_told_in_its_own_words(
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
