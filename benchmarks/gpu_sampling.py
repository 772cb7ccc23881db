"""Sampling and whole jobs at full size with random weights, as phases of `benchmarks.gpu`."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from whisper.model import AudioEncoder

from benchmarks.full_size import filled, random_tiny_vae, random_unet, random_vae
from benchmarks.table import Row
from latentsync.device import DTYPES, check_compiler, pick_device
from latentsync.face.detection.detector import make_detector
from latentsync.inference.memory import MemoryChoice, MemoryPlan, memory_plan
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.models.unet.compiled import compile_blocks
from latentsync.models.vae import decode, encode
from latentsync.weights import LATENT_CHANNELS, LATENT_STRIDE

NUM_FRAMES, TOKENS, TINY_PX = 16, 50, 64
LISTED = 6  # stages of a job
KERNELS, KERNEL_NAME = 12, 70  # listed, and characters of a name


def random_models(args: argparse.Namespace, resolution: int) -> LipsyncModels:
    """All networks with random weights on the device."""
    device, dtype = pick_device(args.device), DTYPES[args.precision]
    unet = random_unet(args.tiny).to(device, dtype)
    vae, small = (nn.Module.to(make(args.tiny), device, dtype) for make in (random_vae, random_tiny_vae))
    width = unet.config.cross_attention_dim
    encoder = nn.Module.to(filled(AudioEncoder(80, 1500, width, 6 if width % 6 == 0 else 2, 4)), device)
    return LipsyncModels(unet, vae, encoder, resolution, NUM_FRAMES, device, dtype, tiny_vae=small)


def random_windows(models: LipsyncModels, count: int) -> list[Window]:
    """Windows of random faces and audio features."""
    rng, side = np.random.default_rng(0), models.resolution
    faces = rng.integers(0, 256, (NUM_FRAMES, side, side, 3), dtype=np.uint8)
    audio = torch.randn(NUM_FRAMES, TOKENS, models.unet.config.cross_attention_dim).to(models.device)
    return [Window(faces, audio) for _ in range(count)]


def synchronise(device: torch.device) -> None:
    """Wait until all work queued on the device is done."""
    module = getattr(torch, device.type)
    if hasattr(module, "synchronize"):
        module.synchronize()


def peak_gb(device: torch.device) -> float | None:
    """Peak memory allocated on an accelerator since the last call, in GB; None if the device does not report it."""
    module: Any = getattr(torch, device.type)
    if not hasattr(module, "max_memory_allocated"):
        return None
    peak = module.max_memory_allocated() / 1e9
    module.reset_peak_memory_stats()
    return round(peak, 2)


def group_sampler(models: LipsyncModels, settings: InferenceSettings, plan: MemoryPlan) -> WindowSampler:
    """A sampler of windows with this memory plan."""
    models = replace(models, distilled=settings.needs_distilled_weights)
    sampler = WindowSampler(models, settings, Stopwatch())
    sampler.memory = plan
    return sampler


def measure(models: LipsyncModels, settings: InferenceSettings, args: argparse.Namespace) -> dict[str, Any]:
    """Times of groups of `args.windows` windows; the first group of each way is not counted."""
    plan = replace(memory_plan("high", models.device, models.resolution), windows=args.windows)
    sampler, windows = group_sampler(models, settings, plan), random_windows(models, args.windows)
    begun = time.perf_counter()
    sampler.sample(windows)
    synchronise(models.device)
    first = time.perf_counter() - begun
    peak_gb(models.device)
    begun = time.perf_counter()
    for _ in range(args.rounds):
        sampler.sample(windows)
    synchronise(models.device)
    whole = (time.perf_counter() - begun) / args.rounds / args.windows
    step = denoising_sec(sampler, windows) / settings.steps / args.windows
    return {
        "ms a step": round(1e3 * step, 2),
        "ms a window": round(1e3 * whole, 1),
        "fps": round(NUM_FRAMES / whole, 1),
        "peak GB": peak_gb(models.device),
        "first s": round(first, 1),
    }


@torch.inference_mode()
def denoising_sec(sampler: WindowSampler, windows: Sequence[Window]) -> float:
    """Seconds of the denoising loop alone."""
    device, side = sampler.models.device, sampler.latents.noise.shape[-1]
    latents = torch.randn(len(windows), *sampler.latents.noise.shape[1:]).to(device)
    masks = torch.ones(NUM_FRAMES, 1, side, side, device=device)
    audio = torch.stack([window.audio for window in windows])
    synchronise(device)
    begun = time.perf_counter()
    sampler.denoise(latents, masks, audio, latents, lambda done, total: None)
    synchronise(device)
    return time.perf_counter() - begun


def ways(args: argparse.Namespace, models: LipsyncModels) -> Iterator[tuple[str, str]]:
    """(way, decoder) in the order in which they are measured: compiling the blocks cannot be undone."""
    yield "eager", "full"
    yield "eager", "tiny"
    if args.compile:
        check_compiler(models.device)
        compile_blocks(models.unet)
        yield "compiled", "full"
        yield "compiled", "tiny"


def window_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Every preset at every face size, eager and compiled, with both decoders."""
    for resolution in args.resolutions:
        models = random_models(args, resolution)
        for way, vae in ways(args, models):
            for preset in args.presets:
                settings = InferenceSettings().changed({"preset": preset, "vae": vae})
                facts = {"face px": resolution, "way": way, "vae": vae, "preset": preset, "steps": settings.steps}
                yield {**facts, **measure(models, settings, args)}


def job_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Whole jobs, from file to file, at the largest face: `fast`, then `turbo` with the small decoder, compiled if possible."""
    models = random_models(args, max(args.resolutions))
    if args.compile:
        check_compiler(models.device)
        compile_blocks(models.unet)
    for preset, vae in (("fast", "full"), ("turbo", "tiny")):
        settings = InferenceSettings().changed({"preset": preset, "vae": vae})
        facts = {"face px": models.resolution, "way": "compiled" if args.compile else "eager"}
        yield {**facts, "vae": vae, "preset": preset, **job_row(models, settings, args)}


def memory_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Peak memory of a group of windows, for every face size, preset and choice of `--memory`."""
    for resolution in args.resolutions:
        models = random_models(args, resolution)
        for choice in get_args(MemoryChoice):
            plan = memory_plan(choice, models.device, resolution)
            for preset in args.presets:
                sampler = group_sampler(models, InferenceSettings().changed({"preset": preset}), plan)
                peak_gb(models.device)
                sampler.sample(random_windows(models, plan.windows))
                facts = {"face px": resolution, "--memory": choice, "windows": plan.windows, "preset": preset}
                yield {**facts, "peak GB": peak_gb(models.device)}


def kernel_rows(args: argparse.Namespace) -> Iterator[Row]:
    """The longest kernels of a guided step of the U-Net and of the auto-encoder, at the largest face."""
    models = random_models(args, max(args.resolutions))
    for way in ("eager", "compiled") if args.compile else ("eager",):
        if way == "compiled":
            check_compiler(models.device)
            compile_blocks(models.unet)
        for work, compute in works_of(models, args.windows).items():
            for kernel in longest_kernels(compute, models.device):
                yield {"work": work, "way": way, **kernel}


def works_of(models: LipsyncModels, windows: int) -> dict[str, Callable[[], Any]]:
    """What is looked into: a step of the U-Net with guidance for some windows, and encoding and decoding some faces."""
    settings = InferenceSettings().changed({"preset": "fast", "steps": 1, "guidance_interval": (0.0, 1.0)})
    plan = replace(memory_plan("high", models.device, models.resolution), windows=windows)
    sampler, batch = group_sampler(models, settings, plan), random_windows(models, windows)
    side = models.resolution // LATENT_STRIDE
    pixels = torch.rand(plan.vae_frames, 3, models.resolution, models.resolution).to(models.device, models.dtype)
    latents = torch.randn(plan.vae_frames, LATENT_CHANNELS, side, side).to(models.device, models.dtype)
    return {
        f"U-Net, {windows} windows": lambda: denoising_sec(sampler, batch),
        f"encode {plan.vae_frames} faces": torch.inference_mode()(lambda: encode(models.vae, pixels)),
        f"decode {plan.vae_frames} faces": torch.inference_mode()(lambda: decode(models.vae, latents)),
    }


def longest_kernels(compute: Callable[[], Any], device: torch.device) -> Iterator[Row]:
    """The kernels that take most of the time at the second run, in milliseconds, with their share of the time of all."""
    activity = getattr(ProfilerActivity, device.type.upper(), ProfilerActivity.CPU)
    compute()
    synchronise(device)
    with profile(activities={ProfilerActivity.CPU, activity}) as profiled:
        compute()
        synchronise(device)
    name = "self_cpu_time_total" if activity == ProfilerActivity.CPU else "self_device_time_total"
    spent = sorted(((getattr(each, name), each) for each in profiled.key_averages()), key=lambda pair: -pair[0])
    whole = sum(each for each, _ in spent)
    for microseconds, each in spent[:KERNELS]:
        yield {
            "kernel": each.key[:KERNEL_NAME],
            "calls": each.count,
            "ms": round(microseconds / 1e3, 2),
            "share": round(microseconds / whole, 3),
        }


def job_row(models: LipsyncModels, settings: InferenceSettings, args: argparse.Namespace) -> dict[str, Any]:
    """A whole job with the given files, at its second run: frames a second, and the shares of its longest stages."""
    pipeline = LipsyncPipeline(replace(models, distilled=settings.needs_distilled_weights), make_detector())
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            peak_gb(models.device)
            begun = time.perf_counter()
            done = pipeline(args.video, args.audio, Path(folder) / "o.mp4", settings)
            whole = time.perf_counter() - begun
    stages = sorted(done.timings_sec.items(), key=lambda stage: -stage[1])
    return {
        "fps": round(done.frames / whole, 1),
        "peak GB": peak_gb(models.device),
        "frames": done.frames,
        "synced": done.synced_frames,
        "stages": ", ".join(f"{name} {sec / whole:.0%}" for name, sec in stages[:LISTED]),
    }
