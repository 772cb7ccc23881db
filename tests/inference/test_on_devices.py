"""Inference on simulated devices: nothing is mixed up, nothing is copied in the step loop, and no large tensor is copied twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsync import device as devices
from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.device import Precision, pick_device, pick_dtype, spread_devices
from latentsync.diffusion.solvers import SOLVERS
from latentsync.face.masks import load_mask
from latentsync.inference.memory import MemoryPlan, memory_plan
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows import finish
from latentsync.inference.windows.finish import NewFaces
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.models.attention import AudioKV
from latentsync.models.unet.network import DeepCache
from tests.support.device_labels import CPU, Copy, Kind, place_of, repeated
from tests.support.simulated_device import SimulatedDevice
from tests.support.tiny import RESOLUTION, StubDetector, make_audio, make_video, read, scene, waveform
from tests.support.tiny_on_device import PLACES, models_at, windows_at

STEPS = 2
CASES: list[dict[str, Any]] = [
    *({"solver": solver.name, "guidance_scale": 1.0 if solver.needs_distilled else 1.5} for solver in SOLVERS),
    {"guidance_interval": (0.0, 0.5), "init": "reference"},
    {"deepcache_interval": 2},
    {"colour": "decoded"},
    {"vae": "tiny", "texture": "match"},
]


def settings_of(entries: dict[str, Any]) -> InferenceSettings:
    return InferenceSettings(**{"steps": STEPS, "guidance_scale": 1.0, "colour": "matched", **entries})


def sampled(
    models: LipsyncModels, simulated: SimulatedDevice, settings: InferenceSettings, count: int = 1
) -> tuple[list[NewFaces], list[Copy]]:
    """Some windows, one after the other, and the copies between their first and last steps."""
    copies, marks = [], []

    def on_step(done: int, total: int) -> None:
        marks.append(len(simulated.copies))
        if done == total:
            copies.extend(simulated.copies[marks[-total] : marks[-1]])

    windows, models = windows_at(models, count), replace(models, distilled=settings.needs_distilled_weights)
    simulated.copies.clear()
    return WindowSampler(models, settings, Stopwatch(), MemoryPlan(1, 4)).sample(windows, on_step), copies


@pytest.mark.parametrize(("kind", "precision"), PLACES)
@pytest.mark.parametrize("entries", CASES, ids=lambda entries: "-".join(map(str, entries.values())))
def test_windows_are_sampled_without_a_copy_between_steps(
    kind: Kind, precision: Precision, entries: dict[str, Any]
) -> None:
    with SimulatedDevice(kind) as simulated:
        results, in_steps = sampled(models_at(simulated.device, precision), simulated, settings_of(entries))
    assert [(result.rejection, place_of(result.faces), result.faces.dtype) for result in results] == [
        (None, CPU, torch.float32)
    ]
    assert not in_steps


@pytest.mark.parametrize("solver", [solver.name for solver in SOLVERS])
def test_no_large_tensor_is_copied_for_every_window(solver: str) -> None:
    with SimulatedDevice() as simulated:
        models = models_at(simulated.device, "fp16")
        results, in_steps = sampled(models, simulated, settings_of({"solver": solver}), count=2)
    assert len(results) == 2 and not in_steps and not repeated(simulated.copies)


def test_a_window_goes_to_the_device_once_and_comes_back_once() -> None:
    """Faces as bytes; back come where detail is kept, and the rectangle around the mask."""
    with SimulatedDevice() as simulated:
        sampled(models_at(simulated.device), simulated, settings_of({"texture": "match"}), count=2)
    large = [copy for copy in simulated.copies if copy.nbytes > 4096]
    assert [(copy.direction, copy.dtype) for copy in large] == 2 * [
        ("to device", torch.uint8),
        *2 * [("to host", torch.float32)],
    ]


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_computes_what_the_cpu_computes(kind: Kind) -> None:
    settings, there = settings_of({"guidance_scale": 1.5, "texture": "match"}), SimulatedDevice(kind)
    models = models_at(CPU)
    here = WindowSampler(models, settings, Stopwatch(), MemoryPlan(1, 4)).sample(windows_at(models, 2))
    with there:
        results, _ = sampled(models_at(there.device), there, settings, count=2)
    for first, second in zip(here, results, strict=True):
        torch.testing.assert_close(first.faces, second.faces, rtol=0, atol=1e-4)
        torch.testing.assert_close(first.detail, second.detail, rtol=0, atol=1e-3)


def test_the_auto_encoder_waits_on_the_host_where_memory_is_low() -> None:
    with SimulatedDevice() as simulated:
        models, places = models_at(simulated.device, "fp16"), set()
        plan = memory_plan("low", simulated.device, models.resolution)

        def place_of_vae(done: int, total: int) -> None:
            places.add(place_of(models.vae.quant_conv.weight))

        sampler = WindowSampler(models, settings_of({}), Stopwatch(), plan)
        (result,) = sampler.sample(windows_at(models), place_of_vae)
        assert plan.offload and places == {CPU}
        assert {place_of(parameter) for parameter in models.vae.parameters()} == {simulated.device}
    assert result.rejection is None


def test_a_rejected_window_is_sampled_again_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    rejections = iter(["not a number"])
    monkeypatch.setattr(finish, "rejection_reason", lambda *_: next(rejections, None))
    with SimulatedDevice() as simulated:
        models = models_at(simulated.device, "fp16")
        results, in_steps = sampled(models, simulated, settings_of({"guidance_scale": 1.5}), count=2)
        parameters = [*models.unet.parameters(), *models.vae.parameters()]
        assert {(place_of(each), each.dtype) for each in parameters} == {(simulated.device, torch.float16)}
    assert [(result.rejection, result.retried) for result in results] == [(None, True), (None, False)]
    assert not in_steps


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_speech_features_are_those_of_the_cpu(kind: Kind) -> None:
    sound, frames = waveform(3.0), range(40)
    expected = WhisperFeatures(models_at(CPU).audio_encoder).track(sound).windows(frames)
    with SimulatedDevice(kind) as simulated:
        track = WhisperFeatures(models_at(simulated.device).audio_encoder).track(sound)
        simulated.copies.clear()
        found = track.windows(frames)
        assert found.device == simulated.device
        assert not repeated(simulated.copies)
        torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize(("kind", "precision"), [("cuda", "fp16"), ("mps", "fp32")])
def test_a_whole_job_runs_in_its_threads(tmp_path: Path, kind: Kind, precision: Precision) -> None:
    """The video has several windows and is played back and forth, so that latents are cached."""
    video, sound = make_video(tmp_path / "v.mkv", 10), make_audio(tmp_path / "a.wav", 0.6)
    settings = settings_of({"guidance_scale": 1.5, "steps": 2, "reference": "elsewhere"})
    with SimulatedDevice(kind) as simulated:
        pipeline = LipsyncPipeline(models_at(simulated.device, precision), StubDetector())
        options = JobOptions(codec="ffv1", length="bounce")
        pipeline(video, sound, tmp_path / "o.mkv", settings, options)  # constants are copied once in a process
        simulated.copies.clear()
        report = pipeline(video, sound, tmp_path / "o.mkv", settings, options)
    assert report.device == str(simulated.device)
    assert set(report.actions) == {"synced"} and len(read(tmp_path / "o.mkv")) == 15
    again = [copy for copy in repeated(simulated.copies) if copy.direction == "to device"]
    assert {copy.dtype for copy in again} == {
        torch.uint8
    }  # the bytes of frames that are shown again, or are a reference too


def test_a_live_stream_gives_the_frames_of_the_cpu() -> None:
    settings = settings_of({"reference": "elsewhere", "overlap": 1, "steps": 2})
    frames, references = [scene(index) for index in range(9)], [scene(index) for index in range(9, 12)]

    def streamed(place: torch.device) -> list[np.ndarray]:
        pipeline = LipsyncPipeline(models_at(place), StubDetector())
        stream = pipeline.stream(waveform(0.5), settings=settings, reference_frames=references)
        done = [out for frame in frames for out in stream.push(frame)] + stream.flush()
        assert all(out.edited for out in done)
        return [out.frame.astype(np.int16) for out in done]

    here = streamed(CPU)
    with SimulatedDevice() as simulated:
        there = streamed(simulated.device)
    assert max(np.abs(first - second).max() for first, second in zip(here, there, strict=True)) <= 1


def test_a_gpu_is_chosen_with_its_precision_and_memory() -> None:
    with SimulatedDevice("cuda") as simulated:
        assert pick_device().type == "cuda" and pick_device("cuda:0") == simulated.device
        assert pick_dtype(simulated.device) == torch.float16 and spread_devices(2) == 2 * [simulated.device]
        assert memory_plan("auto", simulated.device, 256) == MemoryPlan(8, 16)
        with pytest.raises(ValueError, match="has no device"):
            pick_device("mps")
    with SimulatedDevice("mps") as simulated:
        assert pick_device().type == "mps" and pick_dtype(simulated.device) == torch.float32
        assert memory_plan("auto", simulated.device, 256) == MemoryPlan(3, 16)
    assert pick_device().type == "cpu"


# Planted mistakes: each must be found.
Spoil = Callable[[Tensor], Tensor]  # of the U-Net's input
COPIES: dict[str, Spoil] = {
    "there and back": lambda sample: sample.cpu().to(sample.device),
    "a value is read": lambda sample: sample * float(sample.mean()),
    "a condition": lambda sample: sample if bool((sample > 0).any()) else -sample,
    "numbers from the host": lambda sample: sample + torch.tensor([1.0], device=sample.device, dtype=sample.dtype),
    "chosen elements": lambda sample: sample.index_fill(0, sample[:, 0, 0, 0, 0].nonzero()[:0, 0], 0.0),
}
ERRORS: dict[str, tuple[Spoil, str]] = {
    "a tensor of the host": (lambda sample: sample + torch.zeros(sample.shape), "same device"),
    "a generator of the host": (
        lambda sample: torch.randn(sample.shape, generator=torch.Generator(), device=sample.device),
        "generator",
    ),
    "a generator of the host, in place": (lambda sample: sample.normal_(generator=torch.Generator()), "generator"),
    "an array": (lambda sample: torch.from_numpy(sample.numpy()), "numpy"),
    "an array by numpy": (lambda sample: torch.from_numpy(np.asarray(sample)), "numpy"),
    "another type": (lambda sample: sample.float(), "one type"),
}


def sampled_with(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> list[Copy]:
    """Copies between the steps of a U-Net in float16 whose input is spoiled."""
    with SimulatedDevice() as simulated:
        models = models_at(simulated.device, "fp16")
        forward = type(models.unet).forward

        def spoiled(unet: Any, sample: Tensor, timestep: int, audio: AudioKV, cache: DeepCache | None = None) -> Tensor:
            return forward(unet, spoil(sample), timestep, audio, cache)

        monkeypatch.setattr(type(models.unet), "forward", spoiled)
        return sampled(models, simulated, settings_of({}))[1]


@pytest.mark.parametrize("spoil", COPIES.values(), ids=COPIES.keys())
def test_a_planted_copy_in_the_step_loop_is_found(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    copies = sampled_with(monkeypatch, spoil)
    assert {copy.line.split(":")[0] for copy in copies} == {"tests/inference/test_on_devices.py"}


@pytest.mark.parametrize(("spoil", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_a_planted_mistake_raises(monkeypatch: pytest.MonkeyPatch, spoil: Spoil, message: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=message):
        sampled_with(monkeypatch, spoil)


def test_planted_attention_of_views_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "IGNORES_STRIDES", ())
    with SimulatedDevice("mps") as simulated, pytest.raises(RuntimeError, match="not contiguous"):
        sampled(models_at(simulated.device), simulated, settings_of({}))


def test_a_planted_second_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    host = load_mask(RESOLUTION)
    mask = property(lambda sampler: host.to(sampler.models.device), lambda sampler, given: None)
    monkeypatch.setattr(WindowSampler, "mask", mask, raising=False)
    with SimulatedDevice() as simulated:
        models, settings = models_at(simulated.device), settings_of({})
        sampled(models, simulated, settings)  # constants are copied once in a process
        sampled(models, simulated, settings, count=2)
    assert [copy.shape for copy in repeated(simulated.copies)] == [(32, 32), (32, 32)]
