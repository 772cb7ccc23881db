"""The training loop shared by all models: status, checkpoint, done?, then the step. The same call resumes.

A batch follows from (seed, step) alone, so a resumed run sees the data an undisturbed run would have seen.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.config import TrainConfig
from latentsync.weights import read_state, save_state

Losses = dict[str, Tensor]
StepFunction = Callable[[int], Losses]
MAX_SKIPPED_IN_A_ROW = 20


class Ema:
    """Exponential moving average of a module's floating-point state; starts fast and settles at `decay`."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.average = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)


def learning_rate_share(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine down to `final_rate_share`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_rate_share + (1 - config.final_rate_share) * cosine


def total_loss(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()


class Trainer:
    """Runs `step` until `max_steps`; keeps `state.pt` and `log.jsonl` in the run folder."""

    def __init__(self, module: nn.Module, step: StepFunction, config: TrainConfig):
        self.module, self.step_function, self.config = module, step, config
        self.folder = Path(config.run_dir)
        trainable = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, config.learning_rate, weight_decay=config.weight_decay)
        self.ema = Ema(module, config.ema_decay)
        self.step = 0
        self.skipped = 0
        self._trainable = trainable
        self._device = trainable[0].device

    def resume(self) -> int:
        """Continue from the run folder's last complete state, if there is one; returns the step."""
        path = self.folder / "state.pt"
        if path.exists():
            state = read_state(path)
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.average = state["ema"]
            self.step = state["step"]
            torch.set_rng_state(state["rng"])
        return self.step

    def save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.average,
            "step": self.step,
            "rng": torch.get_rng_state(),
        }
        save_state(self.folder / "state.pt", state)

    def train(self, report: Callable[[dict[str, Any]], None], stop_step: int | None = None) -> None:
        """Train up to `max_steps` (or `stop_step`); `report` receives each log row."""
        torch.manual_seed(self.config.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        end = min(self.config.max_steps, stop_step or self.config.max_steps)
        sums: dict[str, float] = {}
        started, since = time.monotonic(), self.step
        while self.step < end:
            losses = self._one_step()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach())
            if self.step % self.config.log_steps == 0 or self.step == end:
                done = self.step - since
                rate = (time.monotonic() - started) / done
                row = {"step": self.step, **{k: v / done for k, v in sums.items()}, "seconds_per_step": rate}
                self._log(row)
                report(row)
                sums, started, since = {}, time.monotonic(), self.step
            if self.step % self.config.checkpoint_steps == 0 or self.step == end:
                self.save()

    def _one_step(self) -> Losses:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_share(self.step, config)
        self.module.train()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses = self.step_function(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total_loss(losses, config.loss_weights).backward()
        norm = nn.utils.clip_grad_norm_(self._trainable, config.max_grad_norm)
        self.step += 1
        if torch.isfinite(norm):
            self.optimizer.step()
            self.ema.update(self.module, self.step)
            self.skipped = 0
        else:
            self._skip()
        return losses

    def _skip(self) -> None:
        self.skipped += 1
        if self.skipped > MAX_SKIPPED_IN_A_ROW:
            raise RuntimeError(
                f"{self.skipped} steps in a row had a gradient that is not finite; the last good state is in {self.folder}. "
                "Lower train.learning_rate and start again."
            )

    def _log(self, row: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")


def batch_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step: the same for a resumed run."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (2**63))
