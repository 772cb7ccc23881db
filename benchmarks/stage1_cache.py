"""Steps per second of the U-Net's first stage, with cached features and with features computed in every step.

`python -m benchmarks.stage1_cache [--sizes demo mid] [--out FILE.json]`. Clips are synthetic and networks have random weights,
which do not affect the time. Both ways train the same U-Net on the same items and alternate in one run.

demo: the demo's networks and batch, 128 px. mid: a U-Net of 0.3 times the public widths, an auto-encoder of half the public
widths, the public speech encoder (tiny), 256 px, two clips of 4 frames a batch.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from whisper.model import ModelDimensions, Whisper

from benchmarks.table import median_ms, report
from latentsync.config import UNetRun, load
from latentsync.data.clips import find_clips, index_clips
from latentsync.data.features import whisper_feature
from latentsync.device import DTYPES
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.models.vae import build_vae
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.loop import total_loss
from latentsync.training.unet.data import cached_latents
from latentsync.training.unet.train import prepare
from latentsync.weights import DEMO, LATENT_CHANNELS, LATENT_STRIDE, describe, save_checkpoint, save_state
from scripts.command import run_command

CONFIGS = Path(__file__).resolve().parent.parent / "configs/unet"
CLIPS, SECONDS, FPS, SAMPLE_RATE_HZ = 2, 1, 25, 16_000
MID_VAE = {"block_out_channels": [64, 128, 256, 256], "layers_per_block": 2, "norm_num_groups": 32}
WHISPER_TINY = dict(zip(ModelDimensions.__dataclass_fields__, (80, 1500, 384, 6, 4, 8, 8, 16, 1, 1), strict=True))
SIZES: dict[str, tuple[str, tuple[str, ...]]] = {
    "demo": (
        "demo_stage1",
        (f"frozen_networks.vae={DEMO / 'vae.safetensors'}", f"frozen_networks.whisper={DEMO / 'whisper.pt'}"),
    ),
    "mid": ("stage1", ("model.block_out_channels=[96,192,384,384]", "data.num_frames=4", "data.batch_size=2")),
}
WAYS = {"cached": (), "computed": ("data.cached_latents=false", "data.cached_audio=false")}


def make_clips(folder: Path, side: int) -> None:
    """Write clips of moving stripes with noise as audio."""
    folder.mkdir()
    across = np.arange(side)[None, :] + np.arange(side)[:, None]
    for number in range(CLIPS):
        sound = folder / f"{number}.wav"
        noise = np.random.default_rng(number).standard_normal(SECONDS * SAMPLE_RATE_HZ)
        write_wav(sound, (0.1 * noise).astype(np.float32))
        form = VideoFormat.constant(side, side, FPS)
        with VideoWriter(folder / f"{number}.mp4", form, AudioSource(sound)) as writer:
            for frame in range(SECONDS * FPS):
                level = 128 + 100 * np.sin((across + 5 * frame) / 12 + number)
                writer.write(np.repeat(level[..., None], 3, axis=2).astype(np.uint8))


def make_frozen_networks(folder: Path) -> tuple[str, ...]:
    """The auto-encoder and the speech encoder of the size mid with random weights, as configuration entries."""
    save_checkpoint(folder / "vae.safetensors", build_vae(MID_VAE).state_dict(), describe("vae", MID_VAE, 0))
    whisper = Whisper(ModelDimensions(**WHISPER_TINY))
    save_state(folder / "whisper.pt", {"dims": WHISPER_TINY, "model_state_dict": whisper.state_dict()})
    return f"frozen_networks.vae={folder / 'vae.safetensors'}", f"frozen_networks.whisper={folder / 'whisper.pt'}"


def configurations(size: str, folder: Path, precision: str) -> dict[str, UNetRun]:
    """The configuration of each way; makes the clips and fills the cache, so that neither is timed."""
    config, overrides = SIZES[size]
    frozen_networks = make_frozen_networks(folder) if size == "mid" else ()
    common = (
        *overrides,
        *frozen_networks,
        f"data.train_data_dir={folder / 'clips'}",
        f"data.cache_dir={folder / 'cache'}",
        "data.num_workers=0",
        f"train.precision={precision}",
    )
    runs = {
        way: load(CONFIGS / f"{config}.yaml", UNetRun, [*common, *own, f"data.train_output_dir={folder / way}"])
        for way, own in WAYS.items()
    }
    cached = runs["cached"]
    make_clips(folder / "clips", cached.data.resolution)
    clips = index_clips(find_clips(cached.data.train_data_dir), 1, cached.data.cache_dir).clips
    list(whisper_feature(cached.data.cache_dir, cached.frozen_networks.whisper).fill(clips))
    side, store = cached.data.resolution // LATENT_STRIDE, cached_latents(cached).store
    for clip in clips:  # reading from the cache takes the same time for any values
        names = ("latents", "masked_latents")
        store.put(clip.key, {name: torch.randn(clip.frames, LATENT_CHANNELS, side, side).half() for name in names})
    return runs


class Steps:
    """Training steps: items, losses, gradients, optimizer, average of weights; without logs and checkpoints."""

    def __init__(self, run: UNetRun):
        self.training, self.run = prepare(run, Processes(cpu=True)), run
        self.position = 0

    def __call__(self) -> None:
        trainer, dtype = self.training.trainer, DTYPES[self.run.train.precision]
        batch, positions = trainer.batches.next(self.position)
        self.position += self.run.data.batch_size
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(trainer.processes.device.type, dtype, enabled=dtype != torch.float32):
            losses = trainer.wrapped(batch, positions)
        total_loss(losses, self.run.train.loss_weights).backward()
        trainer.optimizer.step()
        trainer.ema.update(trainer.objective, self.position)


def measure(size: str, steps: int, rounds: int, precision: str) -> dict[str, Any]:
    """One row: steps per second of each way from the median step; the ways alternate."""
    with tempfile.TemporaryDirectory() as name:
        runs = configurations(size, Path(name), precision)
        taken = median_ms({way: Steps(run) for way, run in runs.items()}, steps, rounds)
    row = {f"{way} steps/s": round(1e3 / ms, 4) for way, ms in taken.items()}
    return {"size": size, **row, "ratio": round(taken["computed"] / taken["cached"], 2)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a turn, after one that is not timed")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both ways")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    rows = [measure(size, args.steps, args.rounds, args.precision) for size in args.sizes]
    settings = {name: getattr(args, name) for name in ("steps", "rounds", "precision", "threads")}
    report("stage1_cache", rows, args.out, **settings)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("stage1_cache", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
