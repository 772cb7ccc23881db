"""What a file of the project's own weights says about itself: enough to build the network and to refuse a wrong use."""

import zlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from latentsync import __version__
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ
from latentsync.weights.table import Alignment


def describe(
    kind: str,
    model: Mapping[str, Any],
    step: int,
    *,
    resolution: int | None = None,
    num_frames: int | None = None,
    mask: Tensor | None = None,
    alignment: Alignment | None = None,
    audio: Mapping[str, Any] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Metadata for `save_checkpoint`: plain values, those that are None left out.

    Args:
        kind: of the network: unet, syncnet or vae.
        model: its configuration.
        step: of the training.
        resolution: px of the aligned face.
        num_frames: frames of a clip.
        mask: what the network was shown as the region to keep; stored as a fingerprint.
        alignment: by which points its faces were aligned.
        audio: settings of the audio features; the rates are added.
        facts: anything else worth keeping, such as the seed and scores.
    """
    rates = {"sample_rate_hz": SAMPLE_RATE_HZ, "fps": MODEL_FPS}
    known = {
        "kind": kind,
        "version": __version__,
        "model": dict(model),
        "step": step,
        "resolution": resolution,
        "num_frames": num_frames,
        "mask": None if mask is None else fingerprint(mask),
        "alignment": alignment,
        "audio": None if audio is None else {**rates, **audio},
        **facts,
    }
    return {name: value for name, value in known.items() if value is not None}


def fingerprint(tensor: Tensor) -> dict[str, Any]:
    """Size and checksum of a tensor in [0, 1] at 8 bits: equal for equal masks, whatever computed them."""
    levels = (tensor.detach().cpu().float() * 255).round().byte().contiguous()
    return {"size": list(tensor.shape), "crc32": f"{zlib.crc32(levels.numpy().tobytes()):08x}"}
