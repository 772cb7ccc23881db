"""The training loop of every model: status, checkpoint, validation, done?, then the step. The same call resumes.

How a model is trained with it:

    objective = MyObjective(net, ...)          # an nn.Module: its parameters with requires_grad are trained
    trainer = Trainer(objective, data, batch_size, config, folder, collate, Hooks(export=..., validate=...))
    reason = trainer.train(report)             # resumes what is in `folder`; None, or why a hook stopped it
    weights = trainer.averaged_state()         # of the objective: the moving average, else the weights; whole, on the CPU

*Objective.* `forward(batch, positions) -> {"recon": loss, ...}`: unweighted scalar losses in float32 by name; the weights of
`config.loss_weights` are applied in `total_loss` and nowhere else. `batch` is what `collate` made of this process's items;
`positions`, int64 on the CPU, are the items' numbers: random numbers that shall not depend on how the items are spread over
processes come from `item_generator(seed, position)`, all others (dropout) from the process's own, which are saved and
restored. Frozen networks that an objective only asks stand behind `training.frozen.Frozen`, which keeps them out of its
parameters, its state and its training mode.

*Data.* `data[n]` is item n of an endless sequence, a function of n alone (see `latentsync.data.draws`). One batch is the next
`batch_size` items, shared evenly by the processes; an optimizer step takes `config.gradient_accumulation` batches. So the
state of the data is one number, and two processes train on what one would. A process that cannot get its items tells the
others, and all stop with its reason.

*Hooks.* `export(path, weights, step)` writes what inference reads into every checkpoint (weights as of `averaged_state`, on
the first process only); `validate(step)` runs on all processes every `config.validation_steps` with the averaged weights in
place and in evaluation mode, and returns numbers, among them perhaps `score` (the greater the better), by which the best
checkpoint is kept; `charts(folder)` draws after each validation. What goes wrong in validation, charts or logs is logged and never
ends the training; `StopTraining(reason)`, raised by `validate` or `report`, ends it after a last checkpoint.

*Folder.* `checkpoints/step-00000250/` (`state.pt` to go on, `weights.safetensors` for inference), `checkpoints/best.json`,
`log.jsonl`, `validation.jsonl`, `tensorboard/`. A checkpoint appears whole, by rename. Steps whose gradient is not finite are
skipped and counted; after too many in a row the last checkpoint is taken up again, behind the data that led there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.config import TrainConfig
from latentsync.device import DTYPES
from latentsync.training.engine.batches import Batches, Collate, batch_generator, item_generator
from latentsync.training.engine.checkpoints import CannotSaveError, Checkpoints
from latentsync.training.engine.distributed import Processes, seed_everything
from latentsync.training.engine.log import Meter, RunLog
from latentsync.training.engine.optimizer import Ema, learning_rate_share, make_optimizer
from latentsync.training.engine.state import TrainingState

__all__ = ["Hooks", "Losses", "StopTraining", "Trainer", "batch_generator", "item_generator", "total_loss"]

Losses = dict[str, Tensor]
Row = dict[str, Any]
Report = Callable[[Row], None]


class StopTraining(Exception):
    """Ends a training in good order; the text is the reason, for a person."""


class TrainingError(ValueError):
    """A training cannot go on; the message names the reason and the way out."""


@dataclass(frozen=True)
class Hooks:
    """What is done beside the steps; see the top of the file."""

    export: Callable[[Path, Mapping[str, Tensor], int], None] | None = None
    validate: Callable[[int], Mapping[str, float]] | None = None
    charts: Callable[[Path], None] | None = None


def total_loss(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    """The sum of the losses, each times its weight (1 where none is given)."""
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()


class Trainer:
    """Trains an objective until `config.max_steps`; see the top of the file."""

    def __init__(
        self,
        objective: nn.Module,
        data: Dataset[Any],
        batch_size: int,
        config: TrainConfig,
        folder: Path | str,
        collate: Collate | None = None,
        hooks: Hooks | None = None,
        num_workers: int = 0,
        processes: Processes | None = None,
    ):
        """`batch_size` counts items over all processes; `num_workers` are processes that read ahead.

        Raises:
            ValueError: nothing is to be trained, the batch cannot be shared, the folder has no name, or the optimizer's
                package is missing.
        """
        if str(folder) in ("", "."):
            raise ValueError("data.train_output_dir is not set: name the folder that shall keep checkpoints and log.")
        self.config, self.folder, self.hooks = config, Path(folder), hooks or Hooks()
        self.processes = processes or Processes()
        self.objective = objective.to(self.processes.device)
        if self.processes.is_sharded and config.precision == "fp16":
            raise ValueError("train.precision is fp16, which does not go with FSDP: choose bf16.")
        self.wrapped = self.processes.share(self.objective)
        self.optimizer = make_optimizer(self.objective, config)
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=config.precision == "fp16")
        self.ema = Ema(self.objective, config.ema_decay)
        self.batches = Batches(data, batch_size, collate, num_workers, self.processes)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", config.keep_checkpoints)
        self.state = TrainingState(self.objective, self.optimizer, self.ema, self.scaler)
        self.log = RunLog(self.folder, enabled=self.processes.is_main)

    @property
    def step(self) -> int:
        """Optimizer steps done, skipped ones included."""
        return self.state.step

    def averaged_state(self) -> dict[str, Tensor]:
        """The objective's state dict with the moving average where there is one; whole, on the CPU. All processes call it."""
        return self.state.averaged()

    def resume(self) -> int:
        """Take up the newest checkpoint that can be read, if there is one; returns the step. All processes call it."""
        newest: list[dict[str, Any]] = []
        found = self.processes.broadcast_from_main(lambda: self._newest(newest))
        if found is None:
            return self.step
        trouble = ""
        if not newest:  # the first process has read it already
            try:
                newest.append(self.checkpoints.read(Path(found)))
            except (OSError, ValueError) as error:
                trouble = f"process {self.processes.rank} cannot read {found}: {error}"
        self.processes.raise_together(trouble)
        self._note(self.state.restore(newest[0], self.processes))
        return self.step

    def train(self, report: Report, stop_step: int | None = None) -> str | None:
        """Train up to `max_steps` (or `stop_step`); `report` receives each log row on the first process.

        Returns:
            None at the end, or the reason of a `StopTraining`.

        Raises:
            TrainingError: the gradient is not finite again and again, items cannot be read, or the last checkpoint cannot
                be written.
        """
        seed_everything(self.config.seed + self.processes.rank)
        self.resume()
        self.log.open(self.step)
        end = min(self.config.max_steps, self.config.max_steps if stop_step is None else stop_step)
        try:
            self._run(report, end)
        except StopTraining as stop:
            self._save(is_last=True)
            return str(stop)
        finally:
            self.batches.close()
            self.log.close()
        return None

    def _run(self, report: Report, end: int) -> None:
        meter = Meter(self.processes, self.step)
        while self.step < end:
            meter.add(self._one_step())
            if self._rolled_back(meter):
                continue
            is_last = self.step == end
            if self.step % self.config.log_steps == 0 or is_last:
                self._log(meter, report)
            validates = bool(self.config.validation_steps) and self.step % self.config.validation_steps == 0
            if self.step % self.config.checkpoint_steps == 0 or is_last or (validates and self.hooks.validate):
                self._save(is_last)
            if validates and self.hooks.validate:
                self._validate()

    def _one_step(self) -> Losses:
        """One optimizer step; returns the losses, averaged over its batches."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_share(self.step, config)
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        summed: Losses = {}
        for index in range(config.gradient_accumulation):
            is_last = index == config.gradient_accumulation - 1
            with self.processes.gradients(self.wrapped, shared=is_last):
                losses = self._backward()
            summed = {
                name: summed.get(name, 0.0) + loss.detach() / config.gradient_accumulation
                for name, loss in losses.items()
            }
        self._update()
        return summed

    def _backward(self) -> Losses:
        batch, positions = self.batches.next(self.state.next_position)
        self.state.next_position += self.batches.batch_size
        device, precision = self.processes.device.type, self.config.precision
        with torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
            losses = self.wrapped(batch, positions)
        total = total_loss(losses, self.config.loss_weights) / self.config.gradient_accumulation
        self.scaler.scale(total).backward()
        return losses

    def _update(self) -> None:
        """Clip the gradient and let the optimizer step, unless the gradient is not finite; then the step is skipped."""
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.config.max_grad_norm)
        self.state.grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        self.state.step += 1
        finite = self.state.count_finite(self.state.grad_norm)
        if finite:
            self.scaler.step(self.optimizer)
            self.ema.update(self.objective, self.step)
        elif not self.scaler.is_enabled():
            self.log.warn(f"step {self.step} was skipped: the gradient is not finite")
        self.scaler.update()

    def _rolled_back(self, meter: Meter) -> bool:
        """Whether too many steps in a row were skipped, so that the last checkpoint was taken up again."""
        if self.state.skipped_in_a_row < self.config.max_skipped_steps:
            return False
        skipped, position, rollbacks = self.state.skipped_in_a_row, self.state.next_position, self.state.rollbacks
        total_skipped = self.state.skipped
        has_one = self.processes.broadcast_from_main(lambda: bool(self.checkpoints.steps()))
        if not has_one or rollbacks >= self.config.max_rollbacks:
            raise TrainingError(
                f"{skipped} steps in a row had a gradient that is not finite, after {rollbacks} returns to the last"
                f" checkpoint; what is in {self.folder} is from before. Lower train.learning_rate, train in bf16 or fp32,"
                " or look for damaged clips, then start the same command again."
            )
        self.resume()
        self.state.next_position, self.state.rollbacks = position, rollbacks + 1  # behind the data that led here
        self.state.skipped, self.state.skipped_in_a_row = total_skipped, 0
        self.log.cut(self.step)
        meter.reset(self.step)
        self.log.warn(f"{skipped} steps in a row had no finite gradient: went back to step {self.step}")
        return True

    def _log(self, meter: Meter, report: Report) -> None:
        row = {
            "step": self.step,
            **meter.means(self.step),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": self.state.grad_norm,
            "skipped": self.state.skipped,
        }
        self.log.write(row)
        stopped = ""
        try:
            if self.processes.is_main:
                report(row)
        except StopTraining as stop:
            stopped = str(stop)
        self._stop_together(stopped)

    def _stop_together(self, reason: str) -> None:
        reasons = self.processes.first_reason(reason)
        if reasons:
            raise StopTraining(reasons)

    def _validate(self) -> None:
        assert self.hooks.validate is not None
        values: Mapping[str, float] = {}
        stopped = trouble = ""
        with self.state.averaged_weights(), self.processes.own_randomness():
            self.objective.eval()
            try:
                values = self.hooks.validate(self.step)
            except StopTraining as stop:
                stopped = str(stop)
            except Exception as error:  # watching a training must not end it
                trouble = f"validation at step {self.step} failed: {type(error).__name__}: {error}"
        if trouble:
            self.log.warn(trouble)
        if self.processes.is_main and values:
            self.log.write_validation({"step": self.step, **values})
            if "score" in values and self.checkpoints.has(self.step):
                self.checkpoints.note_score(self.step, float(values["score"]))
            self.log.guarded("drawing the charts", lambda: self.hooks.charts and self.hooks.charts(self.folder))
        self._stop_together(stopped)

    def _save(self, is_last: bool) -> None:
        """Write a checkpoint unless the newest gradients were not finite; a failure ends the training only at its end."""
        if self.state.skipped_in_a_row or self.step == self.state.saved_step:
            return
        contents = self.state.contents(self.processes, self.config)
        weights = self.averaged_state() if self.hooks.export else {}
        trouble = ""
        if self.processes.is_main:
            try:
                self.checkpoints.save(self.step, contents, self._export(weights))
            except CannotSaveError as error:
                trouble = str(error)
        trouble = self.processes.first_reason(trouble)
        if not trouble:
            self.state.saved_step = self.step
        elif is_last:
            raise TrainingError(trouble)
        else:
            self.log.warn(
                f"{trouble} Training goes on; the next checkpoint is due in {self.config.checkpoint_steps} steps."
            )

    def _export(self, weights: Mapping[str, Tensor]) -> Callable[[Path], None] | None:
        export, step = self.hooks.export, self.step
        return None if export is None else lambda path: export(path, weights, step)

    def _newest(self, states: list[dict[str, Any]]) -> str | None:
        """The path of the newest checkpoint that can be read; its state goes into `states`."""
        found = self.checkpoints.newest()
        if found is None:
            return None
        states.append(found[1])
        return str(found[0])

    def _note(self, notes: list[str]) -> None:
        for note in notes:
            self.log.warn(note)
