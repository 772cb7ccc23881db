"""The configuration of a U-Net from the names and shapes of its weights, for public files, which do not store it."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from latentsync.models.unet.config import DOWN_ATTENTION, DOWN_PLAIN, UP_ATTENTION, UP_PLAIN, UNetConfig
from latentsync.models.unet.motion import SELF_ATTENTION, MotionModuleConfig

Shapes = Mapping[str, Sequence[int]]
SIGNATURE = (
    "conv_in.weight",
    "conv_out.weight",
    "time_embedding.linear_1.weight",
    "down_blocks.0.resnets.0.conv1.weight",
)
AUDIO_KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def is_unet(keys: Container[str]) -> bool:
    """Whether these are names of a U-Net's weights."""
    return all(key in keys for key in SIGNATURE)


def config_from_shapes(shapes: Shapes, base: UNetConfig | None = None) -> UNetConfig:
    """The configuration of the U-Net with these names and shapes, which must satisfy `is_unet`.

    Values that shapes do not determine (numbers of heads and norm groups, constants) come from `base`, by default the public
    models.
    ValueError if shapes and `base` contradict each other.
    """
    base = base or UNetConfig()
    widths: list[int] = []
    while (key := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in shapes:
        widths.append(shapes[key][0])
    levels = range(len(widths))
    attends = {part: [_has(shapes, f"{part}_blocks.{i}.attentions.") for i in levels] for part in ("down", "up")}
    found = replace(
        base,
        block_out_channels=widths,
        layers_per_block=_count(shapes, "down_blocks.0.resnets."),
        in_channels=shapes["conv_in.weight"][1],
        out_channels=shapes["conv_out.weight"][0],
        down_block_types=[DOWN_ATTENTION if attend else DOWN_PLAIN for attend in attends["down"]],
        up_block_types=[UP_ATTENTION if attend else UP_PLAIN for attend in attends["up"]],
        add_audio_layer=AUDIO_KEY in shapes,
        cross_attention_dim=shapes[AUDIO_KEY][1] if AUDIO_KEY in shapes else base.cross_attention_dim,
        use_motion_module=False,
    )
    return _with_motion(found, shapes)


def _with_motion(config: UNetConfig, shapes: Shapes) -> UNetConfig:
    """The same configuration with its motion modules; up levels are numbered from the bottom."""
    levels = len(config.block_out_channels)
    moving = [i for i in range(levels) if _has(shapes, f"up_blocks.{levels - 1 - i}.motion_modules.")]
    is_mid = _has(shapes, "mid_block.motion_modules.")
    if not moving and not is_mid:
        return config
    return replace(
        config,
        use_motion_module=True,
        motion_module_resolutions=[2**i for i in moving],
        motion_module_mid_block=is_mid,
        motion_module_decoder_only=not any(_has(shapes, f"down_blocks.{i}.motion_modules.") for i in range(levels)),
        motion_module_kwargs=_motion_kwargs(config.motion_module_kwargs, shapes),
    )


def _motion_kwargs(base: MotionModuleConfig, shapes: Shapes) -> MotionModuleConfig:
    first = next(key for key in shapes if ".motion_modules." in key)
    module = first[: first.index(".motion_modules.")] + ".motion_modules.0.temporal_transformer."
    block = f"{module}transformer_blocks.0."
    attention = f"{block}attention_blocks.0."
    positions = shapes.get(f"{attention}pos_encoder.pe")
    inner, channels = shapes[f"{module}proj_in.weight"][:2]
    return replace(
        base,
        num_transformer_block=_count(shapes, f"{module}transformer_blocks."),
        attention_block_types=[SELF_ATTENTION] * _count(shapes, f"{block}attention_blocks."),
        temporal_position_encoding=positions is not None,
        temporal_position_encoding_max_len=positions[1] if positions else base.temporal_position_encoding_max_len,
        temporal_attention_dim_div=channels // inner,
    )


def _has(shapes: Shapes, start: str) -> bool:
    return any(key.startswith(start) for key in shapes)


def _count(shapes: Shapes, start: str) -> int:
    return len({key.removeprefix(start).split(".")[0] for key in shapes if key.startswith(start)})
