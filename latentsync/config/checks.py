"""Checks of configuration entries. Each raises a ValueError whose message names the entry and the allowed values."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.motion import MotionModuleConfig
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


def known_names(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """ValueError unless all `given` names are in `known`; the message suggests the closest known name."""
    known = list(known)
    for each in given:
        if each not in known:
            close = difflib.get_close_matches(each, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" Known keys: {', '.join(known)}."
            raise ValueError(f"unknown key {name + '.' + each!r}.{hint}")


def unet_section(section: Mapping[str, Any], num_frames: int, resolution: int) -> UNetConfig:
    """The U-Net configuration of a `model` section; ValueError if it is invalid or does not fit the clips' size."""
    known_names("model", section, UNetConfig.known_keys())
    motion = section.get("motion_module_kwargs") or {}
    known_names("model.motion_module_kwargs", motion, [field.name for field in fields(MotionModuleConfig)])
    try:
        config = UNetConfig.from_dict(section)
    except ValueError as error:
        raise ValueError(f"model: {error}") from error
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
    return config


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


def even_frames(num_frames: int) -> None:
    """ValueError if `num_frames` is odd: the video model of the loss `trepa` reads frames in pairs."""
    if num_frames % 2:
        raise ValueError(f"data.num_frames is {num_frames}, but must be even: the loss trepa reads frames in pairs.")
