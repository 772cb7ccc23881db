"""How much memory a training needs: what parameters entail is exact, what a step makes is followed through one step."""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 1 << 30
FLOAT32 = 4
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2}  # a parameter: two averages


class PeakMemory(TorchDispatchMode):
    """Follows the memory of all tensors that are made inside: `peak` is the most bytes that lived at one moment.

    Also on the device meta, where the bytes are those that the shapes would take.
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
    """Bytes of a training on one device."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    frozen: int
    activations: int  # and whatever else a step makes and drops

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count / GIB:.2f}" for name, count in vars(self).items())
        return f"about {self.total / GIB:.1f} GiB: {parts}"


def training_memory(net: nn.Module, frozen_bytes: int, peak: int, optimizer: str, averages: bool) -> TrainingMemory:
    """Memory of training `net` in float32 with autocast, where a step's forward and backward pass need `peak` bytes."""
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return TrainingMemory(
        weights=byte_count(net),
        gradients=FLOAT32 * trained,
        optimizer=OPTIMIZER_BYTES[optimizer] * trained,
        average=FLOAT32 * trained if averages else 0,
        frozen=frozen_bytes,
        activations=max(0, peak - FLOAT32 * trained),
    )


def byte_count(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers()))
