"""Metadata of the project's own checkpoints: enough to build the network and to detect incompatible settings."""

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latentsync import __version__
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ
from latentsync.weights.table import Alignment

if TYPE_CHECKING:
    from torch import Tensor  # slow to import, and not needed to tell what is missing


def describe(
    kind: str,
    model: Mapping[str, Any],
    step: int,
    *,
    resolution: int | None = None,
    num_frames: int | None = None,
    mask: "Tensor | None" = None,
    alignment: Alignment | None = None,
    audio: Mapping[str, Any] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Metadata for `save_checkpoint`: plain values, without those that are None.

    Args:
        kind: kind of network: unet, syncnet or vae.
        model: configuration of the network.
        step: training step.
        resolution: px of the aligned face.
        num_frames: number of frames of a clip.
        mask: the mask that the network was trained with; stored as a checksum.
        alignment: the landmarks that its faces were aligned by.
        audio: settings of the audio features; the sample rate and frame rate are added.
        facts: other entries, such as the seed and scores.
    """
    rates = {"sample_rate_hz": SAMPLE_RATE_HZ, "fps": MODEL_FPS}
    known = {
        "kind": kind,
        "version": __version__,
        "model": dict(model),
        "step": step,
        "resolution": resolution,
        "num_frames": num_frames,
        "mask": None if mask is None else mask_checksum(mask),
        "alignment": alignment,
        "audio": None if audio is None else {**rates, **audio},
        **facts,
    }
    return {name: value for name, value in known.items() if value is not None}


def mask_checksum(tensor: "Tensor") -> dict[str, Any]:
    """Size and CRC-32 of a mask with values in [0, 1], rounded to 8 bits so that computation errors do not matter."""
    levels = (tensor.detach().cpu().float() * 255).round().byte().contiguous()
    return {"size": list(tensor.shape), "crc32": f"{zlib.crc32(levels.numpy().tobytes()):08x}"}
