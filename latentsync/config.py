"""Configurations: one schema per kind of run, read from YAML with overrides from the command line.

An unknown key is an error that names the nearest known one. Model sections are checked by the models' own dataclasses.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

Run = TypeVar("Run")


@dataclass
class TrainConfig:
    """How long and how fast: the part of a training configuration that is the same for every model."""

    run_dir: str = ""
    max_steps: int = 1000
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_rate_share: float = 0.05  # the cosine schedule ends at this share of the learning rate
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995  # 0 switches the moving average off
    precision: str = "fp32"  # or "bf16": autocast of the step
    checkpoint_steps: int = 250
    log_steps: int = 25
    seed: int = 1247
    loss_weights: dict[str, float] = field(default_factory=dict)  # by the loss's name; 1 where none is given


@dataclass
class ClipDataConfig:
    """Where clips come from and what is cut from them."""

    train_dir: str = ""
    cache_dir: str = ""
    resolution: int = 128
    num_frames: int = 16
    batch_size: int = 8


@dataclass
class WhisperModelConfig:
    """Whisper's dimensions of the audio encoder (names as in openai-whisper's `ModelDimensions`)."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int = 384
    n_audio_head: int = 6
    n_audio_layer: int = 4


@dataclass
class WhisperRun:
    """Training the demo's speech encoder."""

    model: WhisperModelConfig = field(default_factory=WhisperModelConfig)
    batch_size: int = 16
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class ModelRun:
    """Training an auto-encoder, a SyncNet or a U-Net on clips; `model` is checked by the model's own configuration."""

    model: dict[str, Any] = field(default_factory=dict)
    half_weights: bool = False  # store the trained weights in float16: half the size, the third digit lost
    data: ClipDataConfig = field(default_factory=ClipDataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class UNetRun(ModelRun):
    """Training a U-Net; `init_from` is a checkpoint to start from, `objective` the entries of `UNetObjective`.

    `inference` are the settings that the trained checkpoint recommends (see `latentsync.inference.settings`).
    """

    init_from: str = ""
    objective: dict[str, float] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)


def load(path: Path | str, schema: type[Run], overrides: Sequence[str] = ()) -> Run:
    """Read a YAML configuration into `schema`; `overrides` are dotlist entries such as `train.max_steps=10`.

    Raises:
        ValueError: the file is missing, a key is unknown or a value has the wrong type.
    """
    if not Path(path).is_file():
        raise ValueError(f"Configuration {path} does not exist; the shipped ones are in configs/.")
    base = OmegaConf.structured(schema)
    try:
        merged = OmegaConf.merge(base, OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise ValueError(f"{path}: unknown key {error.full_key!r}.{_suggestion(str(error.full_key), base)}") from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def _suggestion(key: str, base: Any) -> str:
    known = list(_keys(OmegaConf.to_container(base)))
    close = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _keys(section: Any, prefix: str = "") -> Sequence[str]:
    if not isinstance(section, dict):
        return []
    names = [f"{prefix}{key}" for key in section]
    for key, value in section.items():
        names += _keys(value, f"{prefix}{key}.")
    return names
