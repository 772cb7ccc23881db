"""A run's folder: it belongs to one run, one training at a time uses it, and signals stop a training with a checkpoint."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentsync.config import ModelRun, VaeDataConfig, to_yaml
from latentsync.data.clips import ClipIndex, RejectedClip, TrainingClip
from latentsync.training.engine import loop
from latentsync.training.engine.checkpoints import Checkpoints
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.loop import Hooks, Trainer
from latentsync.training.engine.run_folder import RECORD, RunFolder
from latentsync.training.engine.stop import TrainingStopped
from scripts.command import run_command
from tests.support.training_program import run_together, run_until, share_work, train_slowly, train_until_signal
from tests.training.test_training import Numbers, Regression, assert_same, final_state, settings

ROOT = Path(__file__).resolve().parents[2]


def run_of(folder: Path, **changes: Any) -> ModelRun:
    """A configuration; `changes` are of the section `train`, or `data` and others as whole."""
    others = {name: changes.pop(name) for name in ("data", "model") if name in changes}
    data = VaeDataConfig(train_output_dir=str(folder), batch_size=4, **others.get("data", {}))
    return ModelRun(model=others.get("model", {"layers": 1}), data=data, train=settings(**changes))


def index_of(*keys: str) -> ClipIndex:
    return ClipIndex([TrainingClip(Path(f"{key}.mp4"), key, 100, 64, "av") for key in keys])


def train(folder: RunFolder, stop_step: int | None = None, index: ClipIndex | None = None) -> Trainer:
    processes = Processes(cpu=True)
    folder.check(processes, index)
    config = folder.run.train
    trainer = Trainer(Regression(), Numbers(), folder.run.data.batch_size, config, folder, processes=processes)
    trainer.train(stop_step=stop_step)
    return trainer


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """The folder of a run with one step of four, started from a file, with two clips."""
    (tmp_path / "start.pt").write_bytes(b"weights")
    train(folder_of(tmp_path / "run", run_of(tmp_path / "run")), 1, index_of("a", "b"))
    return tmp_path / "run"


def folder_of(path: Path, run: ModelRun) -> RunFolder:
    """The folder of a run that starts from the file beside it."""
    return RunFolder(path, run, {"decoder_of": path.with_name("start.pt")})


def test_a_resumed_run_says_where_it_goes_on_and_what_differs(started: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    changed = run_of(started, weight_decay=0.5, max_steps=3)
    trainer = train(folder_of(started, changed))
    assert f"{started} goes on at step 1 of 3." in caplog.text
    assert "train.max_steps was 4 and is 3, train.weight_decay was 0.01 and is 0.5" in caplog.text
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.5]
    assert trainer.step == 3 and "weight_decay: 0.5" in (started / "config.yaml").read_text()
    origin = trainer.run_folder.origin()
    assert origin is not None and origin["changes"][0]["step"] == 1
    assert origin["changes"][0]["settings"]["train.weight_decay"] == [0.01, 0.5]
    train(folder_of(started, changed))
    assert "is finished at step 3 of 3" in caplog.text
    assert json.loads((started / RECORD).read_text())["files"].keys() == {"decoder_of"}, "the file it was started from"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"resolution": 512}}, "data.resolution was 256 and is 512"),
        ({"data": {"num_frames": 8}}, "data.num_frames was 16 and is 8"),
        ({"gradient_accumulation": 2}, "train.gradient_accumulation was 1 and is 2"),
        ({"loss_weights": {"recon": 2.0}}, "train.loss_weights.recon was not set and is 2.0"),
        ({"model": {"layers": 2}}, "model.layers was 1 and is 2"),
        ({"model": {}}, "model.layers was 1 and is not set"),
        ({"seed": 3}, "train.seed was 1247 and is 3"),
    ],
)
def test_what_changes_the_run_is_refused(started: Path, changes: dict[str, Any], message: str) -> None:
    before = final_state(started)
    with pytest.raises(ValueError, match=f"belongs to another run: {message}. Choose another.*--fresh") as error:
        train(folder_of(started, run_of(started, **changes)))
    assert "\n" not in str(error.value)
    assert_same(before, final_state(started))


def test_clips_and_files_are_compared_by_content(started: Path, tmp_path: Path) -> None:
    run = run_of(started, max_steps=1)
    moved = {"decoder_of": shutil.copy(tmp_path / "start.pt", tmp_path / "moved.pt")}
    train(RunFolder(started, run, moved), index=index_of("a", "b"))
    (tmp_path / "moved.pt").write_bytes(b"others")
    for files, message in (
        (moved, "decoder_of has another content"),
        ({}, "decoder_of is not set any more"),
        ({**moved, "init_from": tmp_path / "start.pt"}, "init_from was not set; decoder_of has another content"),
    ):
        with pytest.raises(ValueError, match=message):
            train(RunFolder(started, run, files))
    fewer = ClipIndex(index_of("a", "c").clips, [RejectedClip(Path("b.mp4"), "cannot be read")])
    for index, message in (
        (index_of("b", "a"), "the clips are the same, in another order"),
        (fewer, "1 are gone, 1 are new, b.mp4 cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            train(folder_of(started, run), index=index)


def test_the_same_step_may_be_made_of_other_batches(started: Path) -> None:
    run = run_of(started, gradient_accumulation=2)
    run.data.batch_size = 2
    assert train(folder_of(started, run)).state.next_position == 16


def test_fresh_keeps_the_earlier_run_beside_the_new_one(started: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(started)
    other = run_of(tmp_path / "link", seed=7)
    train(RunFolder(tmp_path / "link", other, fresh=True))
    [aside] = tmp_path.glob("run-2*")
    assert final_state(aside)["step"] == 1 and final_state(started)["step"] == 4
    assert (tmp_path / "link").resolve() == started, "the link leads to the new run"
    train(RunFolder(tmp_path / "new", other, fresh=True))
    assert len(list(tmp_path.glob("new*"))) == 1, "there was no run to keep"


def test_a_folder_of_an_earlier_version_is_compared_with_its_configuration(started: Path) -> None:
    (started / RECORD).unlink()
    run = replace(run_of(started), decoder_of=str(started.with_name("start.pt")))
    (started / "config.yaml").write_text(to_yaml(run))
    with pytest.raises(ValueError, match="data.resolution was 256 and is 64"):
        train(folder_of(started, run_of(started, data={"resolution": 64})))
    with pytest.raises(ValueError, match="decoder_of has another content"):
        train(RunFolder(started, run, {"decoder_of": started / "config.yaml"}))
    train(folder_of(started, run))
    assert (started / RECORD).exists()


def test_a_second_training_in_a_folder_is_refused_in_one_sentence(tmp_path: Path, capsys: Any) -> None:
    processes = Processes(cpu=True)
    first, second = (RunFolder(tmp_path / "run", run_of(tmp_path / "run")) for _ in range(2))
    with first.held(processes), first.held(processes):
        assert run_command("train", lambda: train(second) and None) == 2
    error = capsys.readouterr().err
    assert f"Another training (process {os.getpid()} on " in error and error.count("\n") == 1
    train(second)


def hold_with_worker(path: Path, processes: Processes, writing: int) -> None:
    """Hold a folder until killed, like a training whose worker has a copy of the lock and ends a little later."""
    with RunFolder(path).held(processes):
        training = os.getpid()
        if not os.fork():
            while os.getppid() == training:
                time.sleep(0.01)
            os._exit(0)
        os.write(writing, b"held")
        signal.pause()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_lock_of_a_killed_training_is_taken_over_once_its_workers_have_ended(tmp_path: Path) -> None:
    processes, (reading, writing) = Processes(cpu=True), os.pipe()
    child = os.fork()
    if not child:
        try:
            hold_with_worker(tmp_path, processes, writing)
        finally:
            os._exit(1)
    assert os.read(reading, 4) == b"held"
    with pytest.raises(ValueError, match=f"process {child} on"), RunFolder(tmp_path).held(processes):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with RunFolder(tmp_path).held(processes):
        pass


def trainer_of(folder: Path, hooks: Hooks | None = None, **changes: Any) -> Trainer:
    return Trainer(Regression(), Numbers(), 4, settings(**changes), folder, hooks=hooks, processes=Processes(cpu=True))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_saves_a_checkpoint_and_ends_with_its_status(tmp_path: Path, name: str, capsys: Any) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    trainer = trainer_of(tmp_path, max_steps=9, checkpoint_steps=100)
    stop = lambda row: os.kill(os.getpid(), number) if row["step"] == 3 else None  # noqa: E731
    assert run_command("train", lambda: trainer.train(stop) and None) == 128 + number
    said = capsys.readouterr().err
    # the row is written after the step's own question for signals, so the next step still follows
    assert f"train: stopped by {name} after step 4: the checkpoint of step 4 is in {tmp_path}" in said
    assert final_state(tmp_path)["step"] == 4 and signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    def twice(row: dict[str, Any]) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as error:
        trainer_of(tmp_path, checkpoint_steps=100).train(twice)
    assert not isinstance(error.value, TrainingStopped) and not (tmp_path / "checkpoints").exists()


def test_a_signal_ends_a_validation_at_once_and_the_resumed_run_makes_up_for_it(tmp_path: Path) -> None:
    validated: list[int] = []

    def validate(step: int) -> dict[str, float]:
        if not validated:
            validated.append(-step)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the validation goes on")
        validated.append(step)
        return {"score": 1.0}

    hooks = Hooks(validate=validate)
    with pytest.raises(TrainingStopped, match="after step 2"):
        trainer_of(tmp_path, hooks, validation_steps=2).train()
    trainer_of(tmp_path, hooks, validation_steps=2).train()
    assert validated == [-2, 2, 4]
    trainer_of(tmp_path, hooks, validation_steps=2).train()
    assert validated == [-2, 2, 4], "each step once"


@pytest.mark.slow
@pytest.mark.parametrize(("count", "workers"), [(1, 0), (1, 1), (2, 0)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_resumed_after_a_signal_equals_an_uninterrupted_one(
    tmp_path: Path, count: int, workers: int, number: int
) -> None:
    """With two processes only the second one gets the signal; both stop after the same step."""
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    last = count - 1
    assert run_together(train_until_signal, count, tmp_path / "whole", 0, 0, last, workers) == [0] * count
    stopped = run_together(train_until_signal, count, tmp_path / "stopped", number, 2, last, workers)
    assert stopped == [128 + number] * count
    assert 2 <= final_state(tmp_path / "stopped")["step"] <= 3  # type: ignore[operator]
    assert run_together(train_until_signal, count, tmp_path / "stopped", 0, 0, last, workers) == [0] * count
    assert_same(final_state(tmp_path / "whole"), final_state(tmp_path / "stopped"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_at_random_moments_equals_an_uninterrupted_one(tmp_path: Path, number: int) -> None:
    """Again and again, in a step, in a save or between, until it is done. A killed one repeats the steps since its checkpoint."""
    steps, draws, stops = 40, random.Random(number), 0
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    assert run_until(train_slowly, lambda: False, number, tmp_path / "whole", steps) == 0
    place = tmp_path / "stopped"
    while not steps_in(place) or final_state(place)["step"] < steps:  # type: ignore[operator]
        wanted, wait = rows_in(place) + draws.randint(1, 14), draws.uniform(0, 0.01)

        def is_time(wanted: int = wanted, wait: float = wait) -> bool:
            return rows_in(place) >= wanted and time.sleep(wait) is None

        ended = run_until(train_slowly, is_time, number, place, steps)
        is_done = bool(steps_in(place)) and final_state(place)["step"] == steps
        assert is_done or ended == (-number if number == signal.SIGKILL else 128 + number)
        stops += ended != 0
        assert stops < 40, "it does not get on"
    assert stops >= 2
    assert_same(final_state(tmp_path / "whole"), final_state(place))
    assert [json.loads(line)["step"] for line in (place / "log.jsonl").read_text().splitlines()] == [
        *range(1, steps + 1)
    ]


def steps_in(folder: Path) -> list[int]:
    return Checkpoints(folder / "checkpoints", 1).steps()


def rows_in(folder: Path) -> int:
    """Lines in a run's log; fewer after a kill has taken back those since the last checkpoint."""
    path = folder / "log.jsonl"
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


def test_checkpoints_by_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    saved: list[int] = []

    def wait(row: dict[str, Any]) -> None:
        now[0] += 40

    hooks = Hooks(export=lambda path, weights, step: saved.append(step) or path.write_bytes(b"w"))  # type: ignore[func-returns-value]
    trainer_of(tmp_path, hooks, max_steps=7, checkpoint_steps=100, checkpoint_minutes=1.0).train(wait)
    assert saved == [3, 6, 7], "the first step that begins a minute after the last checkpoint, and the last step"


LAUNCHER = """
import subprocess, sys
from types import SimpleNamespace

class ChildFailedError(Exception):
    pass

waiting = "import os, signal; signal.signal(signal.SIGUSR1, lambda *_: os._exit(138)); print('ready', flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-c", waiting])
error = ChildFailedError()
error.failures = {0: SimpleNamespace(exitcode=child.wait())}
raise error
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found in /proc")
def test_a_launcher_passes_the_warning_of_a_batch_system_on_and_ends_with_the_status(tmp_path: Path) -> None:
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    places = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-m", "scripts.launch", "launcher"]
    started = subprocess.Popen(command, env=places, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    started.send_signal(signal.SIGUSR1)
    _, errors = started.communicate()
    assert (started.returncode, errors) == (138, "")


@pytest.mark.slow
def test_processes_share_work_and_meet_often(tmp_path: Path) -> None:
    assert run_together(share_work, 2, tmp_path) == [0, 0]
    (first, own, meetings), (second, other, _) = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (0, 1))
    assert first == second == [10 * item for item in range(10)]
    assert own == [0, 2, 4, 6, 8] and other == [1, 3, 5, 7, 9] and meetings >= 5, (
        "none works long before it meets the other"
    )
    errors = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert errors == ["integer modulo by zero"] * 2 or errors == ["integer division or modulo by zero"] * 2
