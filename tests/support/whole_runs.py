"""Whole runs of the inference command with tiny networks, shared by tests of jobs, clips and unusual inputs."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from latentsync.inference.jobs import render
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from scripts import inference
from tests.support.tiny import StubDetector, tiny_models

FAST = InferenceSettings(steps=1, guidance_scale=1.0)
LOSSLESS = JobOptions(codec="ffv1")
QUICK_ARGS = ("--demo", "--inference_steps", "1", "--guidance_scale", "1")
CAN_FORK = sys.platform == "linux"
needs_fork = pytest.mark.skipif(not CAN_FORK, reason="needs the start method fork")
KILLED = -int(signal.SIGKILL) if CAN_FORK else 0


def use_tiny_models(monkeypatch: pytest.MonkeyPatch, pipeline: LipsyncPipeline) -> None:
    """Make the inference command use `pipeline` for any arguments."""
    monkeypatch.setattr(inference, "load_pipeline", lambda args: pipeline)


def command(video: Path, audio: Path, output: Path, *more: str) -> list[str]:
    """Command-line arguments of one job."""
    files = f"--video_path={video}", f"--audio_path={audio}", f"--video_out_path={output}"
    return [*QUICK_ARGS, *files, *more]


def in_child(run: Callable[[], int]) -> int:
    """Run a function in a forked child; returns the exit code, negative if a signal ended the child."""
    child = start_child(run)
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def start_child(run: Callable[[], int]) -> multiprocessing.process.BaseProcess:
    """Fork a child that runs a function without output and exits with its result."""
    child = multiprocessing.get_context("fork").Process(target=_quietly, args=(run,))
    child.start()
    return child


def _quietly(run: Callable[[], int]) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        os._exit(run())


CHANGES = ((os, "replace"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir"), (Path, "mkdir"), (Path, "write_text"))


@contextmanager
def counted_changes(on_change: Callable[[int], None]) -> Iterator[None]:
    """Call `on_change` with a running number right before every change that a job makes to the file system."""
    originals = [getattr(owner, name) for owner, name in CHANGES]
    count = 0

    def wrapped(original: Callable) -> Callable:
        def change(*args: object, **options: object) -> object:
            nonlocal count
            on_change(count)
            count += 1
            return original(*args, **options)

        return change

    for (owner, name), original in zip(CHANGES, originals, strict=True):
        setattr(owner, name, wrapped(original))
    try:
        yield
    finally:
        for (owner, name), original in zip(CHANGES, originals, strict=True):
            setattr(owner, name, original)


def run_killed_at(run: Callable[[], int], change: int) -> int:
    """Run a function in a child that is killed right before file-system change number `change`; returns the exit code."""

    def kill(number: int) -> None:
        if number == change:
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> int:
        with counted_changes(kill):
            return run()

    return in_child(killed)


def tiny_pipeline() -> LipsyncPipeline:
    """The tiny networks with a detector that finds the same face in all frames that are not dark."""
    return LipsyncPipeline(tiny_models(), StubDetector())


def short_output_segments(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.32) -> None:
    """Make jobs write many short output segments."""
    monkeypatch.setattr(render, "OUTPUT_SEGMENT_SEC", seconds)


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by its relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed_region(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int] | None:
    """Bounding box x0, y0, x1, y1 of the pixels that differ between two frames; None for equal frames."""
    rows, columns = np.nonzero((before != after).any(axis=-1))
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
