"""The U-Net from a checkpoint: ours carry their configuration, that of the public files follows from names and shapes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.unet_config import UNetConfig
from latentsync.models.unet_shapes import config_from_shapes, is_unet
from latentsync.models.unet_v10 import rename_v10_keys
from latentsync.weights import (
    Checkpoint,
    CheckpointError,
    check_agreement,
    load_strict,
    network_of,
    read_checkpoint,
    release_of,
)

PUBLIC_NUM_FRAMES = 16
DAMAGED = "it is incomplete or damaged, fetch it again"


def load_unet(
    path: Path | str, config: UNetConfig | None = None, expected: Mapping[str, Any] | None = None
) -> tuple[UNet3DConditionModel, dict[str, Any]]:
    """Build and load a U-Net, frozen, in evaluation mode, on the CPU; and what is known about the checkpoint.

    That is, where known: `model`, `resolution` in pixels, `num_frames`, and what else a file of this project carries.
    For a public file that was fetched with the project's command it follows from names, shapes and the table of releases;
    one of unknown origin needs a `config` or, in `expected`, a `resolution`. Release 1.0's names are accepted.

    Args:
        path: the file.
        config: how the U-Net must be built.
        expected: entries that the checkpoint must not contradict, such as `resolution`, `mask` and `audio`.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or shape, contradicts `config` or `expected`, or
            is a public one whose resolution nobody knows.
    """
    checkpoint = read_checkpoint(path)
    checkpoint.require_kind("unet")
    tensors = rename_v10_keys(checkpoint.tensors)
    stored, metadata = _own(checkpoint) if "model" in checkpoint.metadata else _public(checkpoint, tensors, config)
    if config is not None:
        check_agreement(stored.to_dict(), _comparable(config, stored).to_dict(), path)
    check_agreement(metadata, expected or {}, path)
    if "resolution" not in metadata and config is None and "resolution" not in (expected or {}):
        raise CheckpointError(
            f"{path} does not say at which resolution it works: give its configuration file as well"
            " (configs/unet/stage2.yaml for release 1.5, configs/unet/stage2_512.yaml for release 1.6)."
        )
    with torch.device("meta"):  # neither initialised nor stored twice
        unet = UNet3DConditionModel(stored)
    load_strict(unet, tensors, path)
    return unet.eval().requires_grad_(False), metadata


def _own(checkpoint: Checkpoint) -> tuple[UNetConfig, dict[str, Any]]:
    try:
        return UNetConfig.from_dict(checkpoint.metadata["model"]), checkpoint.metadata
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path} carries a configuration that this version cannot build ({error}): update the project."
        ) from error


def _public(
    checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor], config: UNetConfig | None
) -> tuple[UNetConfig, dict[str, Any]]:
    """Configuration and metadata of a file that others wrote."""
    path = checkpoint.path
    if not is_unet(tensors):
        held = network_of(tensors)
        raise CheckpointError(
            f"{path} holds {held or 'another kind of network'}, not the weights of a U-Net as they are: check the path."
        )
    try:
        stored = config_from_shapes({key: tuple(value.shape) for key, value in tensors.items()}, config)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not built like the public models ({error}), and shapes do not tell how: give its configuration file."
        ) from error
    except (LookupError, StopIteration) as error:
        raise CheckpointError(f"{path} holds no whole U-Net ({error} is missing): {DAMAGED}.") from error
    facts: dict[str, Any] = {"kind": "unet", "model": stored.to_dict()}
    released = release_of(path)
    if released:
        facts |= {"release": released.release, "resolution": released.resolution, "num_frames": PUBLIC_NUM_FRAMES}
    return stored, {**checkpoint.metadata, **facts}


def _comparable(config: UNetConfig, stored: UNetConfig) -> UNetConfig:
    """`config` without what it cannot contradict: settings of parts that neither side has, lengths of constant tables."""
    if not config.use_motion_module and not stored.use_motion_module:
        same = ("motion_module_resolutions", "motion_module_mid_block", "motion_module_decoder_only")
        config = replace(config, **{name: getattr(stored, name) for name in same})
        return replace(config, motion_module_kwargs=stored.motion_module_kwargs)
    length = stored.motion_module_kwargs.temporal_position_encoding_max_len
    kwargs = replace(config.motion_module_kwargs, temporal_position_encoding_max_len=length)
    levels = [2**level for level in range(len(config.block_out_channels))]
    used = [level for level in config.motion_module_resolutions if level in levels]
    return replace(config, motion_module_kwargs=kwargs, motion_module_resolutions=used)
