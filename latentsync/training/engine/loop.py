"""The training loop of every model. Calling `Trainer.train` again resumes.

Usage:

    objective = MyObjective(net, ...)          # an nn.Module; parameters with requires_grad are trained
    trainer = Trainer(objective, data, batch_size, config, folder, collate, Hooks(export=..., validate=...))
    reason = trainer.train()                   # resumes from `folder`; None, or why a hook stopped it
    weights = trainer.averaged_state()         # the objective's state dict, averaged if there is a moving average

*Objective.* `forward(batch, positions) -> {"recon": loss, ...}`: named, unweighted scalar losses in float32; `total_loss`
applies the weights of `config.loss_weights`. `batch` is this process's collated items; `positions`, int64 on the CPU, are the
items' positions in the data. Random numbers that must not depend on the number of processes come from
`item_generator(seed, position)`; all others (dropout) from the process's generators, whose states are saved and restored.
Frozen networks are wrapped in `engine.frozen.Frozen`, which keeps them out of the parameters, state dict and training mode.

*Data.* `data[n]` is item n of an endless sequence, a function of n alone (see `latentsync.data.draws`). A batch is the next
`batch_size` items, divided evenly among the processes; an optimizer step uses `config.gradient_accumulation` batches. The
state of the data is therefore one number, and n processes train on the same items as one.

*Hooks.* `export(path, weights, step)` writes the weights for inference into every checkpoint (those of `averaged_state`, on
the first process only). `validate(step)` runs on all processes every `config.validation_steps` steps with the averaged weights
in evaluation mode and returns measures; if `score` is among them (higher is better), the best checkpoint is kept.
`charts(folder)` draws after each validation. Errors in validation, charts and logs are logged and never stop the training.
`StopTraining(reason)`, raised by `validate` or `on_row`, stops it after a last checkpoint.

*Signals.* Ctrl-C, SIGTERM and SIGUSR1 end the training after the current step, with a checkpoint (see `engine.stop`).

*Folder.* It belongs to one run and is locked while a training uses it (see `engine.run_folder`). It holds
`checkpoints/step-00000250/` (`state.pt` to resume, `weights.safetensors` for inference), `checkpoints/best.json`, `log.jsonl`,
`validation.jsonl`, `tensorboard/`. Checkpoints are written atomically. Steps with a non-finite gradient are skipped and counted;
after too many in a row the last checkpoint is loaded again and the items used since are skipped.
"""

import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.config import TrainConfig
from latentsync.device import DTYPES, has_bfloat16
from latentsync.training.engine.batches import Batches, Collate, batch_generator, item_generator
from latentsync.training.engine.checkpoints import (
    BESIDES,
    GIB,
    CannotSaveError,
    Checkpoints,
    checkpoint_bytes,
    disk_need,
)
from latentsync.training.engine.distributed import Processes, seed_everything
from latentsync.training.engine.log import Meter, RunLog
from latentsync.training.engine.optimizer import OPTIMIZER_BYTES, Ema, learning_rate_share, make_optimizer
from latentsync.training.engine.run_folder import RunFolder
from latentsync.training.engine.sharded import PARTS, wants_parts
from latentsync.training.engine.state import TrainingState
from latentsync.training.engine.stop import StopSignals, TrainingStopped

__all__ = ["Hooks", "Losses", "StopTraining", "Trainer", "batch_generator", "item_generator", "total_loss"]

Losses = dict[str, Tensor]
LogRow = dict[str, Any]
log = logging.getLogger(__name__)


class StopTraining(Exception):
    """Raised by a hook to stop the training after a last checkpoint; the text is the reason."""


class TrainingError(ValueError):
    """A training cannot continue; the message contains the reason and what to do."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop; see the top of the file."""

    export: Callable[[Path, Mapping[str, Tensor], int], None] | None = None
    validate: Callable[[int], Mapping[str, float]] | None = None
    charts: Callable[[Path], None] | None = None


def total_loss(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the losses; the default weight is 1."""
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()


class Trainer:
    """Trains an objective up to `config.max_steps`; see the top of the file."""

    def __init__(
        self,
        objective: nn.Module,
        data: Dataset[Any],
        batch_size: int,
        config: TrainConfig,
        folder: RunFolder | Path | str,
        collate: Collate | None = None,
        hooks: Hooks | None = None,
        num_workers: int = 0,
        processes: Processes | None = None,
    ):
        """`batch_size` is the total over all processes; `num_workers` is per process.

        A `RunFolder` with the run's configuration is checked and recorded; a path is only locked.

        Raises:
            ValueError: no parameter is trained, the batch cannot be divided, the folder has no name, or the package of the
                optimizer or tracker is not installed.
        """
        self.run_folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
        self.config, self.folder, self.hooks = config, self.run_folder.path, hooks or Hooks()
        self.processes = processes or Processes()
        self.objective = objective.to(self.processes.device)
        if self.processes.is_sharded and config.precision == "fp16":
            raise ValueError("train.precision=fp16 is not supported with FSDP: use bf16.")
        if config.precision == "bf16" and self.processes.device.type == "cpu" and not has_bfloat16():
            self._warn(
                "This processor has no instructions for bf16: train.precision=fp32 is faster and more exact here."
            )
        self.wrapped = self.processes.wrap(self.objective)
        self.optimizer = make_optimizer(self.objective, config)
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=config.precision == "fp16")
        self.ema = Ema(self.objective, config.ema_decay)
        self.batches = Batches(data, batch_size, collate, num_workers, self.processes)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", config.keep_checkpoints)
        self.state = TrainingState(self.objective, self.optimizer, self.ema, self.scaler)
        self.run_log = RunLog(self.folder, self.processes.is_main, config.tracker)
        self.signals = StopSignals(speaks=self.processes.is_main)
        self.saved_at = time.monotonic()  # of the last checkpoint, in seconds

    @property
    def step(self) -> int:
        """Number of optimizer steps done, including skipped ones."""
        return self.state.step

    def averaged_state(self) -> dict[str, Tensor]:
        """The objective's state dict with averaged weights if there are any, on the CPU. All processes call it."""
        return self.state.averaged()

    def resume(self) -> int:
        """Load the newest readable checkpoint, if there is one; returns its step, else the current one. All processes call it."""
        newest: tuple[Path, dict[str, Any]] | None = None
        with self.processes.raise_together():
            newest = self.checkpoints.newest() if self.processes.is_main else None
        path: Path | None = self.processes.broadcast(newest and newest[0])
        if path is None:
            return self.step
        with self.processes.raise_together():
            state = newest[1] if newest else self.checkpoints.read(path)
            if state.get("parts"):
                state |= self.state.read_parts(path / PARTS)
        self.state.load_state_dict(state, self.processes)
        return self.step

    def train(self, on_row: Callable[[LogRow], None] | None = None, stop_step: int | None = None) -> str | None:
        """Train up to `max_steps` (or `stop_step`); `on_row` is called with each log row on the first process.

        Returns:
            None at the end, or the reason of a `StopTraining`.

        Raises:
            TrainingError: too many non-finite gradients, or the last checkpoint cannot be written.
            ValueError: items cannot be read, or the folder belongs to another run or is used by another training.
            TrainingStopped: a signal stopped it, after a checkpoint.
        """
        with self.run_folder.held(self.processes):
            self.run_folder.check(self.processes)
            return self._train(on_row or (lambda row: None), stop_step)

    def _train(self, on_row: Callable[[LogRow], None], stop_step: int | None) -> str | None:
        seed_everything(self.config.seed + self.processes.rank)
        self.resume()
        self.processes.broadcast_from_main(lambda: self.run_folder.begin(self.step, self.config.max_steps))
        self._check_disk()
        self.run_log.open(self.step, self.run_folder.record.settings)
        self.saved_at = time.monotonic()
        end = self.config.max_steps if stop_step is None else min(self.config.max_steps, stop_step)
        try:
            with self.signals:
                self._run(on_row, end)
        except StopTraining as stop:
            self._save(is_last=True)
            return str(stop)
        finally:
            self.batches.close()
            self.run_log.close()
        return None

    def _run(self, on_row: Callable[[LogRow], None], end: int) -> None:
        config, meter = self.config, Meter(self.processes, self.step)
        if self._misses_validation():
            self._validate()
        while self.step < end:
            meter.add(self._train_step())
            if self.state.skipped_in_a_row >= config.max_skipped_steps:
                self._roll_back()
                meter.reset(self.step)
                continue
            stopped_by, is_late = self._asked()
            is_last, validates = self.step == end or bool(stopped_by), self._validates()
            if self.step % config.log_steps == 0 or self.step == end:
                self._log(meter, on_row)
            if self.step % config.checkpoint_steps == 0 or is_last or validates or is_late:
                self._save(is_last)
            if stopped_by:
                self._stop(stopped_by)
            if validates:
                self._validate()

    def _validates(self) -> bool:
        """Whether a validation belongs to this step."""
        steps = self.config.validation_steps
        return bool(self.hooks.validate and steps and self.step and self.step % steps == 0)

    def _misses_validation(self) -> bool:
        """Whether the resumed run was stopped between a checkpoint and its validation."""
        return self._validates() and not self.processes.broadcast(self.run_log.has_validation(self.step))

    def _asked(self) -> tuple[int, bool]:
        """The signal that asks to stop, 0 for none, and whether a checkpoint is due by time; the same in all processes."""
        minutes = self.config.checkpoint_minutes
        is_late = self.processes.is_main and 0 < 60 * minutes <= time.monotonic() - self.saved_at
        asked, late = self.processes.sums([bool(self.signals.received), is_late])
        return max(self.processes.from_all(self.signals.received)) if asked else 0, bool(late)

    def _stop(self, number: int) -> None:
        """Raise TrainingStopped for a signal."""
        saved = self.state.saved_step
        where = f"the checkpoint of step {saved} is in {self.folder}" if saved >= 0 else "there is no checkpoint yet"
        name = signal.Signals(number).name
        raise TrainingStopped(f"stopped by {name} after step {self.step}: {where}", number)

    def _train_step(self) -> Losses:
        """One optimizer step: forward, backward, clip, update. Returns the unweighted losses, averaged over its batches.

        A step with a non-finite gradient is counted and changes no weight.
        """
        config, state, batch_count = self.config, self.state, self.config.gradient_accumulation
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_share(self.step, config)
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)

        means: Losses = {}
        for index in range(batch_count):
            batch, positions = self.batches.next(state.next_position)
            state.next_position += self.batches.batch_size
            with self.processes.gradient_sync(self.wrapped, enabled=index == batch_count - 1):
                with self._autocast():
                    losses: Losses = self.wrapped(batch, positions)
                total = total_loss(losses, config.loss_weights) / batch_count
                self.scaler.scale(total).backward()
            means = {name: means.get(name, 0.0) + loss.detach() / batch_count for name, loss in losses.items()}

        self.scaler.unscale_(self.optimizer)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        state.grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

        state.step += 1
        if state.count_finite(state.grad_norm):
            self.scaler.step(self.optimizer)
            self.ema.update(self.objective, state.step)
        elif not self.scaler.is_enabled():  # in fp16 such steps are normal: they adjust the loss scale
            self._warn(f"step {state.step} was skipped: non-finite gradient")
        self.scaler.update()
        return means

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self.config.precision]
        return torch.autocast(self.processes.device.type, dtype, enabled=dtype != torch.float32)

    # Not in every step: log, validate, save, roll back.

    def _log(self, meter: Meter, on_row: Callable[[LogRow], None]) -> None:
        row = {
            "step": self.step,
            **meter.means(self.step),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": self.state.grad_norm,
            "skipped": self.state.skipped,
        }
        self.run_log.write(row)
        with self._stop_together():
            if self.processes.is_main:
                log.info("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
                on_row(row)

    def _validate(self) -> None:
        assert self.hooks.validate is not None
        is_saved = self.state.saved_step == self.step  # then a signal need not wait for the end of the validation
        interruptible = self.signals.acting(self._stop) if is_saved else nullcontext()
        with interruptible, self._stop_together(), self.state.averaged_weights(), self.processes.own_randomness():
            self.objective.eval()
            try:
                self._record_validation(self.hooks.validate(self.step))
            except StopTraining:
                raise
            except Exception as error:  # validation must not stop a training
                self._warn(f"validation at step {self.step} failed: {type(error).__name__}: {error}")
        if self.processes.is_main:
            self.run_log.guarded("drawing the charts", lambda: self.hooks.charts and self.hooks.charts(self.folder))

    def _record_validation(self, measures: Mapping[str, float]) -> None:
        if self.processes.is_main and measures:
            self.run_log.write_validation({"step": self.step, **measures})
            if "score" in measures and self.checkpoints.has(self.step):
                self.checkpoints.record_score(self.step, float(measures["score"]))

    def _save(self, is_last: bool) -> None:
        """Write a checkpoint unless the last step was skipped; an error is raised if `is_last`, otherwise logged."""
        if self.state.skipped_in_a_row or self.step == self.state.saved_step:
            return
        step = self.step
        reason = self.processes.first_reason(self._write_checkpoint())
        self.saved_at = time.monotonic()
        if not reason:
            self.state.saved_step = step
        elif is_last:
            raise TrainingError(reason)
        else:
            self._warn(
                f"{reason} Training continues; the next checkpoint is due in {self.config.checkpoint_steps} steps."
            )

    def _write_checkpoint(self) -> str:
        """Write a checkpoint of this step; returns why that was not possible, in at least one process. All call it."""
        step, export, state, is_main = self.step, self.hooks.export, self.state, self.processes.is_main
        in_parts = self.processes.is_sharded and wants_parts()
        try:
            if in_parts:
                self._write_parts(step)
            content = (state.counters if in_parts else state.state_dict)(self.processes, self.config)
            weights = state.averaged(is_main) if export else {}
            if is_main:
                self.checkpoints.save(step, content, export and (lambda path: export(path, weights, step)))
        except CannotSaveError as error:
            return str(error)
        return ""

    def _check_disk(self) -> None:
        """Warn if the disk has less room than the checkpoints of the run may need."""
        if not self.processes.is_main:
            return
        keep = self.config.keep_checkpoints
        trained = sum(parameter.numel() for group in self.optimizer.param_groups for parameter in group["params"])
        weights, average = (sum(t.numel() * t.element_size() for t in named.values()) for named in self.state.large())
        size = checkpoint_bytes(weights, OPTIMIZER_BYTES[self.config.optimizer] * trained, average)
        free = shutil.disk_usage(self.folder).free
        if (keep + BESIDES - len(self.checkpoints.steps())) * size > free:
            self._warn(
                f"{self.folder} has {free / GIB:.1f} GiB free, but the run may need {disk_need(size, keep)}: free some space,"
                " lower train.keep_checkpoints, or choose another data.train_output_dir."
            )

    def _write_parts(self, step: int) -> None:
        """Write the large part of a sharded state; CannotSaveError in all processes."""
        try:
            folder = self.processes.broadcast_from_main(lambda: self.checkpoints.begin(step))
            with self.processes.raise_together():
                self.state.write_parts(folder)
        except ValueError as error:
            raise self.checkpoints.cannot_save(step, error) from error

    def _roll_back(self) -> None:
        """Load the last checkpoint after too many skipped steps in a row, and continue with the items after theirs."""
        state = self.state
        count, rollbacks, skipped, position = (
            state.skipped_in_a_row,
            state.rollbacks,
            state.skipped,
            state.next_position,
        )
        has_checkpoint = self.processes.broadcast_from_main(lambda: bool(self.checkpoints.steps()))
        if not has_checkpoint or rollbacks >= self.config.max_rollbacks:
            raise TrainingError(
                f"{count} steps in a row had a non-finite gradient, after {rollbacks} rollbacks to the last checkpoint;"
                f" the checkpoints in {self.folder} are from earlier steps. Lower train.learning_rate, set train.precision to"
                " bf16 or fp32, or look for damaged clips, then run the same command again."
            )
        self.resume()
        state.rollbacks, state.skipped, state.next_position = rollbacks + 1, skipped, position
        self.run_log.cut(self.step)
        self._warn(f"{count} steps in a row had a non-finite gradient: rolled back to step {self.step}")

    @contextmanager
    def _stop_together(self) -> Iterator[None]:
        """If one process raises StopTraining inside, all do."""
        reason = ""
        try:
            yield
        except StopTraining as stop:
            reason = str(stop)
        reason = self.processes.first_reason(reason)
        if reason:
            raise StopTraining(reason)

    def _warn(self, message: str) -> None:
        if self.processes.is_main:
            log.warning(message)
