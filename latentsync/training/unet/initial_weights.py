"""The U-Net that a training starts from: its own or released weights, whole, in part, or with an adapter; and the teacher's."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.config import UNetRun
from latentsync.models.unet.adapter import add_adapter, base_fingerprint
from latentsync.models.unet.checkpoint import alignment_of, load_unet, rename_v10_keys, resolution_of
from latentsync.models.unet.network import UNet3DConditionModel, initialise_for_training
from latentsync.training.unet.step import choose_trainable
from latentsync.weights import Checkpoint, load_partly, read_checkpoint

log = logging.getLogger(__name__)
MILLION = 1e6


def build_unet(run: UNetRun) -> UNet3DConditionModel:
    """The network with the run's initial weights; tensors that are missing in `init_from`, or unused, are logged.

    Raises:
        CheckpointError: `init_from` cannot be read or holds another kind of network, or, for an adapter, does not fit the run.
        ValueError: `init_from` was trained at a higher resolution or has no tensor that fits, or `trainable_modules` matches no
            parameter or is set without `init_from`.
    """
    torch.manual_seed(run.train.seed)
    if run.adapter.rank:
        unet, _ = load_whole(run, run.init_from)
        add_adapter(unet, run.adapter)
        unet.enable_gradient_checkpointing(run.gradient_checkpointing)
        return unet
    unet = UNet3DConditionModel(run.net)
    initialise_for_training(unet)
    if run.trainable_modules and not run.init_from:
        raise ValueError(
            "trainable_modules freezes the other weights, but they are random: set init_from to a checkpoint of the first stage"
            " or of a release."
        )
    if run.init_from:
        checkpoint = read_checkpoint(run.init_from)
        checkpoint.require_kind("unet")
        check_resolution(checkpoint, run.data.resolution)
        tensors = rename_v10_keys(checkpoint.tensors)
        log.info(loading_report(run.init_from, tensors, load_partly(unet, tensors), unet))
        if alignment_of(checkpoint) != run.data.aligned_by:
            log.warning(
                f"{run.init_from} was trained with the alignment {alignment_of(checkpoint)}, but this run's clips have"
                f" {run.data.aligned_by}: the network has to adapt to it; correct data.alignment if it is not the clips' own."
            )
    choose_trainable(unet, run.trainable_modules)
    unet.enable_gradient_checkpointing(run.gradient_checkpointing)
    return unet


def check_resolution(checkpoint: Checkpoint, resolution: int) -> None:
    """Refuse weights of a higher resolution than the run's; a lower or an unknown one is logged.

    Raises:
        ValueError: a smaller face would be all new to the network.
    """
    trained = resolution_of(checkpoint)
    if trained is None:
        log.info(
            f"{checkpoint.path} does not say at which resolution it was trained; this run trains at {resolution} px"
            " (of the releases, 1.6 has 512, the earlier ones 256)."
        )
    elif trained > resolution:
        raise ValueError(
            f"init_from: {checkpoint.path} was trained at {trained} px, but data.resolution is {resolution}: use a"
            f" configuration for {trained} px, such as configs/unet/stage2_512.yaml, or weights of {resolution} px (release"
            " 1.5: python -m scripts.download_checkpoints training --release 1.5)."
        )
    elif trained < resolution:
        log.info(f"{checkpoint.path} was trained at {trained} px and is trained further at {resolution} px.")


def loading_report(origin: str, tensors: Mapping[str, Tensor], left_out: list[str], unet: nn.Module) -> str:
    """A log message on which tensors of a checkpoint were loaded; ValueError if none was."""
    own = unet.state_dict()
    unused = [name for name in tensors if name not in own or name in left_out]
    loaded = len(own) - len(left_out)
    if not loaded:
        raise ValueError(f"{origin} contains no tensor of this U-Net: check init_from.")
    text = f"started from {origin}: {loaded} of {len(own)} tensors loaded"
    if left_out:
        text += f"; {len(left_out)} newly initialised ({', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''})"
    if unused:
        size = sum(tensors[name].numel() for name in unused) / MILLION
        text += f"; {len(unused)} of the file unused ({', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''})"
        text += f", {size:.1f} M parameters"
    return text + "."


def load_teacher(run: UNetRun) -> UNet3DConditionModel:
    """The teacher of a distillation.

    Raises:
        CheckpointError: its file is missing, damaged or of another shape.
        ValueError: it is itself distilled.
    """
    unet, metadata = load_whole(run, run.distill.teacher)
    if "distilled" in metadata:
        raise ValueError(
            f"distill.teacher {run.distill.teacher} is itself distilled: set it to the U-Net that this one was distilled from."
        )
    return unet


def load_whole(run: UNetRun, path: Path | str) -> tuple[UNet3DConditionModel, dict[str, Any]]:
    """A frozen U-Net that must be just what the run describes, and its metadata.

    Raises:
        CheckpointError: its file is missing, damaged or of another shape, resolution, window or alignment.
    """
    data = run.data
    size = {"resolution": data.resolution, "num_frames": data.num_frames, "alignment": data.aligned_by}
    return load_unet(path, run.net, size)


def base_of(run: UNetRun, unet: UNet3DConditionModel) -> dict[str, str] | None:
    """What an adapter's file says of the U-Net that it was trained on; None without an adapter."""
    return {"file": run.init_from, "fingerprint": base_fingerprint(unet)} if run.adapter.rank else None
