"""What to expect on a GPU, from shapes alone: operations, time and memory of a window of 16 frames at full size.

python -m benchmarks.projected [--share 0.21] [--out projected.json]

Operations are counted by PyTorch on tensors without storage. Time is operations / (`--share` x the card's peak in float16 with
float32 sums): a share that one card reached, of a peak that its maker states, so it is a projection, not a measurement. Memory is
that of the weights and of the tensors that are alive at the same time; libraries need some hundred MB in addition.
"""

import argparse
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full_size import CONFIG, PUBLIC_TINY_SHAPE, PUBLIC_VAE_SHAPE
from benchmarks.table import Row, format_table, report
from latentsync.config import UNetRun, load
from latentsync.face.colour import measured_frames
from latentsync.inference.memory import MAX_WINDOWS, PIXELS_AT_ONCE, MemoryPlan
from latentsync.inference.settings import PRESETS, InferenceSettings
from latentsync.inference.windows.latents import LatentSampler
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import build_tiny_vae, build_vae, decode, decode_tiny, encode
from latentsync.weights import LATENT_STRIDE
from scripts.command import run_command

FRAMES, TOKENS, RESOLUTIONS = 16, 50, (256, 512)
# peak of dense matrix products in float16 with sums in float32, in TFLOPS, as NVIDIA states it
CARDS = {"RTX 3060": 25, "RTX 3090": 71, "RTX 4090": 165, "A100": 312, "H200": 989}
MEASURED_SHARE = 0.21  # H200, eager, `quality` at 256 px: 185 TFLOP in 0.893 s (docs/performance.md)


@cache
def networks() -> Mapping[str, nn.Module]:
    """The networks of the public size in half precision, without storage."""
    with torch.device("meta"):
        unet = UNet3DConditionModel(load(CONFIG, UNetRun).net)
        made = {"unet": unet, "vae": build_vae(PUBLIC_VAE_SHAPE), "tiny": build_tiny_vae(PUBLIC_TINY_SHAPE)}
    return {name: net.half().eval() for name, net in made.items()}


def run_network(name: str, resolution: int, batch: int) -> None:
    """One call of a network: `unet` on windows, `encode`, `decode` and `decode tiny` on faces."""
    nets, side = networks(), resolution // LATENT_STRIDE
    unet: Any = nets["unet"]
    if name == "unet":
        audio_kv = unet.project_kv(torch.empty(batch, FRAMES, TOKENS, unet.config.cross_attention_dim))
        unet(torch.empty(batch, unet.config.in_channels, FRAMES, side, side), 1, audio_kv)
    elif name == "encode":
        encode(nets["vae"], torch.empty(batch, 3, resolution, resolution))
    else:
        small, latents = name == "decode tiny", torch.empty(batch, 4, side, side)
        decode_tiny(nets["tiny"], latents) if small else decode(nets["vae"], latents)


@contextmanager
def half_tensors_without_storage() -> Iterator[None]:
    """New tensors are float16 without storage."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.half)
    try:
        with torch.device("meta"), torch.inference_mode():
            yield
    finally:
        torch.set_default_dtype(usual)


@contextmanager
def attention_without_scores() -> Iterator[None]:
    """Attention allocates its result alone, as the fused kernels of a GPU do."""
    attention = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, *_, **__: torch.empty_like(query)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = attention


@cache
def tera_operations(name: str, resolution: int) -> float:
    """Floating point operations of a call on one window or face, in 10^12."""
    with half_tensors_without_storage(), FlopCounterMode(display=False) as counter:
        run_network(name, resolution, 1)
    return float(counter.get_total_flops() / 1e12)


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that were created inside and are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, nbytes = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, nbytes)

    def _remove(self, key: int, nbytes: int) -> None:
        self.known.discard(key)
        self.live -= nbytes


@cache
def activation_gb(name: str, resolution: int, batch: int) -> float:
    """Peak memory of a call beside the weights, in GB."""
    networks()
    with attention_without_scores(), half_tensors_without_storage(), LiveMemory() as memory:
        run_network(name, resolution, batch)
    return memory.peak / 1e9


class NoAudio:
    """Stands in for audio where only calls are counted."""

    def with_unconditional(self) -> "NoAudio":
        return self


@cache
def network_calls(preset: str) -> int:
    """Calls of the U-Net for a window; a guided step makes two."""
    sizes = []

    def unet(sample: Tensor, timestep: int, audio: Any, cache: Any) -> Tensor:
        sizes.append(len(sample))
        return torch.zeros_like(sample[:, :4])

    sampler = LatentSampler(settings_of(preset), 1, LATENT_STRIDE, torch.device("cpu"))
    cell = torch.zeros(1, 4, 1, 1, 1)
    sampler(unet, NoAudio(), cell[:, :1], cell, cell)
    return sum(sizes)


def settings_of(preset: str) -> InferenceSettings:
    return InferenceSettings().changed({"preset": preset})


def window_operations(preset: str, resolution: int) -> float:
    """Operations of a window in 10^12: masked faces and references encoded, sampled, decoded, and the colours measured."""
    decoder = "decode tiny" if settings_of(preset).vae == "auto" else "decode"
    measured = len(measured_frames(FRAMES))
    encoded, decoded = 2 * FRAMES + measured, FRAMES + measured
    faces = encoded * tera_operations("encode", resolution) + decoded * tera_operations(decoder, resolution)
    return network_calls(preset) * tera_operations("unet", resolution) + faces


def time_rows(share: float) -> list[Row]:
    """Operations of each preset, and the frames a second on each card."""
    rows: list[Row] = []
    for resolution in RESOLUTIONS:
        for preset in PRESETS:
            work = window_operations(preset, resolution)
            speeds = {card: round(FRAMES * share * peak / work, 1) for card, peak in CARDS.items()}
            rows.append({"face px": resolution, "preset": preset, "TFLOP a window": round(work, 1), **speeds})
    return rows


def memory_rows() -> list[Row]:
    """Peak memory of every choice of `--memory`; with `auto` it depends on what is free, so some numbers of windows are listed."""
    networks_gb = {name: sum(each.numel() for each in net.parameters()) * 2 / 1e9 for name, net in networks().items()}
    rows: list[Row] = []
    for resolution in RESOLUTIONS:
        frames = max(1, PIXELS_AT_ONCE // resolution**2)
        plans = {"low": MemoryPlan(1, 1, offload=True)}
        plans |= {f"auto, {windows} at once": MemoryPlan(windows, frames) for windows in (1, 2, 4)}
        plans |= {"high": MemoryPlan(MAX_WINDOWS, frames)}
        for name, plan in plans.items():
            weights = networks_gb["unet"] + (0 if plan.offload else networks_gb["vae"])
            sampling = weights + activation_gb("unet", resolution, 2 * plan.windows)
            faces = max(activation_gb(each, resolution, plan.vae_frames) for each in ("encode", "decode"))
            in_faces = networks_gb["unet"] + networks_gb["vae"] + faces
            peaks = {"U-Net GB": round(sampling, 1), "auto-encoder GB": round(in_faces, 1)}
            rows.append(
                {"face px": resolution, "--memory": name, **peaks, "peak GB": round(max(sampling, in_faces), 1)}
            )
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, default=MEASURED_SHARE, help="of the card's peak that is reached")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    memory = memory_rows()
    print(format_table(memory))
    report("projected", time_rows(args.share), args.out, share=args.share, memory=memory)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("projected", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
