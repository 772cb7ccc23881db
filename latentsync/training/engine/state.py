"""Everything that a training's future depends on: taken down into a checkpoint, and taken up again."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.config import TrainConfig
from latentsync.training.engine.distributed import Processes, randomness, set_randomness
from latentsync.training.engine.optimizer import Ema, changing
from latentsync.weights import CheckpointError, load_strict

FORMAT = 1  # of state.pt


class TrainingState:
    """The nets, the optimizer, the moving average, the loss scale, and where the training stands."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, scaler: torch.amp.GradScaler):
        self.module, self.optimizer, self.ema, self.scaler = module, optimizer, ema, scaler
        self.step = 0
        self.next_position = 0  # of the data
        self.skipped = 0  # steps whose gradient was not finite, in all
        self.skipped_in_a_row = 0
        self.rollbacks = 0
        self.saved_step = -1
        self.grad_norm = 0.0

    def count_finite(self, norm: float) -> bool:
        """Whether a gradient's norm is finite; keeps count of those that are not."""
        if math.isfinite(norm):
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        return False

    def averaged(self) -> dict[str, Tensor]:
        """The module's state dict with the moving average where there is one; whole, on the CPU."""
        return whole({**self.module.state_dict(), **self.ema.average})

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards exactly its own again, and training mode."""
        if not self.ema.average:
            yield
            return
        own = changing(self.module)
        kept = {name: value.detach().clone() for name, value in own.items()}
        _copy(self.ema.average, own)
        try:
            yield
        finally:
            _copy(kept, own)

    def contents(self, processes: Processes, config: TrainConfig) -> dict[str, Any]:
        """The contents of `state.pt`; all processes call it."""
        return {
            "format": FORMAT,
            "step": self.step,
            "next_position": self.next_position,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "module": whole(self.module.state_dict()),
            "ema": whole(self.ema.average),
            "optimizer": whole(self.optimizer.state_dict()),
            "schedule": {"name": config.schedule, "step": self.step},
            "scaler": self.scaler.state_dict(),
            "randomness": processes.from_all(randomness()),
            "train": asdict(config),
        }

    def restore(self, state: Mapping[str, Any], processes: Processes) -> list[str]:
        """Take up `contents`; returns what had to begin afresh, in words.

        Raises:
            CheckpointError: it belongs to another network.
        """
        notes: list[str] = []
        self._restore_module(state["module"])
        self.step, self.next_position = int(state["step"]), int(state["next_position"])
        self.skipped, self.skipped_in_a_row, self.rollbacks = int(state["skipped"]), 0, int(state["rollbacks"])
        self.saved_step = self.step
        if set(state["ema"]) == set(self.ema.average):
            _copy(state["ema"], self.ema.average)
        elif self.ema.average:
            self.ema.average = {name: value.detach().clone() for name, value in changing(self.module).items()}
            notes.append("the checkpoint has no moving average of these weights: it begins anew")
        notes += self._restore_optimizer(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if len(state["randomness"]) == processes.count:
            set_randomness(state["randomness"][processes.rank])
        else:
            notes.append(
                f"the checkpoint is of {len(state['randomness'])} processes, now there are {processes.count}: dropout draws"
                " other numbers, the data stays the same"
            )
        return notes

    def _restore_module(self, tensors: Mapping[str, Tensor]) -> None:
        own = self.module.state_dict()
        if any(is_shared(value) for value in own.values()):
            if set(own) != set(tensors):
                raise CheckpointError(
                    "The checkpoint belongs to another network: choose another data.train_output_dir."
                )
            _copy(tensors, own)
        else:
            load_strict(self.module, tensors, "The checkpoint in data.train_output_dir")

    def _restore_optimizer(self, stored: dict[str, Any]) -> list[str]:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not fits(stored, parameters):
            return ["the checkpoint's optimizer belongs to other parameters: its memory begins anew"]
        entries = {
            index: {name: laid_out(value, parameters[index]) for name, value in entry.items()}
            for index, entry in stored["state"].items()
        }
        self.optimizer.load_state_dict({**stored, "state": entries})
        return []


def fits(stored: Mapping[str, Any], parameters: list[nn.Parameter]) -> bool:
    """Whether an optimizer's state belongs to these parameters."""
    counted = sum(len(group["params"]) for group in stored["param_groups"])
    shapes = [
        value.shape == parameters[index].shape
        for index, entry in stored["state"].items()
        if index < len(parameters)
        for value in [entry.get("exp_avg")]
        if value is not None
    ]
    return counted == len(parameters) and all(shapes)


def is_shared(value: Any) -> bool:
    """Whether a tensor's parts lie on several processes."""
    return hasattr(value, "full_tensor")


def whole(tree: Any) -> Any:
    """Nested dictionaries and lists with every tensor gathered from all processes, copied to the CPU."""
    if isinstance(tree, Tensor):
        return (tree.full_tensor() if hasattr(tree, "full_tensor") else tree).detach().cpu()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    return [whole(value) for value in tree] if isinstance(tree, list) else tree


def laid_out(value: Any, like: Any) -> Any:
    """A whole tensor shared out as `like` is, where it has its shape."""
    if not (isinstance(value, Tensor) and is_shared(like) and value.shape == like.shape):
        return value
    from torch.distributed.tensor import distribute_tensor  # only where tensors are shared out

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in target.items():
        value.copy_(laid_out(source[name], value))
