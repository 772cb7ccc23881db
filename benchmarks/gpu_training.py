"""Training steps with random networks and batches, as a phase of `benchmarks.gpu`."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.full_size import filled
from benchmarks.gpu_sampling import peak_gb, synchronise
from benchmarks.table import Row
from latentsync.config import UNetRun, load
from latentsync.config.syncnet_run import SyncNetRun
from latentsync.device import DTYPES, pick_device
from latentsync.face.masks import latent_mask, load_mask
from latentsync.models.syncnet import StableSyncNet
from latentsync.training.engine.loop import total_loss
from latentsync.training.syncnet.dry_run import meta_batch as meta_sync_batch
from latentsync.training.syncnet.step import SyncNetWithHeads
from latentsync.training.unet.dry_run import frozen_nets, meta_batch, meta_step
from latentsync.training.unet.step import UNetStep, choose_trainable

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
UNET_RUNS = ("stage1", "stage2_efficient", "stage2", "stage1_512")
TINY_RUNS = ("demo_stage1", "demo_stage2")
SYNCNET = f"frozen_networks.syncnet_config={CONFIGS}/syncnet/syncnet_16_pixel_attn.yaml"
WARM_UP, STEPS = 2, 5


def training_rows(args: argparse.Namespace) -> Iterator[Row]:
    """A step of every stage of the U-Net's training, and of the SyncNet's."""
    device = pick_device(args.device)
    for name in TINY_RUNS if args.tiny else UNET_RUNS:
        yield {"stage": name, **step_row(unet_step(name, device), device, args)}
    yield {
        "stage": "SyncNet",
        **step_row(syncnet_step("demo" if args.tiny else "syncnet_16_pixel_attn", device), device, args),
    }


def unet_step(name: str, device: torch.device) -> tuple[nn.Module, Any]:
    """The objective and a batch of a configuration of configs/unet."""
    run = load(CONFIGS / "unet" / f"{name}.yaml", UNetRun, [SYNCNET])
    empty = meta_step(run)
    for net in (empty.unet, *frozen_nets(empty).values()):
        filled(net).to(device)
    choose_trainable(empty.unet, run.trainable_modules)
    mask = latent_mask(load_mask(run.data.resolution))
    step = UNetStep(empty.unet, mask, run.objective, run.train.seed, empty.pixel_losses, empty.encoder)
    return step.to(device), on_device(meta_batch(run), device)


def syncnet_step(name: str, device: torch.device) -> tuple[nn.Module, Any]:
    """The objective and a batch of a configuration of configs/syncnet."""
    run = load(CONFIGS / "syncnet" / f"{name}.yaml", SyncNetRun)
    objective = SyncNetWithHeads(StableSyncNet(run.net), run.data.num_frames, run.data.known_mouths)
    return objective.to(device), on_device(meta_sync_batch(run), device)


def on_device(batch: Any, device: torch.device) -> Any:
    """A batch of shapes with random values on the device."""
    tensors = {each.name: getattr(batch, each.name) for each in fields(batch)}
    return replace(
        batch, **{k: torch.randn(v.shape, device=device) for k, v in tensors.items() if isinstance(v, Tensor)}
    )


def step_row(training: tuple[nn.Module, Any], device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step with its optimizer, and the peak memory; the first steps are not counted."""
    objective, batch = training
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    size = len(next(value for value in vars(batch).values() if isinstance(value, Tensor)))
    positions, dtype = torch.arange(size), DTYPES[args.precision]

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            losses = objective(batch, positions)
        total_loss(losses, {name: 1.0 for name in losses}).backward()
        optimizer.step()
        optimizer.zero_grad()

    objective.train()
    peak_gb(device)
    milliseconds = timed(step, device, 1 if args.tiny else STEPS)
    millions = sum(parameter.numel() for parameter in trained) / 1e6
    return {"batch": size, "trained M": round(millions, 1), "ms": milliseconds, "peak GB": peak_gb(device)}


def timed(step: Callable[[], None], device: torch.device, count: int) -> float:
    """Mean milliseconds of `count` steps after `WARM_UP` others."""
    for _ in range(WARM_UP):
        step()
    synchronise(device)
    begun = time.perf_counter()
    for _ in range(count):
        step()
    synchronise(device)
    return round(1e3 * (time.perf_counter() - begun) / count, 1)
