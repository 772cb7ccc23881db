"""Loading tensors into a network: strictly, with an error that lists differences and their likely cause, or partly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.weights.table import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn  # slow to import, and not needed to tell what is missing

LISTED = 3  # keys or settings listed in an error
COUNTER = "num_batches_tracked"  # of batch norm; files written before PyTorch 0.4.1 lack it, and it is not used

# a key, or its ending, that only this kind of network has
NETWORK_OF_KEY = {
    "model.diffusion_model.input_blocks.0.0.weight": "a whole Stable Diffusion model",
    "time_embedding.linear_1.weight": "a diffusion U-Net",
    "audio_encoder.conv_in.weight": "a sync network (StableSyncNet)",
    "quant_conv.weight": "an image auto-encoder",
    "decoder.token_embedding.weight": "a Whisper speech model",
    "netcnnaud.0.weight": "a SyncNet v2",
    "patch_embed.proj.weight": "a video transformer",
    "res.conv1.weight": "an image-quality network (HyperIQA)",
    "features.0.weight": "a VGG image network",
    ".lora_A.weight": "a LoRA adapter",
    ".lora_down.weight": "a LoRA adapter",
}


@dataclass(frozen=True)
class Mismatch:
    """Differences between tensors and a network's state dict."""

    missing: list[str]
    unknown: list[str]
    reshaped: list[str]  # "key (3x4 instead of 3x5)"
    retyped: list[str]  # "key (int8 instead of float32)"
    shared: int  # number of common keys

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.reshaped or self.retyped)

    def __str__(self) -> str:
        problems = {
            "missing": self.missing,
            "unknown": self.unknown,
            "of another shape": self.reshaped,
            "of another type": self.retyped,
        }
        return "; ".join(f"{len(keys)} keys {kind}: {_first(keys)}" for kind, keys in problems.items() if keys)


def compare(own: Mapping[str, "Tensor"], tensors: Mapping[str, "Tensor"]) -> Mismatch:
    """Compare keys, shapes and types of `tensors` with those of a network's state dict `own`."""
    both = [key for key in own if key in tensors]
    return Mismatch(
        missing=[key for key in own if key not in tensors and not key.endswith(COUNTER)],
        unknown=[key for key in tensors if key not in own],
        reshaped=[
            f"{key} ({_size(tensors[key])} instead of {_size(own[key])})"
            for key in both
            if own[key].shape != tensors[key].shape
        ],
        retyped=[
            f"{key} ({_type(tensors[key])} instead of {_type(own[key])})"
            for key in both
            if own[key].is_floating_point() != tensors[key].is_floating_point()
        ],
        shared=len(both),
    )


def load_strict(module: "nn.Module", tensors: Mapping[str, "Tensor"], origin: Path | str) -> None:
    """Copy tensors into a module; one on the meta device is moved to the CPU.

    Raises:
        CheckpointError: keys, shapes or types differ (the first are listed, with the likely cause) or a value is not
            finite; then nothing is loaded.
    """
    import torch

    own = module.state_dict()
    mismatch = compare(own, tensors)
    if mismatch:
        raise CheckpointError(
            f"{origin} does not fit {type(module).__name__}. {likely_cause(mismatch, own, tensors)} ({mismatch})"
        )
    whole = {key: tensors[key] if key in tensors else torch.zeros(own[key].shape, dtype=torch.long) for key in own}
    is_empty = any(value.is_meta for value in own.values())
    if is_empty:  # copied before values are checked: large files are memory-mapped and should be read once
        whole = {key: value.to(own[key].dtype, copy=True).contiguous() for key, value in whole.items()}
    _check_numbers(whole, origin)
    module.load_state_dict(whole, assign=is_empty)


def _check_numbers(tensors: Mapping[str, "Tensor"], origin: Path | str) -> None:
    for key, value in tensors.items():
        if value.is_floating_point() and value.numel() and not _is_finite(value):
            raise CheckpointError(
                f"{origin} is unusable: {key} holds values that are not finite; the file is damaged or its training"
                " diverged. Use an earlier one or download it again."
            )


def _is_finite(value: "Tensor") -> bool:
    import torch

    wide = value if value.element_size() > 1 else value.float()
    return bool(torch.stack(torch.aminmax(wide)).isfinite().all())


def likely_cause(mismatch: Mismatch, own: Mapping[str, "Tensor"], tensors: Mapping[str, "Tensor"]) -> str:
    """A sentence for users on why `tensors` differ from the network's state dict `own`."""
    prefix = _wrapper(own, tensors)
    if prefix:
        return f"Every name begins with '{prefix}': it was saved from a wrapper; save the wrapped network."
    if not mismatch.shared:
        network = network_of(tensors)
        return (
            f"It holds {network}: check the path." if network else "It holds another kind of network: check the path."
        )
    if mismatch.retyped:
        return "It is quantised: use the floating-point version."
    if mismatch.unknown and mismatch.missing:
        return "It belongs to another version, whose parts have other names, or to another configuration."
    if mismatch.missing:
        return "It is incomplete, or of a smaller configuration or an older version."
    if mismatch.unknown:
        return "It is of a larger configuration or a newer version."
    return "It was trained with another configuration, such as other widths or channels."


def network_of(tensors: Mapping[str, Any]) -> str | None:
    """A description of the kind of network that the keys belong to; None if it is unknown."""
    for end, network in NETWORK_OF_KEY.items():
        if any(key.endswith(end) if end.startswith(".") else key == end for key in tensors):
            return network
    return None


def load_partly(module: "nn.Module", tensors: Mapping[str, "Tensor"]) -> list[str]:
    """Copy the tensors that fit by name and shape; returns the module's keys that were not loaded."""
    own = module.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape}
    module.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


def check_agreement(stored: Mapping[str, Any], wanted: Mapping[str, Any], origin: Path | str) -> None:
    """Raise CheckpointError with the first settings that both sides have and that differ; sections are compared by entry."""
    differing = differences(stored, wanted)
    if differing:
        listed = _first([f"{name} {_plain(mine)}, not {_plain(other)}" for name, mine, other in differing])
        raise CheckpointError(
            f"{origin} was trained with another configuration than the one given: {listed}. Omit the configuration,"
            " or give the one that belongs to it."
        )


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, stored, wanted) of every setting that both sides have and that differs."""
    found: list[tuple[str, Any, Any]] = []
    for name in wanted:
        if name not in stored:
            continue
        mine, other = stored[name], wanted[name]
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += differences(mine, other, f"{prefix}{name}.")
        elif _plain(mine) != _plain(other):
            found.append((prefix + name, mine, other))
    return found


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _wrapper(own: Mapping[str, "Tensor"], tensors: Mapping[str, "Tensor"]) -> str | None:
    """The prefix whose removal turns all keys into those of the network; None if there is none."""
    first = next(iter(tensors), "")
    for end in [at + 1 for at, letter in enumerate(first) if letter == "."]:
        prefix = first[:end]
        if all(key.startswith(prefix) for key in tensors) and first.removeprefix(prefix) in own and first not in own:
            return prefix
    return None


def _first(entries: Sequence[str]) -> str:
    return ", ".join(entries[:LISTED]) + (", ..." if len(entries) > LISTED else "")


def _size(tensor: "Tensor") -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _type(tensor: "Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")
