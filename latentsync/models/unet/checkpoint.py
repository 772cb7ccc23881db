"""The U-Net from a checkpoint: ours carry their configuration, that of the public files follows from names and shapes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.unet.shapes import config_from_shapes, is_unet
from latentsync.weights import (
    ALIGNMENTS,
    DEFAULT_ALIGNMENT,
    Alignment,
    Checkpoint,
    CheckpointError,
    check_agreement,
    load_strict,
    network_of,
    read_checkpoint,
    read_header,
    release_of,
)
from latentsync.weights.table import PUBLIC_FILES

# Names of the first public U-Net checkpoint (release 1.0): its audio cross-attention was called differently.
T = TypeVar("T")

RENAMED_PARTS = (
    (re.compile(r"\.audio_cross_attn\.norm\."), ".norm2."),
    (re.compile(r"\.audio_cross_attn\.attn\."), ".attn2."),
)


def is_v10(keys: Iterable[str]) -> bool:
    """Whether these are the names of release 1.0."""
    return any(pattern.search(key) for key in keys for pattern, _ in RENAMED_PARTS)


def rename_v10_keys(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Give the entries of a release 1.0 state dict the names of later releases; values are untouched."""
    renamed = {}
    for key, value in state_dict.items():
        for pattern, name in RENAMED_PARTS:
            key = pattern.sub(name, key)
        renamed[key] = value
    return renamed


PUBLIC_NUM_FRAMES = 16
V10 = next(file for file in PUBLIC_FILES if file.release == "1.0" and file.resolution)  # the U-Net of that release
DAMAGED = "it is incomplete or damaged, fetch it again"


def load_unet(
    path: Path | str, config: UNetConfig | None = None, expected: Mapping[str, Any] | None = None
) -> tuple[UNet3DConditionModel, dict[str, Any]]:
    """Build and load a U-Net, frozen, in evaluation mode, on the CPU; and what is known about the checkpoint.

    That is `model`, `alignment` and, where known, `resolution` in pixels, `num_frames`, and what else a file of this project
    carries. For a public file that was fetched with the project's command it follows from names, shapes and the table of
    releases; release 1.0 is known by its names, wherever it came from. One of unknown origin needs a `config` or, in
    `expected`, a `resolution`.

    Args:
        path: the file.
        config: how the U-Net must be built.
        expected: entries that the checkpoint must not contradict, such as `resolution`, `mask`, `alignment` and `audio`.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or shape, contradicts `config` or `expected`, or
            is a public one whose resolution nobody knows.
    """
    checkpoint = read_checkpoint(path)
    stored, metadata = _facts(checkpoint, config, expected or {})
    tensors = rename_v10_keys(checkpoint.tensors)
    with torch.device("meta"):  # neither initialised nor stored twice
        unet = UNet3DConditionModel(stored)
    load_strict(unet, tensors, path)
    return unet.eval().requires_grad_(False), metadata


def read_unet_facts(
    path: Path | str, config: UNetConfig | None = None, expected: Mapping[str, Any] | None = None
) -> tuple[UNetConfig, dict[str, Any]]:
    """What `load_unet` would say of a file, without reading its numbers: its configuration and what is known about it.

    Raises CheckpointError as `load_unet` does, as far as it shows without the numbers.
    """
    return _facts(read_header(path), config, expected or {})


def alignment_of(checkpoint: Checkpoint) -> Alignment:
    """By which points the faces of a U-Net's training were aligned: what the file says, or what its release did."""
    if "alignment" in checkpoint.metadata:
        return checkpoint.metadata["alignment"]
    released = release_of(checkpoint.path)
    if released or is_v10(checkpoint.tensors):
        return (released or V10).alignment
    return DEFAULT_ALIGNMENT


def _facts(
    checkpoint: Checkpoint, config: UNetConfig | None, expected: Mapping[str, Any]
) -> tuple[UNetConfig, dict[str, Any]]:
    """Configuration and metadata, which agree with what is asked for."""
    path = checkpoint.path
    checkpoint.require_kind("unet")
    stored, metadata = _own(checkpoint) if "model" in checkpoint.metadata else _public(checkpoint, config, expected)
    if config is not None:
        check_agreement(stored.to_dict(), _comparable(config, stored).to_dict(), path)
    check_agreement(metadata, expected, path)
    if metadata["alignment"] not in ALIGNMENTS:
        raise CheckpointError(
            f"{path} was trained with the alignment {metadata['alignment']!r}, which this version does not know: update the"
            " project."
        )
    if "resolution" not in metadata and config is None and "resolution" not in expected:
        raise CheckpointError(
            f"{path} does not say at which resolution it works: give its configuration file as well"
            " (--unet_config_path configs/unet/stage2.yaml for release 1.5, configs/unet/stage2_512.yaml for release 1.6)."
        )
    return stored, metadata


def _own(checkpoint: Checkpoint) -> tuple[UNetConfig, dict[str, Any]]:
    try:
        stored = UNetConfig.from_dict(checkpoint.metadata["model"])
        return stored, {**checkpoint.metadata, "alignment": alignment_of(checkpoint)}
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path} carries a configuration that this version cannot build ({error}): update the project."
        ) from error


def _public(
    checkpoint: Checkpoint, config: UNetConfig | None, expected: Mapping[str, Any]
) -> tuple[UNetConfig, dict[str, Any]]:
    """Configuration and metadata of a file that others wrote; what nothing tells is as `expected`."""
    path, tensors = checkpoint.path, rename_v10_keys(checkpoint.tensors)
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
    return stored, {
        **checkpoint.metadata,
        "kind": "unet",
        "model": stored.to_dict(),
        **_release_facts(checkpoint, expected),
    }


def _release_facts(checkpoint: Checkpoint, expected: Mapping[str, Any]) -> dict[str, Any]:
    """What a file's release says of it. By its names alone a file may also be a further training of release 1.0, at another
    size; where even they say nothing, it is as `expected`."""
    fetched, first = release_of(checkpoint.path), is_v10(checkpoint.tensors)
    alignment = alignment_of(checkpoint) if fetched or first else expected.get("alignment", DEFAULT_ALIGNMENT)
    if not (fetched or first):
        return {"alignment": alignment}
    released = fetched or V10
    size = {"resolution": released.resolution, "num_frames": PUBLIC_NUM_FRAMES}
    asked = {} if fetched else {name: expected[name] for name in size if name in expected}
    return {"release": released.release, "alignment": alignment, **size, **asked}


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
