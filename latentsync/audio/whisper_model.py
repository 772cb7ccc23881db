"""Loads the audio encoder of a Whisper checkpoint in the official format: `{"dims": ..., "model_state_dict": ...}`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.weights import CheckpointError, load_strict, read_header, read_state

if TYPE_CHECKING:
    from latentsync.audio.whisper_encoder import (
        AudioEncoder,  # imports PyTorch, which reading the width of none does not need
    )

DIMENSIONS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")  # of the encoder


def load_audio_encoder(path: Path | str) -> "AudioEncoder":
    """The audio encoder of a checkpoint, without the text decoder, in evaluation mode and without gradients.

    Raises:
        CheckpointError: the file is missing, damaged or not a Whisper checkpoint.
    """
    from latentsync.audio.whisper_encoder import AudioEncoder

    stored = read_state(path)
    if "model_state_dict" not in stored:
        raise CheckpointError(f"{path} is not a Whisper checkpoint: it lacks 'model_state_dict'.")
    encoder = AudioEncoder(*_dimensions(stored, path).values())
    prefix = "encoder."
    tensors = {k.removeprefix(prefix): v for k, v in stored["model_state_dict"].items() if k.startswith(prefix)}
    load_strict(encoder, tensors, path)
    return encoder.eval().requires_grad_(False)


def encoder_width(path: Path | str) -> int:
    """Width of the encoder's hidden states, without reading its weights; CheckpointError as in `load_audio_encoder`."""
    return _dimensions(read_header(path).metadata, path)["n_audio_state"]


def _dimensions(stored: Mapping[str, Any], path: Path | str) -> dict[str, int]:
    """The encoder's constructor arguments, in order."""
    dims = stored.get("dims")
    if not isinstance(dims, Mapping) or not set(DIMENSIONS) <= dims.keys():
        raise CheckpointError(f"{path} is not a Whisper checkpoint: it lacks 'dims'.")
    return {name: dims[name] for name in DIMENSIONS}
