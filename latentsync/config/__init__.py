"""Configuration schemas, one per kind of run, and their loading from YAML files that may extend each other."""

from latentsync.config.common import (
    ModelRun,
    OutputConfig,
    TrainConfig,
    VaeDataConfig,
    WhisperModelConfig,
    WhisperRun,
)
from latentsync.config.loading import load, to_yaml
from latentsync.config.unet_run import (
    DistillConfig,
    FrozenNetworksConfig,
    UNetDataConfig,
    UNetObjective,
    UNetRun,
    ValidationConfig,
)

__all__ = [
    "DistillConfig",
    "FrozenNetworksConfig",
    "UNetObjective",
    "ModelRun",
    "OutputConfig",
    "TrainConfig",
    "UNetDataConfig",
    "UNetRun",
    "VaeDataConfig",
    "ValidationConfig",
    "WhisperModelConfig",
    "WhisperRun",
    "load",
    "to_yaml",
]
