"""Adapters with random weights, for tests."""

import copy
from dataclasses import asdict
from pathlib import Path

import torch

from latentsync.models.unet.adapter import KIND, AdapterConfig, adapter_names, add_adapter, base_fingerprint
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.weights import describe, save_checkpoint

CONFIG = AdapterConfig(rank=2, alpha=3.0, targets=["attn2."])


def adapted(unet: UNet3DConditionModel, seed: int, config: AdapterConfig = CONFIG) -> UNet3DConditionModel:
    """A copy of a U-Net with an adapter of random weights."""
    with_one = copy.deepcopy(unet)
    add_adapter(with_one, config)
    generator = torch.Generator().manual_seed(seed)
    for name in adapter_names(with_one.state_dict()):
        with_one.get_parameter(name).data = 0.3 * torch.randn(with_one.get_parameter(name).shape, generator=generator)
    return with_one


def save_adapter(path: Path, unet: UNet3DConditionModel, seed: int, config: AdapterConfig = CONFIG) -> Path:
    """Write the file of `adapted(unet, seed, config)`; returns its path."""
    tensors = adapted(unet, seed, config).state_dict()
    base = {"file": "base.safetensors", "fingerprint": base_fingerprint(unet)}
    own = {f"unet.{name}": tensors[name] for name in adapter_names(tensors)}
    save_checkpoint(path, own, describe(KIND, asdict(config), 1, base=base))
    return path
