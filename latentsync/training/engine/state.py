"""The training state: everything that an exact resume needs from a checkpoint."""

import logging
import math
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.config import TrainConfig
from latentsync.training.engine.distributed import Processes, randomness, set_randomness
from latentsync.training.engine.optimizer import Ema, trained_tensors
from latentsync.training.engine.sharded import (
    empty_optimizer_tensors,
    optimizer_tensors,
    read_parts,
    stored_shapes,
    write_parts,
)
from latentsync.weights import CheckpointError, load_strict

FORMAT = 1  # of state.pt
log = logging.getLogger(__name__)


class TrainingState:
    """The objective's module, the optimizer, the moving average, the loss scale, and counters."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, scaler: torch.amp.GradScaler):
        self.module, self.optimizer, self.ema, self.scaler = module, optimizer, ema, scaler
        # names of tensors that are not stored: no step changes them, and the run's files hold them
        self.fixed: Set[str] = getattr(module, "fixed_tensors", frozenset())
        self.step = 0
        self.next_position = 0  # the next batch's position in the data
        self.skipped = 0  # number of steps with a non-finite gradient
        self.skipped_in_a_row = 0
        self.rollbacks = 0
        self.saved_step = -1
        self.grad_norm = 0.0

    def count_finite(self, norm: float) -> bool:
        """Whether a gradient's norm is finite; if not, the step is counted as skipped."""
        if math.isfinite(norm):
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        return False

    def averaged(self, keep: bool = True) -> dict[str, Tensor]:
        """The module's state dict, with averaged weights if there is a moving average; unsharded, on the CPU; without `fixed`.

        All processes call it; those that do not `keep` the tensors get None for each.
        """
        return gathered({**self._stored(), **self.ema.average}, keep)

    def _stored(self) -> dict[str, Tensor]:
        """The module's state dict without `fixed`."""
        return {name: value for name, value in self.module.state_dict().items() if name not in self.fixed}

    def large(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What a checkpoint stores of the module, and of its moving average."""
        return self._stored(), self.ema.average

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The module has the averaged weights inside; its own are restored exactly on exit."""
        if not self.ema.average:
            yield
            return
        own = trained_tensors(self.module)
        kept = {name: value.detach().clone() for name, value in own.items()}
        _copy(self.ema.average, own)
        try:
            yield
        finally:
            _copy(kept, own)

    def state_dict(self, processes: Processes, config: TrainConfig) -> dict[str, Any]:
        """The content of `state.pt`. All processes call it; the tensors are in the first one's alone."""
        tensors = {"module": self._stored(), "ema": self.ema.average, "optimizer": self.optimizer.state_dict()}
        return {**self.counters(processes, config), **gathered(tensors, processes.is_main)}

    def counters(self, processes: Processes, config: TrainConfig) -> dict[str, Any]:
        """The part of `state.pt` that is small. All processes call it."""
        return {
            "format": FORMAT,
            "step": self.step,
            "next_position": self.next_position,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "schedule": {"name": config.schedule, "step": self.step},
            "scaler": self.scaler.state_dict(),
            "randomness": processes.from_all(randomness()),
            "train": asdict(config),
        }

    def write_parts(self, folder: Path) -> None:
        """Write the large part of the state, each process its own; see `sharded`. All processes call it."""
        tensors = {f"module.{name}": value for name, value in self._stored().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.average.items()}
        write_parts(folder, tensors | optimizer_tensors(self.optimizer.state_dict()["state"]))

    def read_parts(self, folder: Path) -> dict[str, Any]:
        """What `write_parts` has written, sharded as this process's tensors are, for `load_state_dict`. All processes call it.

        Raises:
            CheckpointError: the files are damaged.
        """
        stored = stored_shapes(folder)
        fitting = {f"module.{name}": value for name, value in self._stored().items()}
        fitting |= {f"ema.{name}": value for name, value in self.ema.average.items()}
        own = {name: value for name, value in fitting.items() if name in stored and value.shape == stored[name][0]}
        tensors = {name: torch.empty_like(value) for name, value in own.items()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        entries = empty_optimizer_tensors(stored, parameters)
        read_parts(folder, tensors | optimizer_tensors(entries))
        for kind in ("module", "ema"):  # names that only one side has: `load_state_dict` says so
            tensors |= {name: torch.empty(0) for name in stored if name.startswith(f"{kind}.") and name not in tensors}
        groups = self.optimizer.state_dict()["param_groups"]
        return {**split(tensors), "optimizer": {"state": entries, "param_groups": groups}}

    def load_state_dict(self, state: Mapping[str, Any], processes: Processes) -> None:
        """Restore a `state_dict`; parts that do not fit are reset, with a warning.

        Raises:
            CheckpointError: the state belongs to another network.
        """
        self._load_module(state["module"])
        self.step, self.next_position = int(state["step"]), int(state["next_position"])
        self.skipped, self.skipped_in_a_row, self.rollbacks = int(state["skipped"]), 0, int(state["rollbacks"])
        self.saved_step = self.step
        if set(state["ema"]) == set(self.ema.average):
            _copy(state["ema"], self.ema.average)
        elif self.ema.average:
            self.ema.average = {name: value.detach().clone() for name, value in trained_tensors(self.module).items()}
            log.warning("The checkpoint has no moving average of these weights: it starts from the current weights.")
        self._load_optimizer(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if len(state["randomness"]) == processes.count:
            set_randomness(state["randomness"][processes.rank])
        else:
            log.warning(
                "The checkpoint was written by %d processes, this run has %d: the data stay the same, dropout masks differ.",
                len(state["randomness"]),
                processes.count,
            )

    def _load_module(self, tensors: Mapping[str, Tensor]) -> None:
        own = self._stored()
        if any(is_sharded(value) for value in own.values()):
            if set(own) != set(tensors):
                raise CheckpointError(
                    "The checkpoint belongs to another network: choose another data.train_output_dir."
                )
            _copy(tensors, own)
        else:
            fixed = {name: value for name, value in self.module.state_dict().items() if name in self.fixed}
            load_strict(self.module, {**fixed, **tensors}, "The checkpoint in data.train_output_dir")

    def _load_optimizer(self, stored: dict[str, Any]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not fits(stored, parameters):
            log.warning("The checkpoint's optimizer state belongs to other parameters: the optimizer is reset.")
            return
        entries = {
            index: {name: sharded_like(value, parameters[index]) for name, value in entry.items()}
            for index, entry in stored["state"].items()
        }
        settings = self.optimizer.state_dict()["param_groups"]  # rates and decay are those of the configuration
        self.optimizer.load_state_dict({"state": entries, "param_groups": settings})


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


def is_sharded(value: Any) -> bool:
    """Whether a tensor is sharded over processes (a DTensor)."""
    return hasattr(value, "full_tensor")


def split(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named `module.NAME` and `ema.NAME` as the dictionaries `module` and `ema`."""
    kinds = ("module", "ema")
    return {k: {n.removeprefix(f"{k}."): t for n, t in tensors.items() if n.startswith(f"{k}.")} for k in kinds}


def gathered(tree: Any, keep: bool = True) -> Any:
    """Nested dictionaries and lists with every tensor unsharded and copied to the CPU; None in its place unless `keep`."""
    if isinstance(tree, Tensor):
        whole = tree.full_tensor() if hasattr(tree, "full_tensor") else tree  # one at a time, in all processes
        return whole.detach().cpu() if keep else None
    if isinstance(tree, Mapping):
        return {key: gathered(value, keep) for key, value in tree.items()}
    return [gathered(value, keep) for value in tree] if isinstance(tree, list) else tree


def sharded_like(value: Any, like: Any) -> Any:
    """`value`, sharded like `like` if that is a sharded tensor of the same shape; otherwise unchanged."""
    if not (isinstance(value, Tensor) and is_sharded(like) and value.shape == like.shape) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor  # only where tensors are sharded

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in target.items():
        value.copy_(sharded_like(source[name], value))
