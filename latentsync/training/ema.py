"""The moving average of what is trained."""

import torch
from torch import Tensor, nn


def changing(module: nn.Module) -> dict[str, Tensor]:
    """Tensors of a module's state that training changes: trained parameters and buffers, by name."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


class Ema:
    """Exponential moving average of the changing part of a module's state; starts fast and settles at `decay`.

    With `decay` 0 nothing is kept.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in changing(module).items()} if decay else {}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the module's state after optimizer step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in changing(module).items() if self.decay else ():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)
