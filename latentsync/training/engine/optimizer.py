"""The optimizer, its learning rate schedule, and the moving average of the weights."""

import math
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from latentsync.config import TrainConfig

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2}  # per parameter: two moments


def learning_rate_share(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate: linear warm-up, then constant or cosine decay to `final_rate_share`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_rate_share + (1 - config.final_rate_share) * cosine


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or its 8-bit form (Dettmers et al. 2022), over the parameters with `requires_grad`.

    Raises:
        ValueError: there are no trainable parameters, or bitsandbytes is not installed.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("There are no trainable parameters: check trainable_modules.")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, config.learning_rate, weight_decay=config.weight_decay)
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"train.optimizer={config.optimizer} needs the package bitsandbytes: run `pip install bitsandbytes`,"
            " or set train.optimizer=adamw."
        )
    return import_module("bitsandbytes").optim.AdamW8bit(
        trained, config.learning_rate, weight_decay=config.weight_decay
    )


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The entries of a module's state dict that training changes: trained parameters and buffers."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


class Ema:
    """Exponential moving average of `trained_tensors`; the decay rises with the step up to `decay`. `decay` 0: no average."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.average = (
            {name: value.detach().clone() for name, value in trained_tensors(module).items()} if decay else {}
        )

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Update the average with the module's state after optimizer step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in trained_tensors(module).items() if self.decay else ():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)
