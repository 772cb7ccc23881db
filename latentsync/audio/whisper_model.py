"""Loads Whisper's audio encoder: of a checkpoint in the official format, `{"dims": ..., "model_state_dict": ...}`, or alone, as
safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.weights import CheckpointError, load_strict, read_checkpoint, read_header

if TYPE_CHECKING:
    from latentsync.audio.whisper_encoder import (
        AudioEncoder,  # imports PyTorch, which reading the width of none does not need
    )

KIND = "audio_encoder"  # of a safetensors file that holds the encoder alone
DIMENSIONS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")  # of the encoder


def load_audio_encoder(path: Path | str) -> "AudioEncoder":
    """The audio encoder of a checkpoint, without the text decoder, in evaluation mode and without gradients.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    from latentsync.audio.whisper_encoder import AudioEncoder

    stored = read_checkpoint(path)
    encoder = AudioEncoder(*_dimensions(stored.metadata, path).values())
    is_alone = stored.metadata.get("kind") == KIND
    prefix = "" if is_alone else "encoder."
    tensors = {k.removeprefix(prefix): v for k, v in stored.tensors.items() if k.startswith(prefix)}
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
