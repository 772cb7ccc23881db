"""Time of sampling at full size for every preset: `python -m benchmarks.gpu --out gpu.json`.

Random weights of the public sizes, bfloat16, faces of 256 and 512 px. Windows are encoded, sampled and decoded as in inference,
without reading or writing a video: eager, then with compiled blocks, each with the full and the small decoder. `--video` and
`--audio` add whole jobs, from file to file, with the default face detector. The JSON file is rewritten after every row, so an
interrupted run keeps its rows. It takes less than ten minutes on a data-centre GPU.

To try the script on any machine: `python -m benchmarks.gpu --device cpu --tiny --video VIDEO --audio AUDIO`.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from whisper.model import AudioEncoder

from benchmarks.full_size import filled, random_tiny_vae, random_unet, random_vae
from benchmarks.table import format_table, machine_facts, report
from latentsync.device import DTYPES, check_compiler, pick_device
from latentsync.face.detection.detector import make_detector
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import PRESETS, InferenceSettings
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.models.unet.network import compile_blocks
from scripts.command import run_command

NUM_FRAMES, TOKENS, TINY_PX = 16, 50, 64
LISTED = 6  # stages of a job


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


def measure(models: LipsyncModels, settings: InferenceSettings, args: argparse.Namespace) -> dict[str, Any]:
    """Times of groups of `args.windows` windows; the first group of each way is not counted."""
    models = replace(models, distilled=settings.needs_distilled_weights)
    sampler, windows = WindowSampler(models, settings, Stopwatch()), random_windows(models, args.windows)
    sampler.memory = replace(sampler.memory, windows=args.windows, offload=False)
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


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for resolution in args.resolutions:
        models = random_models(args, resolution)
        for way, vae in ways(args, models):
            for preset in args.presets:
                settings = InferenceSettings().changed({"preset": preset, "vae": vae})
                facts = {"face px": resolution, "way": way, "vae": vae, "preset": preset, "steps": settings.steps}
                yield {**facts, **measure(models, settings, args)}
                if args.video:
                    yield {**facts, **job_row(models, settings, args)}


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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", help="default: the best available")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and faces, to try the script")
    parser.add_argument("--resolutions", type=int, nargs="+", help="of the face in px (default: 256 512)")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--precision", choices=DTYPES, help="default: bf16, on a CPU fp32")
    parser.add_argument("--no_compile", dest="compile", action="store_false")
    parser.add_argument("--windows", type=int, default=4, help="sampled together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--video", type=Path, help="measure whole jobs too, with this video")
    parser.add_argument("--audio", type=Path, help="and this sound")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    on_cpu = pick_device(args.device).type == "cpu"
    args.precision = args.precision or ("fp32" if on_cpu else "bf16")
    args.resolutions = args.resolutions or ([TINY_PX] if args.tiny else [256, 512])
    if args.tiny:
        args.windows = args.rounds = 1
    args.compile = args.compile and not args.tiny
    return args


def bench(args: argparse.Namespace) -> None:
    done = []
    print(machine_facts()["accelerator"] or machine_facts()["processor"], flush=True)
    for row in rows(args):
        done.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        if args.out:
            report("gpu", done, args.out, precision=args.precision, windows=args.windows, rounds=args.rounds)
    for table in (False, True):  # of windows, of whole jobs
        chosen = [row for row in done if ("stages" in row) == table]
        print(format_table(chosen) if chosen else "")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("gpu", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
