"""Sampling needs nothing from the CPU between its first and last step, so a GPU never waits: checked on the device `meta`.

Tensors of `meta` have shapes and no values. Reading a value from one raises; the copies that lead to it are counted.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentsync.inference.settings import InferenceSettings
from latentsync.inference.windows.latents import LatentSampler
from latentsync.models.attention import AudioKV
from latentsync.models.unet.network import DeepCache
from latentsync.testing import NUM_FRAMES, RESOLUTION, WIDTH, stand_in_models

META = torch.device("meta")
Network = Callable[[Tensor, int, AudioKV, DeepCache | None], Tensor]


class CopiesToDevice(TorchDispatchMode):
    """Lists the operations that make a tensor of `meta` from tensors of the CPU alone."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, Tensor)]
        made_there = isinstance(result, Tensor) and result.device == META
        if made_there and given and all(each.device.type == "cpu" for each in given):
            self.names.append(str(func))
        return result


@pytest.fixture(scope="module")
def unet() -> Any:
    return stand_in_models().unet.to(META)


def copies_in_steps(network: Network, unet: Any, settings: InferenceSettings) -> list[str]:
    """Names of the operations that copy to the device between the first and the last step of a window."""
    sampler = LatentSampler(settings, NUM_FRAMES, RESOLUTION, META)
    side = RESOLUTION // 8
    latents, mask = (
        torch.empty(2, 4, NUM_FRAMES, side, side, device=META),
        torch.empty(2, 1, 1, side, side, device=META),
    )
    audio = unet.project_kv(torch.empty(2, NUM_FRAMES, 6, WIDTH, device=META))
    counter, at_first = CopiesToDevice(), []

    def on_step(done: int, total: int) -> None:
        if done == 1:
            at_first.append(len(counter.names))

    with counter, torch.inference_mode():
        found = sampler(network, audio, mask, latents, latents, on_step)
    assert found.shape == latents.shape and found.device == META
    return counter.names[at_first[0] :]


CASES = [
    {"solver": "ddim", "steps": 4},
    {"solver": "ddim", "steps": 4, "guidance_interval": (0.0, 0.5), "init": "reference"},
    {"solver": "ddim", "steps": 4, "deepcache_interval": 2},
    {"solver": "dpm++", "steps": 4},
    {"solver": "unipc", "steps": 4},
    {"solver": "lcm", "steps": 3, "guidance_scale": 1.0},
]


@pytest.mark.parametrize("entries", CASES, ids=lambda entries: "-".join(map(str, entries.values())))
def test_steps_copy_nothing_to_the_device(unet: Any, entries: dict[str, Any]) -> None:
    def network(sample: Tensor, timestep: int, audio: AudioKV, cache: DeepCache | None) -> Tensor:
        return unet(sample, timestep, audio, cache).float()

    assert copies_in_steps(network, unet, InferenceSettings(**entries)) == []


def test_a_planted_copy_is_found(unet: Any) -> None:
    def network(sample: Tensor, timestep: int, audio: AudioKV, cache: DeepCache | None) -> Tensor:
        return unet(sample, torch.tensor([timestep]), audio, cache)

    assert copies_in_steps(network, unet, InferenceSettings(steps=4))


def test_a_planted_read_is_found(unet: Any) -> None:
    def network(sample: Tensor, timestep: int, audio: AudioKV, cache: DeepCache | None) -> Tensor:
        return unet(sample * float(sample.mean()), timestep, audio, cache)

    with pytest.raises(RuntimeError, match=r"[Mm]eta"):
        copies_in_steps(network, unet, InferenceSettings(steps=4))
