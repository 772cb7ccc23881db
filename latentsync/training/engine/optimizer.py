"""The optimizer and how its rate moves."""

import math
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from latentsync.config import TrainConfig


def learning_rate_share(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then constant, or half a cosine down to `final_rate_share`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_rate_share + (1 - config.final_rate_share) * cosine


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the parameters that are to be trained, or its 8-bit form (Dettmers et al. 2022).

    Raises:
        ValueError: there is nothing to train, or the 8-bit form's package is missing.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("No parameter is to be trained: trainable_modules leaves none over.")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, config.learning_rate, weight_decay=config.weight_decay)
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"train.optimizer is {config.optimizer}, which needs the package bitsandbytes: `pip install bitsandbytes`,"
            " or take adamw."
        )
    return import_module("bitsandbytes").optim.AdamW8bit(
        trained, config.learning_rate, weight_decay=config.weight_decay
    )


# The moving average of what is trained.
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
