"""Frozen networks: used in a training or as a measure, never changed by it."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

Net = TypeVar("Net", bound=nn.Module)


class Frozen(Generic[Net]):
    """Holds a network in evaluation mode and without parameter gradients.

    It is not an `nn.Module`, so the network is not part of its owner's parameters, state dict or training mode; the network
    ignores `train()` and raises on `requires_grad_(True)`. Gradients still flow through it to its inputs.
    """

    def __init__(self, net: Net):
        net.requires_grad_(False)
        net.eval()
        for module in net.modules():
            object.__setattr__(module, "train", _refuse_training(module))
        object.__setattr__(net, "requires_grad_", _refuse_gradients(net))
        self.net = net


def _refuse_training(module: nn.Module) -> Callable[[bool], nn.Module]:
    def train(mode: bool = True) -> nn.Module:
        """Does nothing: the module stays in evaluation mode."""
        return module

    return train


def _refuse_gradients(net: nn.Module) -> Callable[[bool], nn.Module]:
    def requires_grad_(requires_grad: bool = True) -> nn.Module:
        """Raises if gradients are requested."""
        if requires_grad:
            raise RuntimeError("This network is frozen and cannot be trained.")
        return net

    return requires_grad_
