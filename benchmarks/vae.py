"""Encoding and decoding faces at the public sizes: `python -m benchmarks.vae [--resolutions 256 512] [--frames 1]`.

The auto-encoder in both memory layouts and, if the processor supports it, in bfloat16, and the small decoder. Weights are random,
which does not affect the time. The ways alternate in one run. `difference`: largest difference from the result of the first row
of the same work, relative to its largest magnitude; empty for the small decoder, which is another network.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from benchmarks.full_size import random_tiny_vae, random_vae
from benchmarks.table import median_ms, report
from latentsync.device import check_precision
from scripts.command import run_command

CPU = torch.device("cpu")
Way = Callable[[], Tensor]


def auto_encoders(tiny: bool) -> dict[str, AutoencoderKL]:
    """The auto-encoder in each memory layout and precision; the others are compared with the first."""
    found = {
        "float32, contiguous": random_vae(tiny).to(memory_format=torch.contiguous_format),
        "float32, channels last": random_vae(tiny),
    }
    try:
        check_precision(CPU, "bf16")
    except ValueError:
        return found
    half = nn.Module.to(random_vae(tiny), torch.bfloat16)  # not diffusers' own `to`, which logs a warning
    return {**found, "bfloat16, channels last": half}


def ways(args: argparse.Namespace, resolution: int) -> dict[tuple[str, str], Way]:
    """(work, network) -> what is timed; each returns its result in float32."""
    generator = torch.Generator().manual_seed(0)
    faces = torch.rand(args.frames, 3, resolution, resolution, generator=generator) * 2 - 1
    latents = torch.randn(args.frames, 4, resolution // 8, resolution // 8, generator=generator)
    found: dict[tuple[str, str], Way] = {}
    for name, vae in auto_encoders(args.tiny).items():
        found["encode", name] = lambda vae=vae: vae.encode(faces.to(vae.dtype)).latent_dist.mean.float()  # type: ignore[misc]
    for name, vae in auto_encoders(args.tiny).items():
        found["decode", name] = lambda vae=vae: vae.decode(latents.to(vae.dtype)).sample.float()  # type: ignore[misc]
    small = random_tiny_vae(args.tiny)
    found["decode", "small decoder, float32"] = lambda: small.decode(latents).sample
    return found


@torch.inference_mode()
def measure(args: argparse.Namespace, resolution: int) -> list[dict[str, Any]]:
    """A row for each way."""
    found, results = ways(args, resolution), {}

    def kept(key: tuple[str, str]) -> Callable[[], None]:
        def run() -> None:
            results[key] = found[key]()

        return run

    taken = median_ms({": ".join(key): kept(key) for key in found}, repeats=1, rounds=args.rounds)
    first: dict[str, tuple[float, Tensor]] = {}
    rows: list[dict[str, Any]] = []
    for (work, name), result in results.items():
        ms = taken[f"{work}: {name}"]
        first.setdefault(work, (ms, result))
        plain_ms, right = first[work]
        is_other = name.startswith("small")
        rows.append(
            {
                "face px": resolution,
                "work": work,
                "network": name,
                "ms a face": round(ms / args.frames, 1),
                "of the first": round(ms / plain_ms, 3),
                "difference": "" if is_other else float((result - right).abs().max() / right.abs().max()),
            }
        )
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256, 512], help="of the face in px")
    parser.add_argument("--frames", type=int, default=1, help="faces at a time")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each way; the median counts")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    rows = [row for resolution in args.resolutions for row in measure(args, resolution)]
    report("vae", rows, args.out, frames=args.frames, rounds=args.rounds, threads=args.threads, tiny=args.tiny)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("vae", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
