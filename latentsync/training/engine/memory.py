"""The memory of a training: computed for parameters, gradients, optimizer and average; measured in one step for activations."""

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentsync.config import TrainConfig
from latentsync.device import DTYPES
from latentsync.training import META
from latentsync.training.engine.checkpoints import GIB, checkpoint_bytes
from latentsync.training.engine.loop import Losses, total_loss
from latentsync.training.engine.optimizer import OPTIMIZER_BYTES

FLOAT32 = 4


class PeakMemory(TorchDispatchMode):
    """Tracks the storages of all tensors created inside; `peak` is the largest number of bytes allocated at once.

    On the meta device nothing is allocated; the sizes follow from the shapes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._living: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._follow(leaf.untyped_storage())
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage in self._living:
            return
        self._living.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, count: int) -> None:
        self.now -= count


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training needs on one device."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    frozen: int
    activations: int  # with all other temporary tensors of a step

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint on disk: the state to resume from, and the weights for inference in float32."""
        return checkpoint_bytes(self.weights, self.optimizer, self.average)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count / GIB:.2f}" for name, count in vars(self).items())
        return f"about {self.total / GIB:.1f} GiB: {parts}"


def training_memory(net: nn.Module, frozen_bytes: int, peak: int, optimizer: str, averages: bool) -> TrainingMemory:
    """Memory of training `net` in float32 with autocast; `peak` bytes come from `measure_step`."""
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return TrainingMemory(
        weights=byte_count(net),
        gradients=FLOAT32 * trained,
        optimizer=OPTIMIZER_BYTES[optimizer] * trained,
        average=FLOAT32 * trained if averages else 0,
        frozen=frozen_bytes,
        activations=max(0, peak - FLOAT32 * trained),
    )


def measure_step(objective: nn.Module, batch: Any, positions: Tensor, config: TrainConfig) -> tuple[Losses, int]:
    """Forward and backward pass of one batch; returns its losses and the peak bytes of gradients and activations.

    Autocast does not work on the meta device; there the measured activations are halved for 16-bit precisions.
    """
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    device, dtype = parameters[0].device.type, DTYPES[config.precision]
    is_meta = device == META
    objective.train()
    with PeakMemory() as memory:
        with nullcontext() if is_meta else torch.autocast(device, dtype, enabled=dtype != torch.float32):
            losses: Losses = objective(batch, positions)
        total_loss(losses, config.loss_weights).backward()
    gradients = FLOAT32 * sum(parameter.numel() for parameter in parameters)
    halved = 2 if is_meta and dtype != torch.float32 else 1
    return losses, gradients + max(0, memory.peak - gradients) // halved


def batch_lines(batch: Mapping[str, Tensor]) -> list[str]:
    """A batch's shapes as lines of text."""
    return ["batch:"] + [f"  {name:22} {'x'.join(map(str, value.shape))}" for name, value in batch.items()]


def loss_text(loss: Tensor) -> str:
    """A loss's value, or `computed` on the meta device."""
    return "computed" if loss.is_meta else f"{float(loss.detach()):.4g}"


def byte_count(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers()))
