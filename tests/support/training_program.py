"""Run trainings in one or several child processes (backend gloo) that can be killed at a step or while saving."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

PRELOADED = ["latentsync.training.unet.train", "tests.support.training_program"]
LIMIT_SEC = 300


def run_together(program: Callable[..., None], count: int, *args: Any) -> list[int]:
    """Run `program(*args)` in `count` processes; returns their exit codes. If one fails, the others are killed."""
    context = _context()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    children = [context.Process(target=_child, args=(program, rank, count, port, args)) for rank in range(count)]
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        for child in children:
            child.join(0.05)
        if any(child.exitcode not in (None, 0) for child in children):
            children[0].join(5)
            for child in children:
                child.join(2)
                child.kill()
    return [child.exitcode or 0 for child in children]


def run_until(program: Callable[..., None], is_time: Callable[[], bool], number: int, *args: Any) -> int:
    """Run `program(*args)` in a process that gets signal `number` as soon as `is_time`; returns its exit code."""
    child = _context().Process(target=_child, args=(program, 0, 1, 0, args))
    child.start()
    while child.is_alive() and not is_time():
        child.join(0.002)
    if child.is_alive():
        os.kill(child.pid or 0, number)
    child.join()
    return child.exitcode or 0


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs the start method forkserver")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _child(program: Callable[..., None], rank: int, count: int, port: int, args: tuple[Any, ...]) -> None:
    signal.alarm(LIMIT_SEC)
    torch.set_num_threads(1)
    if count > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    program(*args)


def train(
    config: Path, overrides: tuple[str, ...], kill_at: int | None = None, kill_in_save: int | None = None
) -> None:
    """Train a U-Net; the process is killed after step `kill_at`, or with a half-written checkpoint of step `kill_in_save`."""
    from latentsync.config import UNetRun, load
    from latentsync.training.engine import checkpoints
    from latentsync.training.engine.distributed import Processes
    from latentsync.training.unet.train import train_unet

    def report(row: dict[str, Any]) -> None:
        if row["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    save = checkpoints.save_state

    def save_or_die(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        if state["step"] == kill_in_save:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.save_state = save_or_die  # type: ignore[assignment]
    train_unet(load(config, UNetRun, overrides), Processes(cpu=True), report)


def train_sharded(config: Path, overrides: tuple[str, ...], kill_at: int | None = None) -> None:
    """Train a U-Net whose parameters are sharded over the processes (FSDP)."""
    parts = "MiddleLevel,UNet3DConditionModel"  # fewer wrapped modules than in a real run, for speed
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_TRANSFORMER_CLS_TO_WRAP=parts)
    train(config, overrides, kill_at)


def train_with_bad_item(folder: Path, bad_rank: int) -> None:
    """Train a regression whose data cannot be read in process `bad_rank`; writes each process's error message to the folder."""
    from latentsync.config import TrainConfig
    from latentsync.training.engine.distributed import Processes
    from latentsync.training.engine.loop import Trainer
    from tests.training.test_training import Numbers, Regression

    class Broken(Numbers):
        def __getitem__(self, position: int) -> torch.Tensor:
            if position >= 4 and rank == bad_rank:
                raise OSError("the disk is gone")
            return super().__getitem__(position)

    processes = Processes(cpu=True)
    rank = processes.rank
    try:
        Trainer(Regression(), Broken(), 4, TrainConfig(max_steps=3), folder, processes=processes).train()
    except ValueError as error:
        (folder / f"{rank}.txt").write_text(str(error))


def train_until_signal(folder: Path, number: int, step: int, rank: int, workers: int = 0) -> None:
    """Train a regression; process `rank` gets signal `number` within a step (0: never), and so do its data loading workers."""
    from latentsync.training.engine.distributed import Processes
    from latentsync.training.engine.loop import Losses, Trainer
    from latentsync.training.engine.stop import TrainingStopped
    from tests.training.test_training import Numbers, Regression, settings

    processes = Processes(cpu=True)

    class Signalled(Regression):
        def forward(self, x: torch.Tensor, positions: torch.Tensor) -> Losses:
            if number and processes.rank == rank and int(positions[0]) // 4 == step:
                for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
                    os.kill(process, number)  # type: ignore[arg-type]
            return super().forward(x, positions)

    # two batches a step: after the signal, the workers still have to deliver one
    config = settings(max_steps=5, checkpoint_steps=100, gradient_accumulation=2)
    trainer = Trainer(Signalled(), Numbers(), 4, config, folder, num_workers=workers, processes=processes)
    try:
        trainer.train()
    except TrainingStopped as stop:
        (folder / f"stopped-{processes.rank}.txt").write_text(str(stop))
        os._exit(stop.exit_status)


def train_slowly(folder: Path, steps: int) -> None:
    """Train a regression, a few milliseconds a step; a checkpoint every third. A signal ends the process as it ends a command."""
    from latentsync.training.engine.loop import Losses, Trainer
    from latentsync.training.engine.stop import TrainingStopped
    from tests.training.test_training import Numbers, Regression, settings

    class Slow(Regression):
        def forward(self, x: torch.Tensor, positions: torch.Tensor) -> Losses:
            time.sleep(0.005)
            return super().forward(x, positions)

    config = settings(max_steps=steps, checkpoint_steps=3, tracker="none")
    try:
        Trainer(Slow(), Numbers(), 4, config, folder).train()
    except TrainingStopped as stop:
        os._exit(stop.exit_status)


def share_work(folder: Path) -> None:
    """Share ten items in short rounds; writes the results, the items of this process, and how often the processes met."""
    import json

    from latentsync.training.engine.distributed import Processes

    processes, own, meetings = Processes(cpu=True), [], []
    sums = processes.sums
    processes.sums = lambda values: meetings.append(1) or sums(values)  # type: ignore[assignment, func-returns-value]

    def work(items: Sequence[int]) -> Iterator[int]:
        for item in items:
            own.append(item)
            yield 10 * item

    done = processes.share(range(10), work, round_sec=0.0)
    (folder / f"{processes.rank}.json").write_text(json.dumps([done, own, len(meetings)]))
    try:
        processes.share(range(10), lambda items: [1 // item for item in items])
    except ValueError as error:
        (folder / f"{processes.rank}.txt").write_text(str(error))


def train_from_store(environment: dict[str, str], *args: Any) -> None:
    """Train a U-Net whose clips are on the object store that the environment names."""
    os.environ.update(environment)
    train(*args)


def train_in_parts(folder: Path, max_steps: int, is_sharded: bool = True) -> None:
    """Train a regression without dropout whose parameters and checkpoints are sharded over the processes."""
    from latentsync.training.engine.distributed import Processes
    from latentsync.training.engine.loop import Trainer
    from tests.training.test_training import Numbers, Regression, settings

    if is_sharded:
        os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_STATE_DICT_TYPE="SHARDED_STATE_DICT")
    objective = Regression()
    objective.net[1] = torch.nn.Identity()
    config = settings(max_steps=max_steps, schedule="constant", tracker="none", ema_decay=0.9)
    Trainer(objective, Numbers(), 4, config, folder, processes=Processes(cpu=True)).train()
