"""One guided window of the full-size U-Net, computed naively and as in inference: `python -m benchmarks.unet_window`.

plain: float32, eager, keys and values of the audio computed in every step, both branches of guidance in full. ours: keys and values
computed once a window, and nothing for the audio of the unconditional branch; in float32, and in bfloat16 if the processor supports
it. `--deepcache N` adds a way that runs the whole network only in every N-th step; `--steps N` then measures one full step and
N - 1 cached ones. Weights are random, which does not affect the time, but does affect the error of DeepCache. The ways alternate in
one run. `difference`: largest difference from the plain result, relative to its largest magnitude. `cpu s`: processor time, which
with `--threads 1` is the number that other programs disturb least.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.full_size import random_unet
from benchmarks.table import report
from latentsync.device import check_precision
from latentsync.diffusion.denoisers import conditioned, guided
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.diffusion.solvers import ddim_sample
from latentsync.models.attention import AudioKV
from latentsync.models.unet.compiled import compile_blocks
from latentsync.models.unet.network import DeepCache, UNet3DConditionModel
from scripts.command import run_command

GUIDANCE, TOKENS = 1.5, 50  # TOKENS: audio tokens per frame of the public speech encoder
CPU = torch.device("cpu")


@dataclass(frozen=True)
class PlainAudio:
    """Audio windows b f s d, zeros included, whose keys and values are computed in every step."""

    windows: Tensor

    def with_unconditional(self) -> "PlainAudio":
        return PlainAudio(torch.cat([torch.zeros_like(self.windows), self.windows]))


class WindowInputs:
    """Random inputs of a window."""

    def __init__(self, frames: int, side: int, width: int):
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.noise, self.masked, self.reference = (draw(1, 4, frames, side, side) for _ in range(3))
        self.mask = torch.ones(1, 1, 1, side, side)
        self.audio = draw(1, frames, TOKENS, width)


def window(
    unet: UNet3DConditionModel, inputs: WindowInputs, steps: int, is_plain: bool, deepcache: int | None = None
) -> Tensor:
    """Latents of the window after `steps` guided steps; `is_plain` computes the audio's keys and values in every step;
    `deepcache` is the interval of whole steps."""
    dtype, schedule = unet.conv_in.weight.dtype, NoiseSchedule()
    cache = None if deepcache is None else DeepCache(deepcache)

    def predict(sample: Tensor, timestep: int, audio: AudioKV | PlainAudio) -> Tensor:
        kv = unet.project_kv(audio.windows) if isinstance(audio, PlainAudio) else audio
        return unet(sample.to(dtype), timestep, kv, cache).float()

    audio = inputs.audio.to(dtype)
    condition = PlainAudio(audio) if is_plain else unet.project_kv(audio)
    denoise = guided(conditioned(predict, inputs.mask, inputs.masked, inputs.reference), condition, GUIDANCE)
    return ddim_sample(denoise, inputs.noise, schedule.ddim_timesteps(steps), schedule)


def ways(args: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    """The ways to compute the window by name; each has its own copy of the network in its precision."""
    unet = random_unet(args.tiny)
    inputs = WindowInputs(args.frames, args.side, unet.config.cross_attention_dim)
    found: dict[str, Callable[[], Tensor]] = {"plain fp32": partial(window, unet, inputs, args.steps, is_plain=True)}
    for name, dtype in formats().items():
        net = unet if dtype == torch.float32 else random_unet(args.tiny, dtype)
        ours = partial(window, net, inputs, args.steps, is_plain=False)
        found[f"ours {name}"] = ours
        if args.deepcache:
            found[f"ours {name}, DeepCache {args.deepcache}"] = partial(ours, deepcache=args.deepcache)
        if args.compile:
            compiled = random_unet(args.tiny, dtype)
            compile_blocks(compiled)
            found[f"ours {name}, compiled"] = partial(window, compiled, inputs, args.steps, is_plain=False)
    return found


def formats() -> dict[str, torch.dtype]:
    """The precisions that this processor supports natively, by name."""
    try:
        check_precision(CPU, "bf16")
    except ValueError:
        return {"fp32": torch.float32}
    return {"fp32": torch.float32, "bf16": torch.bfloat16}


@torch.inference_mode()
def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every way, with the time of its fastest round."""
    taken: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    results: dict[str, Tensor] = {}
    found = ways(args)
    for _ in range(args.rounds):
        for name, way in found.items():
            begun = time.perf_counter(), time.process_time()
            results[name] = way()
            taken.setdefault(name, []).append(time.perf_counter() - begun[0])
            processor.setdefault(name, []).append(time.process_time() - begun[1])
    plain, right = min(taken["plain fp32"]), results["plain fp32"]
    return [
        {
            "way": name,
            "s a window": round(min(times), 2),
            "of plain": round(min(times) / plain, 3),
            "cpu s": round(min(processor[name]), 2),
            "difference": float((results[name] - right).abs().max() / right.abs().max()),
        }
        for name, times in taken.items()
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=32, help="of the latents; 32 is a face of 256 px")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each way; the fastest counts")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--compile", action="store_true", help="compiled blocks too; the first round compiles them")
    parser.add_argument(
        "--deepcache", type=int, metavar="N", help="also with the whole network in every N-th step only"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    settings = {
        name: getattr(args, name)
        for name in ("side", "frames", "steps", "rounds", "threads", "tiny", "compile", "deepcache")
    }
    report("unet_window", measure(args), args.out, **settings)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("unet_window", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
