"""The U-Net from a checkpoint: ours carry their configuration, the public `.pt` files need one."""

from pathlib import Path
from typing import Any

from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.unet_config import UNetConfig
from latentsync.models.unet_v10 import rename_v10_keys
from latentsync.weights import CheckpointError, load_strict, read_checkpoint


def load_unet(path: Path | str, config: UNetConfig | None = None) -> tuple[UNet3DConditionModel, dict[str, Any]]:
    """Build and load a U-Net, frozen, in evaluation mode, on the CPU; and the checkpoint's metadata.

    The metadata of a file that this project wrote holds `model`, which a given `config` must equal, `resolution` in
    pixels, `num_frames` and, where the file recommends settings, `inference`. A public file has none of these and is
    built by `config`; the names of release 1.0 are accepted.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or shape, contradicts `config`, or is a public
            one without a `config`.
    """
    checkpoint = read_checkpoint(path)
    metadata = checkpoint.metadata
    if metadata.get("kind", "unet") != "unet":
        raise CheckpointError(f"{path} holds a {metadata['kind']}, not a U-Net: give the U-Net's checkpoint.")
    stored = UNetConfig.from_dict(metadata["model"]) if "model" in metadata else config
    if stored is None:
        raise CheckpointError(f"{path} does not say how its U-Net is built: give its configuration file as well.")
    if config is not None and config != stored:
        raise CheckpointError(f"{path} carries another configuration than the one given: leave the given one out.")
    unet = UNet3DConditionModel(stored)
    load_strict(unet, rename_v10_keys(checkpoint.tensors), path)
    return unet.eval().requires_grad_(False), metadata
