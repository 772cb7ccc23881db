"""Configuration sections shared by all trainings, and the schemas for the demo's auto-encoder and speech encoder."""

from dataclasses import dataclass, field
from typing import Any

from latentsync.config import checks
from latentsync.data.settings import ClipDataConfig
from latentsync.precision import DTYPE_NAMES

SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("adamw", "adamw8bit")
TRACKERS = ("tensorboard", "wandb", "none")


@dataclass
class TrainConfig:
    """The section `train`, the same for every model."""

    max_steps: int = 1000  # optimizer steps
    learning_rate: float = 1e-3
    schedule: str = "cosine"  # after the warm-up: cosine decay, or constant
    warmup_steps: int = 100  # linear
    final_rate_share: float = 0.05  # the cosine schedule ends at this share of the learning rate
    optimizer: str = "adamw"  # or adamw8bit, which needs the package bitsandbytes
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    gradient_accumulation: int = 1  # batches per optimizer step
    ema_decay: float = 0.995  # of the moving average of the weights; 0: no average
    precision: str = "fp32"  # fp32, or bf16 or fp16 under autocast; fp16 with loss scaling
    checkpoint_steps: int = 250
    checkpoint_minutes: float = 0.0  # also a checkpoint when so much time has passed since the last; 0: by steps only
    keep_checkpoints: int = 3  # number of latest checkpoints to keep; the best one is kept too
    validation_steps: int = 0  # steps between validations; 0: no validation
    log_steps: int = 25
    tracker: str = "tensorboard"  # or wandb, which needs the package, or none
    max_skipped_steps: int = 20  # consecutive steps with non-finite gradients, then the last checkpoint is reloaded
    max_rollbacks: int = 3  # reloads, then training stops
    seed: int = 1247
    loss_weights: dict[str, float] = field(default_factory=dict)  # by name of the loss; default 1

    def check(self) -> None:
        """ValueError on an invalid value."""
        checks.choice("train.precision", self.precision, DTYPE_NAMES)
        checks.choice("train.schedule", self.schedule, SCHEDULES)
        checks.choice("train.optimizer", self.optimizer, OPTIMIZERS)
        checks.choice("train.tracker", self.tracker, TRACKERS)
        for name in ("gradient_accumulation", "checkpoint_steps", "keep_checkpoints", "log_steps", "max_skipped_steps"):
            checks.at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("max_steps", "warmup_steps", "validation_steps", "weight_decay", "max_rollbacks", "learning_rate"):
            checks.at_least(f"train.{name}", getattr(self, name), 0)
        checks.at_least("train.checkpoint_minutes", self.checkpoint_minutes, 0)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay is {self.ema_decay}, but must be in [0, 1), usually 0.99 to 0.9999.")
        checks.share("train.final_rate_share", self.final_rate_share)
        if not self.max_grad_norm > 0:
            raise ValueError(f"train.max_grad_norm is {self.max_grad_norm}, but must be positive; 1.0 is usual.")


@dataclass
class OutputConfig:
    """The folder for a run's checkpoints, log and charts."""

    train_output_dir: str = ""


@dataclass
class WhisperModelConfig:
    """Dimensions of Whisper's audio encoder, named as in openai-whisper's `ModelDimensions`."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int = 384
    n_audio_head: int = 6
    n_audio_layer: int = 4


@dataclass
class WhisperDataConfig(OutputConfig):
    """Settings of the utterances, which are synthesised during training."""

    batch_size: int = 16
    num_workers: int = 0  # processes that synthesise utterances in advance


@dataclass
class WhisperRun:
    """Configuration of the training of the demo's speech encoder."""

    model: WhisperModelConfig = field(default_factory=WhisperModelConfig)
    data: WhisperDataConfig = field(default_factory=WhisperDataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """ValueError on an invalid entry."""
        self.train.check()


@dataclass
class VaeDataConfig(ClipDataConfig, OutputConfig):
    """Clips from which single frames are sampled."""


@dataclass
class ModelRun:
    """Configuration of the training of the demo's image auto-encoder; `model` holds the entries of diffusers' configuration.

    With `decoder_of`, the file of a trained auto-encoder, only its decoder is trained on, also against a critic if the loss
    `adversarial` has a weight.
    """

    model: dict[str, Any] = field(default_factory=dict)
    decoder_of: str = ""
    half_weights: bool = False  # store the trained weights in float16: half the size, about 3 significant digits
    data: VaeDataConfig = field(default_factory=VaeDataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """ValueError on an invalid entry."""
        self.train.check()
