"""Configuration of the U-Net: the `model` section of a configuration file, field for field."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from latentsync.models.sections import arguments_of
from latentsync.models.unet.motion import MotionModuleConfig

DOWN_ATTENTION, DOWN_PLAIN = "CrossAttnDownBlock3D", "DownBlock3D"
UP_ATTENTION, UP_PLAIN = "CrossAttnUpBlock3D", "UpBlock3D"
# keys of public configuration files with a single supported value; accepted and dropped
FIXED_KEYS: dict[str, Any] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "resnet_time_scale_shift": "default",
    "motion_module_type": "Vanilla",
}
UNUSED_KEYS = ("sample_size",)  # dropped with any value


@dataclass
class UNetConfig:
    """Shape of the U-Net; the defaults are the public stage-2 model. Raises ValueError for values that cannot be built.

    `attention_head_dim` is the number of heads (a historical name). A level has attention if its entry in
    `down_block_types`/`up_block_types` is a CrossAttn type; `motion_module_resolutions` are the downsampling factors
    (1, 2, 4, ...) of levels with motion modules. `add_audio_layer` false leaves out the audio cross-attention.
    """

    add_audio_layer: bool = True
    attention_head_dim: int = 8
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    cross_attention_dim: int = 384
    down_block_types: list[str] = field(default_factory=lambda: [DOWN_ATTENTION] * 3 + [DOWN_PLAIN])
    up_block_types: list[str] = field(default_factory=lambda: [UP_PLAIN] + [UP_ATTENTION] * 3)
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    in_channels: int = 13
    layers_per_block: int = 2
    norm_eps: float = 1e-5
    norm_num_groups: int = 32
    out_channels: int = 4
    use_motion_module: bool = True
    motion_module_resolutions: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    motion_module_mid_block: bool = False
    motion_module_decoder_only: bool = False
    motion_module_kwargs: MotionModuleConfig = field(default_factory=MotionModuleConfig)

    def __post_init__(self) -> None:
        self._check_levels()
        self._check_widths()

    def _check_levels(self) -> None:
        levels = len(self.block_out_channels)
        if not levels or self.layers_per_block < 1:
            raise ValueError("block_out_channels must not be empty, and layers_per_block must be at least 1.")
        for name, known in (
            ("down_block_types", (DOWN_ATTENTION, DOWN_PLAIN)),
            ("up_block_types", (UP_ATTENTION, UP_PLAIN)),
        ):
            types = getattr(self, name)
            if len(types) != levels:
                raise ValueError(
                    f"{name} has {len(types)} entries, but block_out_channels {levels}: give one per level."
                )
            for kind in types:
                if kind not in known:
                    raise ValueError(f"{name}: '{kind}' is not supported, use one of {', '.join(known)}.")

    def _check_widths(self) -> None:
        for width in self.block_out_channels:
            for name in ("norm_num_groups", "attention_head_dim"):
                divisor = getattr(self, name)
                if divisor < 1 or width % divisor:
                    raise ValueError(f"block_out_channels: {width} is not a multiple of {name} ({divisor}).")
            if self.use_motion_module:
                self.motion_module_kwargs.inner_width(width)
        if self.block_out_channels[0] % 2:
            raise ValueError(f"block_out_channels: the first width is {self.block_out_channels[0]}, but must be even.")

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> "UNetConfig":
        """Build from a plain or OmegaConf mapping; missing keys get defaults; ValueError names an unknown key.

        The keys of `FIXED_KEYS` and `UNUSED_KEYS` are dropped; ValueError for another value than the fixed one.
        """
        for name, only in FIXED_KEYS.items():
            if section.get(name, only) != only:
                raise ValueError(f"{name} is {section[name]!r}, but only {only!r} is supported.")
        own = {name: value for name, value in section.items() if name not in (*FIXED_KEYS, *UNUSED_KEYS)}
        values = arguments_of(cls, own, "the U-Net's configuration")
        motion = values.get("motion_module_kwargs")
        if isinstance(motion, Mapping):
            values["motion_module_kwargs"] = MotionModuleConfig(
                **arguments_of(MotionModuleConfig, motion, "motion_module_kwargs")
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers: safe for JSON and OmegaConf; `from_dict` reverses it."""
        return asdict(self)
