"""DeepCache: which steps run the whole U-Net, what a cached step computes, and that nothing is kept beyond a sampling call."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsync.inference.memory import MemoryPlan
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import DEEPCACHE_INTERVAL, InferenceSettings
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.models.unet.network import DeepCache, UNet3DConditionModel
from latentsync.testing import WIDTH
from scripts.inference import main
from scripts.inference_arguments import given, parse
from tests.models.test_unet import config, inputs, predicted, random_unet
from tests.support.tiny import NUM_FRAMES, RESOLUTION, make_audio, make_video, tiny_models
from tests.support.whole_runs import (
    KILLED,
    command,
    counted_changes,
    needs_fork,
    run_killed_at,
    short_output_segments,
    tiny_pipeline,
    use_tiny_models,
)

DEEP_SETTINGS = [
    config(2),
    config(3, layers_per_block=2),
    config(1, down_block_types=["CrossAttnDownBlock3D"], up_block_types=["CrossAttnUpBlock3D"]),
    config(2, up_block_types=["CrossAttnUpBlock3D", "UpBlock3D"], motion_module_resolutions=[2]),
]


@pytest.fixture(scope="module")
def models() -> LipsyncModels:
    """Tiny networks whose U-Net has two levels and motion modules."""
    unet = random_unet(config(2, cross_attention_dim=WIDTH)).eval().requires_grad_(False)
    return replace(tiny_models(), unet=unet)


def windows(count: int) -> list[Window]:
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    return [
        Window(
            rng.integers(0, 256, (NUM_FRAMES, RESOLUTION, RESOLUTION, 3), dtype=np.uint8),
            torch.randn(NUM_FRAMES, 10, WIDTH, generator=generator),
        )
        for _ in range(count)
    ]


def sampled(models: LipsyncModels, count: int = 1, at_once: int = 1, **settings: object) -> list[Tensor]:
    """New faces of some windows, `at_once` sampled together."""
    chosen = InferenceSettings(steps=7).changed(settings)
    sampler = WindowSampler(models, chosen, Stopwatch(), MemoryPlan(at_once, 4))
    return [result.faces for result in sampler.sample(windows(count))]


def whole_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the number of clips of each whole pass of a U-Net."""
    calls: list[int] = []
    deep = UNet3DConditionModel._deep_features

    def counted(unet: UNet3DConditionModel, x: Tensor, given: object) -> Tensor:
        calls.append(len(x) // NUM_FRAMES)
        return deep(unet, x, given)  # type: ignore[arg-type]

    monkeypatch.setattr(UNet3DConditionModel, "_deep_features", counted)
    return calls


@pytest.mark.parametrize("settings", DEEP_SETTINGS)
def test_a_cached_step_with_the_same_input_gives_the_same_output(settings) -> None:  # type: ignore[no-untyped-def]
    """The last layer gets the same input as in a whole step, for every shape of U-Net."""
    unet, (sample, steps, audio), cache = random_unet(settings), inputs(), DeepCache(3)
    with torch.no_grad():
        whole = predicted(unet, sample, steps, audio)
        for _ in range(5):
            assert torch.equal(predicted(unet, sample, steps, audio, cache), whole)


def test_a_cached_step_follows_its_own_latents_step_and_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, (sample, steps, audio) = random_unet(config()), inputs()
    changes: list[Callable[[], tuple[Tensor, Tensor, Tensor]]] = [
        lambda: (sample + 0.1, steps, audio),
        lambda: (sample, steps - 2, audio),
        lambda: (sample, steps, audio + 0.1),
    ]
    with torch.no_grad():
        for change in changes:
            cache = DeepCache(2)
            first, second = predicted(unet, sample, steps, audio, cache), predicted(unet, *change(), cache)
            whole = predicted(unet, *change())
            assert second.shape == whole.shape
            assert not torch.equal(second, first) and not torch.equal(second, whole)


def computed_at(interval: int, counts: list[int]) -> list[int]:
    """The steps in which deep features are computed; `counts` are their numbers of feature maps."""
    cache, computed = DeepCache(interval), []
    for step, count in enumerate(counts):

        def compute(step: int = step, count: int = count) -> Tensor:
            computed.append(step)
            return torch.zeros(count, 1, 1, 1)

        assert len(cache.features(count, compute)) == count
    return computed


def test_the_first_step_of_every_interval_is_whole() -> None:
    assert computed_at(1, [2] * 4) == [0, 1, 2, 3]
    assert computed_at(2, [2] * 7) == [0, 2, 4, 6]
    assert computed_at(3, [2] * 7) == [0, 3, 6]
    assert computed_at(9, [2] * 7) == [0]
    with pytest.raises(ValueError, match="at least 1"):
        DeepCache(0)


def test_another_batch_runs_a_whole_step() -> None:
    """When guidance begins or ends, a whole step follows, and the interval is counted from it."""
    assert computed_at(3, [2, 2, 1, 1, 1, 1, 2]) == [0, 2, 5, 6]


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc"])
def test_interval_one_changes_no_bit_and_others_change_little(models: LipsyncModels, solver: str) -> None:
    (exact,) = sampled(models, solver=solver)
    assert torch.equal(sampled(models, solver=solver, deepcache_interval=1)[0], exact)
    (cached,) = sampled(models, solver=solver, deepcache_interval=3)
    assert cached.isfinite().all()
    assert 0 < (cached - exact).abs().max() < 0.5 * exact.std()


def test_guidance_and_its_interval(models: LipsyncModels, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = whole_steps(monkeypatch)
    sampled(models, deepcache_interval=3)
    assert calls == [2, 2, 2]  # steps 0, 3, 6
    calls.clear()
    sampled(models, deepcache_interval=3, guidance_interval=(0.0, 0.6))
    assert calls == [2, 2, 1]  # steps 0 and 3, and 4, the first without guidance
    calls.clear()
    sampled(models, deepcache_interval=3, guidance_scale=1.0)
    assert calls == [1, 1, 1]


def test_no_features_pass_from_one_call_to_the_next(models: LipsyncModels) -> None:
    """Windows sampled together, in turns, or alone after others have the same faces."""
    turns = sampled(models, 3, deepcache_interval=3)
    together = sampled(models, 3, at_once=3, deepcache_interval=3)
    for a, b in zip(turns, together, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)
    sampler = WindowSampler(models, InferenceSettings(steps=7, deepcache_interval=3), Stopwatch(), MemoryPlan(1, 4))
    for index in (2, 0, 1, 2):
        assert torch.equal(sampler.sample([windows(3)[index]])[0].faces, turns[index])


def test_where_memory_runs_out_the_features_are_dropped(models: LipsyncModels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fails in the middle, between whole steps, leaves nothing behind for the smaller one."""
    expected, forward, calls = sampled(models, 2, deepcache_interval=3), UNet3DConditionModel.forward, []

    def tight(unet: UNet3DConditionModel, sample: Tensor, *rest: object) -> Tensor:
        calls.append(len(sample))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(unet, sample, *rest)

    monkeypatch.setattr(UNet3DConditionModel, "forward", tight)
    tried_again = sampled(models, 2, at_once=2, deepcache_interval=3)
    assert calls == [4, 4, *[2] * 14]
    assert all(torch.equal(a, b) for a, b in zip(tried_again, expected, strict=True))


def test_a_retry_in_float32_uses_a_new_cache(models: LipsyncModels, monkeypatch: pytest.MonkeyPatch) -> None:
    """It equals float32 models with the same rounded weights, and reuses nothing of the first try."""
    settings, half = InferenceSettings(steps=7, deepcache_interval=3), torch.bfloat16
    rounded = replace(models, unet=deepcopy(models.unet).to(half), vae=deepcopy(models.vae).to(half), dtype=half)
    exact = replace(models, unet=deepcopy(rounded.unet).float(), vae=deepcopy(rounded.vae).float())
    rejections = iter(["not a number"])
    monkeypatch.setattr("latentsync.inference.windows.finish.rejection_reason", lambda *_: next(rejections, None))
    (result,) = WindowSampler(rounded, settings, Stopwatch()).sample(windows(1))
    assert result.retried and result.rejection is None
    assert torch.equal(result.faces, WindowSampler(exact, settings, Stopwatch()).sample(windows(1))[0].faces)


@pytest.mark.parametrize("interval", [0, -3, 1000, 2.5])
def test_a_wrong_interval_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="deepcache_interval is .*whole U-Net in every step"):
        InferenceSettings(deepcache_interval=interval)  # type: ignore[arg-type]


def test_lcm_refuses_deepcache() -> None:
    with pytest.raises(ValueError, match="solver lcm .*leave out --enable_deepcache"):
        InferenceSettings().changed({"preset": "turbo", "deepcache_interval": 3})
    assert InferenceSettings().changed({"preset": "turbo", "deepcache_interval": 1}).deepcache_interval == 1


@pytest.mark.parametrize(
    ("flags", "interval"),
    [
        ([], 1),
        (["--enable_deepcache"], DEEPCACHE_INTERVAL),
        (["--deepcache_interval", "5"], 5),
        (["--enable_deepcache", "--deepcache_interval", "2"], 2),  # a script sets the one, its user the other
    ],
)
def test_the_command_line(flags: list[str], interval: int) -> None:
    assert InferenceSettings().changed(given(parse(flags, None), InferenceSettings)).deepcache_interval == interval


@needs_fork
def test_a_job_killed_in_the_middle_goes_on_to_the_same_bytes(
    tmp_path: Path, models: LipsyncModels, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = tiny_pipeline()
    pipeline.models = models
    use_tiny_models(monkeypatch, pipeline)
    short_output_segments(monkeypatch)
    pair = make_video(tmp_path / "v.mp4", 25), make_audio(tmp_path / "a.wav", 1.0)
    flags = ["--inference_steps", "4", "--guidance_scale", "1.5", "--enable_deepcache"]
    outputs = {name: tmp_path / name / "o.mp4" for name in ("calm", "killed", "exact")}
    changes: list[int] = []
    with counted_changes(changes.append):
        assert main(command(*pair, outputs["calm"], *flags)) == 0
    run = partial(main, command(*pair, outputs["killed"], *flags))
    assert run_killed_at(run, len(changes) // 2) == KILLED
    assert list((tmp_path / "killed").rglob("part_*.mp4"))
    assert main(command(*pair, outputs["killed"], *flags[:-1])) == 2  # without DeepCache it is another job
    assert "an unfinished job with other settings" in capsys.readouterr().err
    assert run() == 0
    assert outputs["killed"].read_bytes() == outputs["calm"].read_bytes()
    assert main(command(*pair, outputs["exact"], *flags[:-1])) == 0
    assert outputs["exact"].read_bytes() != outputs["calm"].read_bytes()
    report = json.loads(outputs["killed"].with_suffix(".report.json").read_text(encoding="utf-8"))
    assert report["settings"]["deepcache_interval"] == DEEPCACHE_INTERVAL
