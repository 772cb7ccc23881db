"""Checks of configuration entries. Each raises a ValueError whose message names the entry and the allowed values."""

from collections.abc import Iterable, Sequence
from typing import Any

from latentsync.models.sections import suggestion
from latentsync.models.unet.config import UNetConfig
from latentsync.weights.table import ALIGNMENTS, LATENT_CHANNELS, LATENT_STRIDE

INPUT_CHANNELS = 13
MIN_RESOLUTION = 32


def choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """ValueError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}: choose {' or '.join(map(str, allowed))}.")


def at_least(name: str, value: float, minimum: float) -> None:
    """ValueError unless `value` is at least `minimum`; NaN fails."""
    if not value >= minimum:
        raise ValueError(f"{name} is {value}, but must be at least {minimum:g}.")


def share(name: str, value: float) -> None:
    """ValueError unless `value` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, but must be between 0 and 1.")


def known_names(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """ValueError unless all `given` names are in `known`; the message suggests the closest known name."""
    for each in given:
        if each not in known:
            raise ValueError(f"unknown key {name + '.' + each!r}.{suggestion(each, known)}")


def unet_of_clips(config: UNetConfig, num_frames: int, resolution: int) -> None:
    """ValueError if a U-Net has other channels than the auto-encoder's latents need, or does not fit the clips' size."""
    for name, wanted in (("in_channels", INPUT_CHANNELS), ("out_channels", LATENT_CHANNELS)):
        if getattr(config, name) != wanted:
            raise ValueError(f"model.{name} is {getattr(config, name)}, but must be {wanted}.")
    clip_size(num_frames, resolution)
    longest = config.motion_module_kwargs.temporal_position_encoding_max_len
    if config.use_motion_module and config.motion_module_kwargs.temporal_position_encoding and num_frames > longest:
        raise ValueError(
            f"data.num_frames is {num_frames}, but the motion modules' position encoding has only {longest} entries"
            " (model.motion_module_kwargs.temporal_position_encoding_max_len): lower the former or raise the latter."
        )


def alignment(name: str, value: str) -> None:
    """ValueError unless `value` is empty or the name of an alignment."""
    if value:
        choice(name, value, ALIGNMENTS)


def clip_size(num_frames: int, resolution: int) -> None:
    """ValueError unless `num_frames` is positive and `resolution` (px) is a multiple of the auto-encoder's stride."""
    at_least("data.num_frames", num_frames, 1)
    at_least("data.resolution", resolution, MIN_RESOLUTION)
    if resolution % LATENT_STRIDE:
        raise ValueError(
            f"data.resolution is {resolution}, but must be a multiple of {LATENT_STRIDE} (pixels per latent cell)."
        )
