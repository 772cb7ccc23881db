"""Presets and precision: one table for every interface, explicit settings override it, and unsupported ones are refused."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync import device
from latentsync.device import has_bfloat16, pick_device, pick_dtype
from latentsync.inference.memory import free_bytes
from latentsync.inference.model_files import distilled_companion, recommended
from latentsync.inference.settings import PRESETS, InferenceSettings, precision_of
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.models.vae import build_tiny_vae
from latentsync.testing import WIDTH
from scripts.inference import unet_path
from scripts.inference_arguments import given, parse
from tests.support.tiny import NUM_FRAMES, RESOLUTION, tiny_models
from web import texts
from web.models import ModelChoice, Models
from web.settings import DEFAULT_PRESET
from web.settings import PRESETS as WEB_PRESETS

SMALL = {"decoder_block_out_channels": [4, 4, 4, 4], "num_decoder_blocks": [1, 1, 1, 0]}


def windows(count: int) -> list[Window]:
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    return [
        Window(
            rng.integers(0, 256, (NUM_FRAMES, RESOLUTION, RESOLUTION, 3), dtype=np.uint8),
            torch.randn(NUM_FRAMES, 10, WIDTH, generator=generator),
        )
        for _ in range(count)
    ]


def test_explicit_settings_override_a_preset_which_overrides_the_checkpoint() -> None:
    checkpoint = recommended({"inference": {"steps": 10, "reference": "elsewhere", "colour": "matched"}})
    for name, entries in PRESETS.items():
        settings = checkpoint.changed({"preset": name})
        assert settings.preset == name and (settings.reference, settings.colour) == ("elsewhere", "matched")
        assert {key: getattr(settings, key) for key in entries} == dict(entries)
    args = parse(["--preset", "fast", "--inference_steps", "3", "--guidance_interval", "0.1", "0.9"], None)
    chosen = checkpoint.changed(given(args, InferenceSettings))
    assert (chosen.solver, chosen.steps, chosen.guidance_interval) == (PRESETS["fast"]["solver"], 3, (0.1, 0.9))
    assert chosen.preset == "custom"
    cached = checkpoint.changed(given(parse(["--preset", "quality", "--enable_deepcache"], None), InferenceSettings))
    assert (cached.preset, cached.deepcache_interval) == ("custom", 3)
    assert recommended({"inference": {"preset": "turbo"}}).solver == "lcm"
    assert checkpoint.changed(given(parse([], None), InferenceSettings)) == checkpoint


def test_the_web_app_offers_the_engines_presets() -> None:
    assert DEFAULT_PRESET in WEB_PRESETS and set(WEB_PRESETS) == set(PRESETS) == set(texts.PRESETS)
    assert all(WEB_PRESETS[name] is PRESETS[name] for name in WEB_PRESETS)


def test_the_web_app_loads_what_a_preset_needs(tmp_path: Path) -> None:
    choice = ModelChoice("own", tmp_path / "unet.safetensors", "cascade")
    models = Models({"own": choice})
    choice.unet.touch()
    assert choice.made_for({"preset": "turbo"}).unet == choice.unet and not models.has_distilled
    (tmp_path / "unet_turbo.safetensors").touch()
    assert (
        choice.made_for({"preset": "turbo", "steps": 5}).unet.name == "unet_turbo.safetensors" and models.has_distilled
    )
    assert choice.made_for({"preset": "quality"}) == choice.made_for({}) == choice
    half_differs = pick_dtype(pick_device(), "half") != pick_dtype(pick_device())
    assert choice.made_for({"preset": "fast", "steps": 2}).precision == ("half" if half_differs else "auto")


OVERRIDES = {
    "steps": (["--inference_steps", "5"], ""),
    "solver": (["--solver", "ddim"], "distilled for few steps and do not support the solver ddim"),
    "guidance": (["--guidance_scale", "1.5"], "distilled without guidance"),
}


@pytest.mark.parametrize("field", OVERRIDES)
def test_a_preset_with_one_field_changed_keeps_its_weights(tmp_path: Path, field: str) -> None:
    flags, refused = OVERRIDES[field]
    base, turbo = tmp_path / "unet.safetensors", tmp_path / "unet_turbo.safetensors"
    base.touch(), turbo.touch()
    args = parse(["--preset", "turbo", "--inference_ckpt_path", str(base), *flags], None)
    assert unet_path(args) == turbo
    settings = InferenceSettings().changed(given(args, InferenceSettings))
    with pytest.raises(ValueError, match=refused) if refused else nullcontext():
        replace(tiny_models(), distilled=True).check(settings)


@pytest.mark.parametrize("interval", [(0.5, 0.2), (0, 2), (1,), "no"])
def test_a_wrong_guidance_interval_is_refused(interval: object) -> None:
    with pytest.raises(ValueError, match="guidance_interval is .*rising fractions"):
        InferenceSettings(guidance_interval=interval)  # type: ignore[arg-type]


def test_settings_that_do_not_fit_the_weights_are_refused(tmp_path: Path) -> None:
    models, turbo = tiny_models(), InferenceSettings().changed({"preset": "turbo"})
    with pytest.raises(ValueError, match="turbo.*needs weights that were distilled.*preset fast"):
        WindowSampler(models, turbo, Stopwatch())
    with pytest.raises(ValueError, match="distilled for few steps.*choose the preset turbo"):
        replace(models, distilled=True).check(InferenceSettings())
    with pytest.raises(ValueError, match="vae is tiny, but there is no tiny_vae.safetensors.*train_tiny_vae"):
        models.check(InferenceSettings(vae="tiny"))
    path = tmp_path / "unet.safetensors"
    assert distilled_companion(path) == path
    (tmp_path / "unet_turbo.safetensors").touch()
    assert distilled_companion(path).name == "unet_turbo.safetensors"


@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_number_of_windows_sampled_together_does_not_change_them(preset: str) -> None:
    models = replace(tiny_models(), distilled=preset == "turbo", tiny_vae=build_tiny_vae(SMALL).eval())
    settings = InferenceSettings().changed({"preset": preset})
    one, many = (WindowSampler(models, settings, Stopwatch()) for _ in range(2))
    many.memory = replace(many.memory, windows=3)
    alone = [one.sample([window])[0].faces for window in windows(3)]
    together = [result.faces for result in many.sample(windows(3))]
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)
    assert torch.equal(one.sample(windows(1))[0].faces, alone[0])


def test_half_precision_on_a_cpu_is_a_type_that_it_is_fast_at() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype(cpu) == pick_dtype(cpu, "fp32") == torch.float32
    assert pick_dtype(cpu, "half") == (torch.bfloat16 if has_bfloat16() else torch.float32)
    assert (
        precision_of("fast") == precision_of("turbo") == "half"
        and precision_of("quality") == precision_of(None) == "auto"
    )
    with pytest.raises(ValueError, match="fp16, which is slow on a CPU"):
        pick_dtype(cpu, "fp16")
    with pytest.raises(ValueError, match="choose auto, half, fp32, bf16, fp16"):
        pick_dtype(cpu, "int8")  # type: ignore[arg-type]


@pytest.mark.parametrize(("cuda", "words"), [(None, "built without CUDA"), ("13.0", "update the driver")])
def test_an_nvidia_gpu_that_pytorch_cannot_use_is_named(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(device, "has_nvidia_driver", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert words in (device.unused_gpu() or "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.unused_gpu() is None, "the user hides it"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(device, "has_nvidia_driver", lambda: False)
    assert device.unused_gpu() is None


def test_memory_that_pytorch_keeps_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2e9, 24e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 20e9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 5e9)
    assert free_bytes(torch.device("cuda")) == 17e9
