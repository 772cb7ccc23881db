"""Trades of time for quality, one table for the command line, Python and the web app; chosen by `python -m benchmarks.presets`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from latentsync.device import Precision

PresetName = Literal["custom", "quality", "balanced", "fast", "turbo"]
CUSTOM = "custom"  # no preset: what a checkpoint recommends, or what was chosen one by one
DISTILLED_SOLVER = "lcm"

# name -> entries of `InferenceSettings`; what a checkpoint was trained for (reference, init, colour) is none of theirs
WHOLE_WAY = (0.0, 1.0)
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "quality": {
            "solver": "ddim",
            "steps": 20,
            "guidance_scale": 1.5,
            "guidance_interval": WHOLE_WAY,
            "deepcache_interval": 1,
        },
        "balanced": {
            "solver": "ddim",
            "steps": 10,
            "guidance_scale": 1.5,
            "guidance_interval": WHOLE_WAY,
            "deepcache_interval": 1,
        },
        "fast": {
            "solver": "unipc",
            "steps": 4,
            "guidance_scale": 1.5,
            "guidance_interval": (0.0, 0.5),  # the mouth's shape is decided while the noise is strong
            "deepcache_interval": 1,
        },
        "turbo": {
            "solver": DISTILLED_SOLVER,
            "steps": 2,
            "guidance_scale": 1.0,
            "guidance_interval": WHOLE_WAY,
            "deepcache_interval": 1,
            "vae": "auto",
        },
    }
)
HASTY = ("fast", "turbo")  # take half precision where the processor is fast at it


def precision_of(preset: str | None) -> Precision:
    """In which precision networks are loaded that are going to work by a preset; `auto` without one."""
    return "half" if preset in HASTY else "auto"


def expanded(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of settings with those of their `preset`, if they name one, which all others override."""
    given = {name: value for name, value in entries.items() if value is not None}
    return {**PRESETS.get(given.get("preset", CUSTOM), {}), **given}
