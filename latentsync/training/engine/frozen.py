"""The one door to networks that training asks but never changes."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

Net = TypeVar("Net", bound=nn.Module)


class Frozen(Generic[Net]):
    """Holds a network in evaluation mode and without gradients for its parameters, whatever happens to its owner.

    It is no module, so its network is no part of the owner's parameters, state dict or training mode; the network itself
    refuses training mode and `requires_grad_`. Gradients still pass through it to its inputs.
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
        """Stay in evaluation mode."""
        return module

    return train


def _refuse_gradients(net: nn.Module) -> Callable[[bool], nn.Module]:
    def requires_grad_(requires_grad: bool = True) -> nn.Module:
        """Stay without gradients."""
        if requires_grad:
            raise RuntimeError("This network is frozen: training asks it and never changes it.")
        return net

    return requires_grad_
