"""The optimizer and how its rate moves."""

import math
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn

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
