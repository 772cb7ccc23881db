"""Compiled blocks: each is compiled once in a job, whatever its batches are, and the faces are those of uncompiled ones."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from latentsync.inference.memory import MemoryPlan
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.finish import NewFaces
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.models.unet.compiled import compile_blocks
from latentsync.testing import NUM_FRAMES, RESOLUTION, WIDTH, stand_in_models

pytestmark = pytest.mark.slow  # importing the compiler takes seconds
GUIDED = InferenceSettings(steps=4, guidance_scale=1.5, guidance_interval=(0.0, 0.5), colour="decoded", texture="off")


@pytest.fixture
def counters() -> Iterator[Any]:
    """The compiler's counters from zero, without code of other tests."""
    import torch._dynamo.utils

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def window(seed: int, frames: int = NUM_FRAMES) -> Window:
    rng = np.random.default_rng(seed)
    faces = rng.integers(0, 256, (frames, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    audio = torch.randn(frames, 10, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Window(faces, audio)


def sampled(models: LipsyncModels, windows: list[Window], settings: InferenceSettings = GUIDED) -> list[NewFaces]:
    return WindowSampler(models, settings, Stopwatch(), MemoryPlan(windows=2, vae_frames=8)).sample(windows)


def compiled_models(dtype: torch.dtype = torch.float32) -> LipsyncModels:
    models = stand_in_models()
    models.unet.to(dtype), models.vae.to(dtype)
    compile_blocks(models.unet, backend="aot_eager")
    return replace(models, dtype=dtype)


def test_a_job_compiles_each_block_once(counters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance that ends, a last smaller group, a shorter window, and a window that is sampled again in float32."""
    models = compiled_models(torch.bfloat16)
    sampled(models, [window(0), window(1)], replace(GUIDED, guidance_scale=1.0))
    once = counters["stats"]["unique_graphs"]
    assert 0 < once <= sum(1 for _ in models.unet.modules())
    rejections = iter(["not a number"])
    monkeypatch.setattr("latentsync.inference.windows.finish.rejection_reason", lambda *_: next(rejections, None))
    results = sampled(models, [*map(window, range(5)), window(6, frames=3)])
    assert [result.retried for result in results] == [True, False, False, False, False, False]
    assert counters["stats"]["unique_graphs"] == once


@pytest.mark.parametrize("deepcache_interval", [1, 2])
def test_compiled_blocks_give_the_faces_of_uncompiled_ones(counters: Any, deepcache_interval: int) -> None:
    settings = replace(GUIDED, deepcache_interval=deepcache_interval)
    windows = [window(0), window(1), window(2)]
    compiled, plain = sampled(compiled_models(), windows, settings), sampled(stand_in_models(), windows, settings)
    for one, other in zip(compiled, plain, strict=True):
        assert torch.allclose(one.faces, other.faces, atol=1e-4)
