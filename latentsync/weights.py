"""Every checkpoint on disk: reading, strict loading and saving. What a file means for a model is decided by the models.

Files the project writes are safetensors with their metadata (kind, model configuration, step, scores) as JSON in the header.
Files of others are read with `weights_only`, so that no code can hide in them.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

METADATA_KEY = "latentsync"  # entry of the safetensors header that holds our JSON
CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
DEMO = CHECKPOINTS / "demo"
PUBLIC_UNET = CHECKPOINTS / "latentsync_unet.pt"
PUBLIC_VAE = "stabilityai/sd-vae-ft-mse"  # hub repository
FETCH_INFERENCE = "python -m scripts.download_checkpoints inference"
LISTED_KEYS = 5  # how many keys an error names


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, the reason and the way out."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and what the file says about itself."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, Any]:
        """A section of the metadata, such as the model configuration."""
        if name not in self.metadata:
            raise CheckpointError(
                f"{self.path} does not carry its {name}: it was not written by this project's trainers."
            )
        return self.metadata[name]


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read `.safetensors`, or a `.pt` that holds a state dict bare or under `state_dict`/`model_state_dict`."""
    path = Path(path)
    _check_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    stored = read_state(path)
    tensors = stored.get("state_dict", stored.get("model_state_dict", stored))
    metadata = {key: value for key, value in stored.items() if not isinstance(value, Tensor) and value is not tensors}
    return Checkpoint(path, {key: value for key, value in tensors.items() if isinstance(value, Tensor)}, metadata)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"Checkpoint {path} does not exist; see README, section 'Checkpoints', for where to get it."
        )
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: fetch the file itself (git lfs pull).")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(f"{path} is a web page, not the weights: the download went wrong, fetch it again.")


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): it is truncated or damaged, fetch it again."
        ) from error
    return Checkpoint(path, tensors, json.loads(header.get(METADATA_KEY, "{}")))


def save_checkpoint(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write safetensors with metadata; the file appears complete (by rename) or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    save_file(plain, partial, {METADATA_KEY: json.dumps(metadata)})
    os.replace(partial, path)


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], origin: Path | str) -> None:
    """Copy tensors into a module; CheckpointError lists the first missing, extra and misshapen keys, and nothing is loaded."""
    own = module.state_dict()
    problems = {
        "missing": [key for key in own if key not in tensors],
        "unknown": [key for key in tensors if key not in own],
        "of another shape": [key for key in own if key in tensors and own[key].shape != tensors[key].shape],
    }
    found = [f"{len(keys)} {kind} ({', '.join(keys[:LISTED_KEYS])})" for kind, keys in problems.items() if keys]
    if found:
        raise CheckpointError(
            f"{origin} does not fit this model: {'; '.join(found)} keys. It belongs to another version or configuration."
        )
    module.load_state_dict(tensors)


def load_partly(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copy the tensors that fit by name and shape; returns the module's keys that kept their own values."""
    own = module.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape}
    module.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


def save_state(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write a training state (tensors and plain values); the file appears by rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(dict(state), partial)
    os.replace(partial, path)


def read_state(path: Path | str) -> dict[str, Any]:
    """Read a training state or another `.pt`/`.pth` file of tensors and plain values, on the CPU."""
    _check_file(Path(path))
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or a foreign file
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path} cannot be read ({reason}): damaged, truncated, or not a file of weights."
        ) from error


def load_public_vae(folder: Path | str) -> Any:
    """The public models' auto-encoder (diffusers' `AutoencoderKL`) from `folder`, else from the hub's cache; no network.

    Raises:
        CheckpointError: neither place holds it, or its files are damaged.
    """
    from diffusers import AutoencoderKL  # slow to import, and needed by public checkpoints only

    folder = Path(folder)
    origin = str(folder) if (folder / "config.json").is_file() else PUBLIC_VAE
    try:
        return AutoencoderKL.from_pretrained(origin, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        state = "is damaged" if origin == str(folder) else f"is neither in {folder} nor in the hub's cache"
        raise CheckpointError(f"The auto-encoder {PUBLIC_VAE} {state}: fetch it with `{FETCH_INFERENCE}`.") from error
