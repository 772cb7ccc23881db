"""Loading a U-Net: our checkpoints store the configuration; for public files it is derived from names and shapes."""

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

T = TypeVar("T")

# release 1.0 has other names for the audio cross-attention
RENAMED_PARTS = (
    (re.compile(r"\.audio_cross_attn\.norm\."), ".norm2."),
    (re.compile(r"\.audio_cross_attn\.attn\."), ".attn2."),
)


def is_v10(keys: Iterable[str]) -> bool:
    """Whether these parameter names are those of release 1.0."""
    return any(pattern.search(key) for key in keys for pattern, _ in RENAMED_PARTS)


def rename_v10_keys(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the entries of a release 1.0 state dict to those of later releases."""
    renamed = {}
    for key, value in state_dict.items():
        for pattern, name in RENAMED_PARTS:
            key = pattern.sub(name, key)
        renamed[key] = value
    return renamed


PUBLIC_NUM_FRAMES = 16
V10 = next(file for file in PUBLIC_FILES if file.release == "1.0" and file.resolution)  # the U-Net of release 1.0
DAMAGED = "it is incomplete or damaged, fetch it again"


def load_unet(
    path: Path | str, config: UNetConfig | None = None, expected: Mapping[str, Any] | None = None
) -> tuple[UNet3DConditionModel, dict[str, Any]]:
    """Build and load a U-Net, frozen, in evaluation mode, on the CPU; returns it with its metadata.

    The metadata are `model`, `alignment`, if known `resolution` in pixels and `num_frames`, and all other entries that a file of
    this project stores. For a public file fetched with the project's command they follow from names, shapes and the table of
    releases; release 1.0 is recognised by its parameter names. A file of unknown origin needs a `config` or, in `expected`, a
    `resolution`.

    Args:
        path: the file.
        config: the configuration that the file must have.
        expected: metadata that the checkpoint must not contradict, such as `resolution`, `mask`, `alignment` and `audio`.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or shape, contradicts `config` or `expected`, or
            its resolution is unknown.
    """
    checkpoint = read_checkpoint(path)
    stored, metadata = _facts(checkpoint, config, expected or {})
    tensors = rename_v10_keys(checkpoint.tensors)
    with torch.device("meta"):  # no initialisation, and no second copy in memory
        unet = UNet3DConditionModel(stored)
    load_strict(unet, tensors, path)
    return unet.eval().requires_grad_(False), metadata


def read_unet_facts(
    path: Path | str, config: UNetConfig | None = None, expected: Mapping[str, Any] | None = None
) -> tuple[UNetConfig, dict[str, Any]]:
    """The configuration and metadata that `load_unet` would find, from names and shapes alone: no weights are read.

    Raises CheckpointError as `load_unet`, except for damage that only reading the weights reveals.
    """
    return _facts(read_header(path), config, expected or {})


def alignment_of(checkpoint: Checkpoint) -> Alignment:
    """The alignment of the faces that a U-Net was trained on: stored in the file, or that of its release."""
    if "alignment" in checkpoint.metadata:
        return checkpoint.metadata["alignment"]
    released = release_of(checkpoint.path)
    if released or is_v10(checkpoint.tensors):
        return (released or V10).alignment
    return DEFAULT_ALIGNMENT


def resolution_of(checkpoint: Checkpoint) -> int | None:
    """The resolution, px, that a U-Net was trained at: stored in the file, or that of its release; None if unknown."""
    released = release_of(checkpoint.path)
    return checkpoint.metadata.get("resolution", released.resolution if released else None)


def _facts(
    checkpoint: Checkpoint, config: UNetConfig | None, expected: Mapping[str, Any]
) -> tuple[UNetConfig, dict[str, Any]]:
    """Configuration and metadata; CheckpointError if they contradict `config` or `expected`."""
    path = checkpoint.path
    checkpoint.require_kind("unet")
    stored, metadata = _own(checkpoint) if "model" in checkpoint.metadata else _public(checkpoint, config, expected)
    if config is not None:
        mine, wanted = (_comparable(each, stored).to_dict() for each in (stored, config))
        check_agreement(mine, wanted, path)
    check_agreement(metadata, expected, path)
    if metadata["alignment"] not in ALIGNMENTS:
        raise CheckpointError(
            f"{path} was trained with the alignment {metadata['alignment']!r}, which this version does not know: update the"
            " project."
        )
    if "resolution" not in metadata and config is None and "resolution" not in expected:
        raise CheckpointError(
            f"{path} stores no resolution: give its configuration file as well"
            " (--unet_config_path configs/unet/stage2.yaml for release 1.5, configs/unet/stage2_512.yaml for release 1.6)."
        )
    return stored, metadata


def _own(checkpoint: Checkpoint) -> tuple[UNetConfig, dict[str, Any]]:
    try:
        stored = UNetConfig.from_dict(checkpoint.metadata["model"])
        return stored, {**checkpoint.metadata, "alignment": alignment_of(checkpoint)}
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path} has a configuration that this version cannot build ({error}): update the project."
        ) from error


def _public(
    checkpoint: Checkpoint, config: UNetConfig | None, expected: Mapping[str, Any]
) -> tuple[UNetConfig, dict[str, Any]]:
    """Configuration and metadata of a public file; values that cannot be derived are those of `expected`."""
    path, tensors = checkpoint.path, rename_v10_keys(checkpoint.tensors)
    if not is_unet(tensors):
        held = network_of(tensors)
        raise CheckpointError(
            f"{path} holds {held or 'another kind of network'}, not the weights of a U-Net: check the path."
        )
    try:
        stored = config_from_shapes({key: tuple(value.shape) for key, value in tensors.items()}, config)
    except ValueError as error:
        raise CheckpointError(
            f"{path} differs from the public models ({error}), and its shapes do not suffice: give its configuration file."
        ) from error
    except (LookupError, StopIteration) as error:
        raise CheckpointError(f"{path} holds an incomplete U-Net ({error} is missing): {DAMAGED}.") from error
    return stored, {
        **checkpoint.metadata,
        "kind": "unet",
        "model": stored.to_dict(),
        **_release_facts(checkpoint, expected),
    }


def _release_facts(checkpoint: Checkpoint, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata known from a file's release. A file recognised by its names alone may be a finetuned release 1.0 of another size, so
    `expected` has precedence there; for a file of unknown release only the alignment is returned."""
    fetched, first = release_of(checkpoint.path), is_v10(checkpoint.tensors)
    alignment = alignment_of(checkpoint) if fetched or first else expected.get("alignment", DEFAULT_ALIGNMENT)
    if not (fetched or first):
        return {"alignment": alignment}
    released = fetched or V10
    size = {"resolution": released.resolution, "num_frames": PUBLIC_NUM_FRAMES}
    overridden = {} if fetched else {name: expected[name] for name in size if name in expected}
    return {"release": released.release, "alignment": alignment, **size, **overridden}


def _comparable(config: UNetConfig, stored: UNetConfig) -> UNetConfig:
    """`config` with the stored values where a difference has no effect: settings of absent parts, lengths of constant tables."""
    if not config.use_motion_module and not stored.use_motion_module:
        same = ("motion_module_resolutions", "motion_module_mid_block", "motion_module_decoder_only")
        config = replace(config, **{name: getattr(stored, name) for name in same})
        return replace(config, motion_module_kwargs=stored.motion_module_kwargs)
    length = stored.motion_module_kwargs.temporal_position_encoding_max_len
    kwargs = replace(config.motion_module_kwargs, temporal_position_encoding_max_len=length)
    levels = [2**level for level in range(len(config.block_out_channels))]
    used = [level for level in config.motion_module_resolutions if level in levels]
    return replace(config, motion_module_kwargs=kwargs, motion_module_resolutions=used)
