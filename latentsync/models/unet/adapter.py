"""Adapters: small additions to a frozen U-Net (LoRA, Hu et al. 2021), trained for a person or a language.

The weight W of a linear layer becomes W + scale * alpha / rank * B A, with A [rank, in] and B [out, rank]; B starts at zero.
Training has A and B beside the frozen W. For inference the sum is computed once, so a sampling step costs what it cost before.

A file holds A and B in float32 as `unet.LAYER.lora_A.weight` and `unet.LAYER.lora_B.weight`, the names that peft and diffusers give
them, and in its metadata rank, alpha, targets and the fingerprint of the U-Net that it was trained on; it fits no other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentsync.files import tensors_hash
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.weights import Checkpoint, CheckpointError, read_checkpoint, read_header

KIND = "adapter"
DOWN, UP = ".lora_A.weight", ".lora_B.weight"  # A and B
PREFIX = "unet."  # of the names in a file
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")  # of an attention
TARGETS = ("attn2.", "motion_modules.")  # audio cross-attention and attention over frames
FINGERPRINT_VALUES = 16  # of every tensor


@dataclass
class AdapterConfig:
    """An adapter: `rank` 0 is none. Its part of a weight is multiplied by `alpha` / `rank`; `alpha` 0 stands for the rank."""

    rank: int = 0
    alpha: float = 0.0
    targets: list[str] = field(default_factory=lambda: list(TARGETS))  # parts of the names of attentions

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return (self.alpha or self.rank) / self.rank


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter; `weight` and `bias` are those of the layer that it takes the place of."""

    def __init__(self, layer: nn.Linear, config: AdapterConfig):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.scale = layer.in_features, layer.out_features, config.scale
        self.weight, self.bias = layer.weight, layer.bias
        with torch.device(layer.weight.device):
            self.lora_A = nn.Linear(self.in_features, config.rank, bias=False)
            self.lora_B = nn.Linear(config.rank, self.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias) + self.scale * self.lora_B(self.lora_A(input))


def add_adapter(unet: UNet3DConditionModel, config: AdapterConfig) -> None:
    """Freeze a U-Net and give its attentions a trainable adapter, which changes nothing before it is trained.

    Raises:
        ValueError: a target is part of no attention's name.
    """
    layers = {
        name: layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(tuple(f".{layer}" for layer in LAYERS))
    }
    for target in config.targets:
        if not any(target in name for name in layers):
            raise ValueError(
                f"adapter.targets: no attention's name contains {target!r}; usual are {', '.join(TARGETS)} and attn1."
            )
    unet.requires_grad_(False)
    for name, layer in layers.items():
        if any(target in name for target in config.targets):
            owner, _, own_name = name.rpartition(".")
            unet.get_submodule(owner).register_module(own_name, AdaptedLinear(layer, config))


def adapter_names(names: Iterable[str]) -> list[str]:
    """The names that are those of an adapter's tensors."""
    return [name for name in names if name.endswith((DOWN, UP))]


def base_fingerprint(unet: nn.Module) -> str:
    """Identifies the weights of a U-Net, whether or not it has an adapter: 12 hexadecimal digits.

    They follow from a few values of every tensor in float32, so that a file in half precision is the same base everywhere.
    """
    tensors = unet.state_dict()
    adapted = set(adapter_names(tensors))
    return tensors_hash({name: tensor for name, tensor in tensors.items() if name not in adapted}, FINGERPRINT_VALUES)


@dataclass(frozen=True)
class Adapter:
    """A file of an adapter and the factor by which it acts."""

    path: Path
    scale: float = 1.0

    def check(self) -> None:
        """CheckpointError if the file is missing, damaged or no adapter; its values are not read."""
        _config_of(read_header(self.path))

    def added(self, fingerprint: str) -> dict[str, Tensor]:
        """What it adds to the U-Net's weights, by name, in float32.

        Raises:
            CheckpointError: as `check`, or it was trained on another U-Net than that with this `fingerprint`.
        """
        checkpoint = read_checkpoint(self.path)
        config, base = _config_of(checkpoint), checkpoint.section("base")
        if base["fingerprint"] != fingerprint:
            raise CheckpointError(
                f"The adapter {self.path} was trained on another U-Net ({base['file']}, fingerprint {base['fingerprint']}) than"
                f" the one that is used (fingerprint {fingerprint}): use that one, or an adapter for this one."
            )
        factor, added = self.scale * config.scale, {}
        for name in (name.removesuffix(DOWN) for name in checkpoint.tensors if name.endswith(DOWN)):
            up, down = (checkpoint.tensors[f"{name}{end}"].float() for end in (UP, DOWN))
            fits = up.shape[1:] == down.shape[:1] == (config.rank,)
            if not fits or not (up.isfinite().all() and down.isfinite().all()):
                raise CheckpointError(f"{self.path} is damaged: {name} is unusable; fetch or train it again.")
            added[f"{name.removeprefix(PREFIX)}.weight"] = factor * (up @ down)
        return added


def _config_of(checkpoint: Checkpoint) -> AdapterConfig:
    """CheckpointError if the file is no adapter of this project."""
    if checkpoint.metadata.get("kind") != KIND:
        raise CheckpointError(
            f"{checkpoint.path} is no adapter of this project: give a file that a training with adapter.rank has written."
        )
    try:
        config = AdapterConfig(**checkpoint.section("model"))
    except TypeError as error:
        raise CheckpointError(
            f"{checkpoint.path} has settings that this version does not know ({error}): update the project."
        ) from error
    names = adapter_names(checkpoint.tensors)
    stems = {name.removesuffix(end) for name in names for end in (DOWN, UP) if name.endswith(end)}
    if not names or len(names) != len(checkpoint.tensors) or len(names) != 2 * len(stems):
        raise CheckpointError(f"{checkpoint.path} holds an incomplete adapter: it is damaged, fetch or train it again.")
    return config


def with_adapters(unet: UNet3DConditionModel, adapters: Sequence[Adapter], fingerprint: str) -> UNet3DConditionModel:
    """A U-Net whose weights contain the adapters, each times its scale; other weights share the memory of `unet`.

    Adapters with a scale of 0 are checked and change no bit.

    Raises:
        CheckpointError: a file is missing, damaged, no adapter, or was trained on another U-Net than that with this `fingerprint`.
    """
    own = unet.state_dict()
    sums: dict[str, Tensor] = {}
    for adapter in adapters:
        for name, added in adapter.added(fingerprint).items():
            if name not in own or own[name].shape != added.shape:
                raise CheckpointError(f"{adapter.path} is damaged: {name} has no layer of its shape in the U-Net.")
            if adapter.scale:
                sums[name] = sums[name] + added if name in sums else added
    with torch.device("meta"):
        merged = UNet3DConditionModel(unet.config)
    merged.load_state_dict({**own, **_merged(own, sums)}, assign=True)
    return merged.eval().requires_grad_(False)


def _merged(own: Mapping[str, Tensor], sums: Mapping[str, Tensor]) -> dict[str, Any]:
    """Weights plus what is added to them: summed in float32, rounded once to the weights' own type."""
    return {name: (own[name].float() + added.to(own[name].device)).to(own[name].dtype) for name, added in sums.items()}


def check_adapters(adapters: Iterable[tuple[Path, float]]) -> None:
    """CheckpointError for a file that is missing, damaged or no adapter; whether it fits a U-Net needs that one's weights.

    `adapters`: files, and the factors by which they act.
    """
    for path, scale in adapters:
        Adapter(path, scale).check()
