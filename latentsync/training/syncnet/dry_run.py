"""Dry run of a SyncNet's training: one step without the optimizer, described by sizes, memory and losses; writes nothing.

Tensors on the meta device have shapes only, so a full-size run can be checked on any machine, without clips.
"""

import torch

from latentsync.audio.sync_mel import NUM_MELS
from latentsync.config.syncnet_run import SyncNetRun
from latentsync.data.sync_clips import SyncBatch
from latentsync.models.syncnet import StableSyncNet, check_geometry, format_sizes
from latentsync.timebase import sync_mel_length
from latentsync.training import META
from latentsync.training.engine.checkpoints import disk_need
from latentsync.training.engine.memory import batch_lines, loss_text, measure_step, training_memory
from latentsync.training.syncnet.step import CONTROLS, SyncNetWithHeads
from latentsync.training.syncnet.train import SyncNetTraining, train_config

MILLION = 1e6


def dry_run(training: SyncNetTraining) -> str:
    """Run one step without the optimizer; returns its description."""
    batch, positions = training.trainer.batches.next(0)
    text = _describe(training.run, training.objective, batch, positions)
    training.trainer.batches.close()
    return text


def dry_run_on_meta(run: SyncNetRun) -> str:
    """`dry_run` on the meta device: shapes only, no clips."""
    with torch.device(META):
        objective = SyncNetWithHeads(StableSyncNet(run.net), run.data.num_frames, run.data.known_mouths)
        batch = meta_batch(run)
    return _describe(run, objective, batch, torch.arange(1))


def meta_batch(run: SyncNetRun) -> SyncBatch:
    """A batch with the shapes of the run's data, on the device that new tensors are made on."""
    data = run.data
    return SyncBatch(
        torch.empty(data.batch_size, data.image_channels, *data.image_size),
        torch.empty(data.batch_size, 1, NUM_MELS, sync_mel_length(data.num_frames)),
        torch.empty(data.batch_size, data.num_frames, CONTROLS) if data.known_mouths else None,
    )


def _describe(run: SyncNetRun, objective: SyncNetWithHeads, batch: SyncBatch, positions: torch.Tensor) -> str:
    losses, peak = measure_step(objective, batch, positions, train_config(run))
    memory = training_memory(objective, 0, peak, run.train.optimizer, bool(run.train.ema_decay))
    mel_size = (NUM_MELS, sync_mel_length(run.data.num_frames))
    lines = [format_sizes(check_geometry(run.net, run.data.image_size, mel_size)), "parameters, all trained:"]
    for name, child in [*objective.net.named_children(), ("StableSyncNet", objective.net)]:
        lines.append(f"  {name:22} {sum(p.numel() for p in child.parameters()) / MILLION:.3f} M")
    lines += [*batch_lines(batch.present()), "losses:"]
    lines += [f"  {name:22} {loss_text(loss)}" for name, loss in losses.items()]
    return "\n".join(
        [
            *lines,
            f"memory, one process with the whole batch: {memory}",
            f"disk: {disk_need(memory.checkpoint, run.train.keep_checkpoints)}",
        ]
    )
