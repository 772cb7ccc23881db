"""Reading and writing checkpoint files; the models interpret their content.

The project writes safetensors with metadata (see `latentsync.weights.metadata`) as JSON in the header. PyTorch files are read
with `weights_only`, so that no code in them can run.
"""

import argparse
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from latentsync.files import atomic_write
from latentsync.weights.damage import check_file, without_remedy
from latentsync.weights.delta import with_base
from latentsync.weights.table import FETCH_INFERENCE, PUBLIC_FILES, PUBLIC_VAE, CheckpointError, how_to_get

if TYPE_CHECKING:
    import torch  # slow to import, and not needed to tell what is missing
    from torch import Tensor

METADATA_KEY = "latentsync"  # entry of the safetensors header that holds our JSON
CONTAINERS = ("state_dict", "model_state_dict", "model", "module")  # entries that may hold the state dict
HARMLESS_CLASSES = (argparse.Namespace,)  # training arguments in some public files
QUICKLY_READ_BYTES = 200_000_000
VAE_CONFIG, VAE_WEIGHTS = "config.json", ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
NAME_OF_KIND = {"unet": "a U-Net", "syncnet": "a sync network", "vae": "an image auto-encoder"}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and the metadata of their file."""

    path: Path
    tensors: dict[str, "Tensor"]
    metadata: dict[str, Any] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, Any]:
        """A section of the metadata, such as the model configuration; CheckpointError if the file lacks it."""
        if name not in self.metadata:
            raise CheckpointError(
                f"{self.path} does not contain its {name}: it was not written by this project's trainers."
            )
        return self.metadata[name]

    def require_kind(self, kind: str) -> None:
        """CheckpointError if the metadata states another kind of network; public files state none."""
        found = self.metadata.get("kind", kind)
        if found != kind:
            names = [NAME_OF_KIND.get(each, repr(each)) for each in (found, kind)]
            raise CheckpointError(f"{self.path} holds the weights of {names[0]}, not of {names[1]}: check the path.")

    @property
    def step(self) -> int | None:
        """Training step at which it was saved; None if the file does not state it."""
        return self.metadata.get("step", self.metadata.get("global_step"))


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read `.safetensors`, or a PyTorch file that holds a state dict bare or under one of `CONTAINERS`.

    Tensors of PyTorch files are memory-mapped, so keys and shapes of a large file are known at once. The
    tensors that a delta omits (see `latentsync.weights.delta`) are read from its base checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, or holds no state dict.
    """
    path = Path(path)
    if check_file(path) == "safetensors":
        return with_base(_read_safetensors(path), read_checkpoint)
    from torch import Tensor

    stored = _load(path, mapped=True)
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, not a state dict: check the path.")
    if "optimizer" in stored and "module" in stored:
        raise CheckpointError(
            f"{path} is the state of a training run, for resuming it: give the file that training wrote at its end."
        )
    inner = next((stored[name] for name in CONTAINERS if isinstance(stored.get(name), Mapping)), stored)
    tensors = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors ({', '.join(map(str, list(stored)[:5]))}): it is not a checkpoint."
        )
    metadata = {key: value for key, value in stored.items() if not isinstance(value, Tensor) and value is not inner}
    return Checkpoint(path, tensors, metadata)


def read_header(path: Path | str) -> Checkpoint:
    """Read names, shapes and types only, with tensors on the meta device: fast for a file of any size.

    Only a file of PyTorch's format before 1.6 is read whole. Raises CheckpointError as `read_checkpoint` does, except for
    errors that need the values.
    """
    path = Path(path)
    if check_file(path) == "safetensors":
        return with_base(_read_safetensors(path, _meta_tensor), read_header)
    checkpoint = read_checkpoint(path)
    return replace(checkpoint, tensors={key: value.to("meta") for key, value in checkpoint.tensors.items()})


def _stored_tensor(file: Any, key: str) -> "Tensor":
    """A tensor of an open safetensors file."""
    return file.get_tensor(key)


def _meta_tensor(file: Any, key: str) -> "Tensor":
    """The tensor on the meta device."""
    import torch

    stored = file.get_slice(key)
    shape = stored.get_shape()
    return torch.empty(shape, dtype=stored[tuple(slice(0, 0) for _ in shape)].dtype, device="meta")


def _read_safetensors(path: Path, tensor: Callable[[Any, str], "Tensor"] = _stored_tensor) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: tensor(file, key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        return Checkpoint(path, tensors, json.loads(header.get(METADATA_KEY, "{}")))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): it is damaged; {how_to_get(path)}.") from error


def save_checkpoint(path: Path | str, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, Any]) -> None:
    """Write safetensors with metadata, atomically."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        write_tensors(partial, tensors, {METADATA_KEY: json.dumps(metadata)})


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], header: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions of any new file; the library makes it readable for its owner alone."""
    from safetensors.torch import save_file

    path.touch()
    permissions = path.stat().st_mode
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path, header)
    path.chmod(permissions)


def save_state(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write a training state (tensors and plain values), atomically."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    import torch

    with atomic_write(path) as partial:
        torch.save(dict(state), partial)


def read_state(path: Path | str) -> dict[str, Any]:
    """Read a training state or another `.pt`/`.pth` file of tensors and plain values, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, or holds other objects.
    """
    path = Path(path)
    if check_file(path) == "safetensors":
        return dict(_read_safetensors(path).tensors)
    return _load(path, mapped=False)


def _load(path: Path, mapped: bool) -> Any:
    file_format = check_file(path)
    if file_format == "torchscript":
        raise CheckpointError(f"{path} is a TorchScript program, not a state dict: check the path.")
    import torch

    torch.serialization.add_safe_globals(list(HARMLESS_CLASSES))
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and file_format == "zip")
    except Exception as error:  # torch raises many classes for damaged and unsupported files
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in text or "Unsupported class" in text):
        return CheckpointError(
            f"{path} holds Python objects besides tensors, which could run code, so it was not loaded: use a version with"
            " a state dict only, preferably safetensors."
        )
    reason = text.split("\n")[0][:120] or type(error).__name__
    return CheckpointError(f"{path} cannot be read ({reason}): it is damaged or truncated; {how_to_get(path)}.")


def load_torchscript(path: Path | str) -> "torch.jit.ScriptModule":
    """Load a TorchScript network on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, damaged, or not a TorchScript program.
    """
    path = Path(path)
    if check_file(path) != "torchscript":
        raise CheckpointError(
            f"{path} holds weights, not the TorchScript program that is expected: {how_to_get(path)}."
        )
    import torch

    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise _unreadable(path, error) from error


def file_problem(path: Path | str) -> str:
    """The problem of a checkpoint file, as a sentence without full stop; empty if none is found without reading tensors.

    Only small files of PyTorch's format before 1.6, which does not state its length, are read.
    """
    try:
        if check_file(path) == "pickle" and Path(path).stat().st_size <= QUICKLY_READ_BYTES:
            _load(Path(path), mapped=False)
    except CheckpointError as error:
        return without_remedy(error, path)
    return ""


def public_vae_problem(folder: Path | str) -> str:
    """Why `read_public_vae` would fail, as a sentence without full stop; empty if it would not."""
    from latentsync.weights.hub import cached_path  # imports huggingface_hub, which loading does not need

    folder = Path(folder)
    if not (folder / VAE_CONFIG).is_file():
        cached = [cached_path(file) for file in PUBLIC_FILES if file.repo == PUBLIC_VAE]
        return "" if all(cached) else f"{PUBLIC_VAE} is neither in {folder} nor in the hub's cache"
    try:
        json.loads((folder / VAE_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{folder / VAE_CONFIG} is not JSON: it is damaged"
    found = next((folder / name for name in VAE_WEIGHTS if (folder / name).exists()), folder / VAE_WEIGHTS[0])
    return file_problem(found)


def read_public_vae(folder: Path | str) -> Checkpoint:
    """The public models' auto-encoder in diffusers' format, from `folder`, else from the hub's cache, offline.

    Its configuration is the metadata's section `model`. Raises CheckpointError if neither place holds it, or its files are damaged.
    """
    config, weights = public_vae_files(Path(folder))
    try:
        model = json.loads(config.read_text(encoding="utf-8"))
        return Checkpoint(weights, read_checkpoint(weights).tensors, {"model": model})
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The auto-encoder {PUBLIC_VAE} is damaged: fetch it with `{FETCH_INFERENCE}`."
        ) from error


def public_vae_files(folder: Path) -> tuple[Path, Path]:
    """Configuration and weights of the public models' auto-encoder; CheckpointError if there are none."""
    from latentsync.weights.hub import cached_path  # as above

    if (folder / VAE_CONFIG).is_file():
        found = [folder / VAE_CONFIG, *(folder / name for name in VAE_WEIGHTS)]
    else:
        cached = {file.name: cached_path(file) for file in PUBLIC_FILES if file.repo == PUBLIC_VAE}
        found = [path for name in (VAE_CONFIG, *VAE_WEIGHTS) if (path := cached.get(name))]
    there = [path for path in found if path.is_file()]
    if len(there) < 2:
        raise CheckpointError(
            f"The auto-encoder {PUBLIC_VAE} is neither in {folder} nor in the hub's cache: fetch it with `{FETCH_INFERENCE}`."
        )
    return there[0], there[1]
