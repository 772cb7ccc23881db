"""Jobs on several processes: the same bytes as from one, and nothing is lost if a process ends."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentsync.device import spread_devices
from latentsync.inference.batch import JobEntry, run_all_on_cluster, run_all_spread
from latentsync.inference.jobs import render
from latentsync.inference.jobs.folder import JobFolder, SegmentLocks
from latentsync.inference.jobs.job import check_job
from latentsync.inference.jobs.workers import WorkerPool
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import JobOptions
from latentsync.processing.run.ray_session import ray_session
from tests.support.tiny import StubDetector, make_audio, make_video, tiny_models
from tests.support.whole_runs import FAST

CPU = torch.device("cpu")
OUTPUT_SEGMENT_SEC = 0.3
FRAMES = 60


def load(device: torch.device) -> LipsyncPipeline:
    """In another process: tiny networks, short output segments."""
    render.OUTPUT_SEGMENT_SEC = OUTPUT_SEGMENT_SEC
    return LipsyncPipeline(tiny_models(), StubDetector())


def load_and_end(device: torch.device) -> LipsyncPipeline:
    os._exit(3)


def load_nothing(device: torch.device) -> LipsyncPipeline:
    raise ValueError("there is no memory left")


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(render, "OUTPUT_SEGMENT_SEC", OUTPUT_SEGMENT_SEC)
    return make_video(tmp_path / "v.mp4", FRAMES), make_audio(tmp_path / "a.wav", 1.5 * FRAMES / 25)


@pytest.fixture(scope="module")
def pipeline() -> LipsyncPipeline:
    """In this process, where `pair` shortens the output segments for one test only."""
    return LipsyncPipeline(tiny_models(), StubDetector())


@pytest.mark.slow
def test_two_processes_write_one_video_with_the_bytes_of_one(
    tmp_path: Path, pair: tuple[Path, Path], pipeline: LipsyncPipeline
) -> None:
    pipeline(*pair, tmp_path / "one.mp4", FAST)
    calls: list[int] = []
    pool = WorkerPool(load, [CPU], torch.get_num_threads())
    output = tmp_path / "two.mp4"
    job = check_job(*pair, output)
    report = pipeline.run(job, FAST, lambda stage, done, total: calls.append(done), pool=pool)
    assert output.read_bytes() == (tmp_path / "one.mp4").read_bytes()
    assert calls[-1] == report.frames and report.warnings == job.warnings
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "one.mp4", "two.mp4", "v.mp4"]


@pytest.mark.slow
def test_a_worker_alone_writes_the_missing_segments(
    tmp_path: Path, pair: tuple[Path, Path], pipeline: LipsyncPipeline
) -> None:
    """One process plans and writes one segment, another process the rest."""
    job, settings = check_job(*pair, tmp_path / "o.mp4"), FAST

    class Enough(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if done > 20 and total == len(job.timeline) and stage == "Generate lips":
            raise Enough

    with pytest.raises(Enough):
        pipeline.run(job, settings, stop)
    folder = tmp_path / "o.mp4.job"
    pipeline.assist(job, settings, folder, lambda done: None)
    joined = pipeline.run(job, settings)
    pipeline(*pair, tmp_path / "one.mp4", FAST)
    assert joined.frames == len(job.timeline)
    assert (tmp_path / "o.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loader", "words"), [(load_and_end, "ended with code 3"), (load_nothing, "no memory left")], ids=["ends", "fails"]
)
def test_a_worker_that_fails_does_not_fail_the_job(
    tmp_path: Path, pair: tuple[Path, Path], pipeline: LipsyncPipeline, loader: object, words: str
) -> None:
    pool = WorkerPool(loader, [CPU], 1)  # type: ignore[arg-type]
    report = pipeline.run(check_job(*pair, tmp_path / "o.mp4", JobOptions(limit_sec=1.0)), FAST, pool=pool)
    assert (tmp_path / "o.mp4").is_file()
    assert any(words in warning for warning in report.warnings) or report.frames  # it may fail after the job is done


def test_a_segment_is_locked_once_and_released_if_it_is_not_written(tmp_path: Path) -> None:
    with JobFolder(tmp_path / "j", {}, 1) as folder:
        with SegmentLocks(folder, 3) as first, SegmentLocks(folder, 3) as second:
            ours = first.acquire_missing()
            assert next(ours) == 0
            assert next(second.acquire_missing()) == 1
            folder.segment_path(0).touch()
            assert list(ours) == [2]
            assert list(second.acquire_missing()) == []
        with SegmentLocks(folder, 3) as third:
            assert list(third.acquire_missing()) == [1, 2]


def run_entry(pipeline: LipsyncPipeline, entry: JobEntry) -> str:
    """In another process: one job of a list."""
    return pipeline(entry.video, entry.audio, entry.output, FAST, replace(JobOptions(), limit_sec=0.4)).summary()


def entries_of(folder: Path, pair: tuple[Path, Path]) -> list[JobEntry]:
    entries = [JobEntry(n, *pair, folder / f"o{n}.mp4", {}, {}) for n in range(1, 4)]
    return [entries[0], replace(entries[1], video=folder / "none.mp4"), entries[2]]


@pytest.mark.slow
def test_a_list_of_jobs_is_shared_and_continues_after_one_that_fails(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    outcomes = list(run_all_spread(entries_of(tmp_path, pair), run_entry, WorkerPool(load, [CPU, CPU], 1)))
    assert [outcome.entry.number for outcome in outcomes] == [1, 2, 3]
    assert "no such file" in outcomes[1].error
    assert (tmp_path / "o1.mp4").read_bytes() == (tmp_path / "o3.mp4").read_bytes()
    assert outcomes[0].summary and not outcomes[0].error


def test_models_that_cannot_be_loaded_are_an_error_of_every_job(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    outcomes = list(run_all_spread(entries_of(tmp_path, pair), run_entry, WorkerPool(load_nothing, [CPU], 1)))
    assert [outcome.error for outcome in outcomes] == ["there is no memory left"] * 3


def test_a_device_for_every_process() -> None:
    assert len(spread_devices(3)) == 3
    with pytest.raises(ValueError, match="workers is 0"):
        spread_devices(0)


@pytest.mark.slow
def test_a_list_of_jobs_on_a_cluster(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with ray_session(cores=2, gpus=0):
        outcomes = list(run_all_on_cluster(entries_of(tmp_path, pair), run_entry, load, gpus=0, workers=2))
    assert [outcome.entry.number for outcome in outcomes] == [1, 2, 3]
    assert "no such file" in outcomes[1].error
    assert (tmp_path / "o1.mp4").read_bytes() == (tmp_path / "o3.mp4").read_bytes()
