"""The speech encoder from an official-style Whisper checkpoint: `{"dims": ..., "model_state_dict": ...}`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whisper.model import AudioEncoder

from latentsync.weights import CheckpointError, load_strict, read_header, read_state

DIMENSIONS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")  # of the encoder


def load_audio_encoder(path: Path | str) -> AudioEncoder:
    """Build and load the audio encoder alone, in evaluation mode and without gradients; the text decoder is left out.

    Raises:
        CheckpointError: the file is missing, damaged or not a Whisper checkpoint.
    """
    stored = read_state(path)
    if "model_state_dict" not in stored:
        raise CheckpointError(f"{path} is not a Whisper checkpoint: it lacks 'model_state_dict'.")
    encoder = AudioEncoder(*_dimensions(stored, path).values())
    prefix = "encoder."
    tensors = {k.removeprefix(prefix): v for k, v in stored["model_state_dict"].items() if k.startswith(prefix)}
    load_strict(encoder, tensors, path)
    return encoder.eval().requires_grad_(False)


def encoder_width(path: Path | str) -> int:
    """Numbers of one of the encoder's states, without reading its weights; CheckpointError as `load_audio_encoder`."""
    return _dimensions(read_header(path).metadata, path)["n_audio_state"]


def _dimensions(stored: Mapping[str, Any], path: Path | str) -> dict[str, int]:
    """Arguments of the encoder, in order."""
    dims = stored.get("dims")
    if not isinstance(dims, Mapping) or not set(DIMENSIONS) <= dims.keys():
        raise CheckpointError(f"{path} is not a Whisper checkpoint: it lacks 'dims'.")
    return {name: dims[name] for name in DIMENSIONS}
