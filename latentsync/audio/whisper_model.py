"""The speech encoder from an official-style Whisper checkpoint: `{"dims": ..., "model_state_dict": ...}`."""

from pathlib import Path

from whisper.model import AudioEncoder

from latentsync.weights import CheckpointError, load_strict, read_state


def load_audio_encoder(path: Path | str) -> AudioEncoder:
    """Build and load the audio encoder alone, in evaluation mode and without gradients; the text decoder is left out.

    Raises:
        CheckpointError: the file is missing, damaged or not a Whisper checkpoint.
    """
    stored = read_state(path)
    if "dims" not in stored or "model_state_dict" not in stored:
        raise CheckpointError(f"{path} is not a Whisper checkpoint: it lacks 'dims' or 'model_state_dict'.")
    dims = stored["dims"]
    names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    encoder = AudioEncoder(*(dims[name] for name in names))
    prefix = "encoder."
    tensors = {k.removeprefix(prefix): v for k, v in stored["model_state_dict"].items() if k.startswith(prefix)}
    load_strict(encoder, tensors, path)
    return encoder.eval().requires_grad_(False)
