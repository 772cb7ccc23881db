"""Dry run of a U-Net's training: one step without the optimizer, described by sizes, memory and losses; writes nothing.

Tensors on the meta device have shapes only, so a full-size run can be checked on any machine, without weights and clips.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from latentsync.audio.sync_mel import NUM_MELS
from latentsync.audio.windows import CONTEXT
from latentsync.config import UNetRun
from latentsync.data.unet_clips import ClipBatch
from latentsync.face.masks import latent_mask, load_mask
from latentsync.models.frozen import Frozen
from latentsync.models.unet.adapter import add_adapter
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import build_vae
from latentsync.timebase import sync_mel_length
from latentsync.training import META
from latentsync.training.engine.checkpoints import disk_need
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.loop import Losses
from latentsync.training.engine.memory import batch_lines, byte_count, loss_text, measure_step, training_memory
from latentsync.training.unet.distill import DistillStep
from latentsync.training.unet.pixel_losses import PixelLosses, make_pixel_losses
from latentsync.training.unet.step import UNetStep, choose_trainable
from latentsync.training.unet.train import prepare
from latentsync.weights import LATENT_CHANNELS, LATENT_STRIDE

PUBLIC_VAE_SHAPE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}
PUBLIC_WHISPER_STATES = (
    5  # hidden states per row of Whisper tiny: the input of the first layer and the output of its four layers
)
MILLION = 1e6


def dry_run(run: UNetRun, processes: Processes) -> str:
    """Build a run on its device and run one step without the optimizer; returns the description. The run folder is not written.

    Raises:
        ValueError: see `prepare`.
    """
    training = prepare(run, processes)
    trainer = training.trainer
    batch, positions = trainer.batches.next(0)
    losses, peak = measure_step(trainer.wrapped, batch, positions, run.train)
    trainer.batches.close()
    return description(run, training.step, batch, losses, peak)


def dry_run_on_meta(run: UNetRun) -> str:
    """`dry_run` on the meta device: shapes only, no weights and clips.

    Raises:
        ValueError: settings or networks do not fit each other.
    """
    step, batch = meta_step(run), meta_batch(run)
    losses, peak = measure_step(step, batch, torch.arange(run.data.batch_size), run.train)
    missed = [name for name, p in step.named_parameters() if p.requires_grad and p.grad is None]
    assert not missed, f"parameters without a gradient: {missed[:3]}"
    return description(run, step, batch, losses, peak)


def meta_step(run: UNetRun) -> UNetStep:
    """The objective with all its networks, on the meta device."""
    with torch.device(META):
        unet = UNet3DConditionModel(run.net)
    if run.adapter.rank:
        add_adapter(unet, run.adapter)
    else:
        choose_trainable(unet, run.trainable_modules)
    unet.enable_gradient_checkpointing(run.gradient_checkpointing)
    losses = meta_pixel_losses(run)
    encoder = None if run.data.cached_latents else Frozen(meta_vae())
    mask = latent_mask(load_mask(run.data.resolution)).to(META)
    others = (mask, run.objective, run.train.seed, losses, encoder)
    if not run.distill.teacher:
        return UNetStep(unet, *others)
    with torch.device(META):
        teacher = UNet3DConditionModel(run.net)
    named = dict(zip(("mask", "objective", "seed", "pixel_losses", "encoder"), others, strict=True))
    return DistillStep(unet, Frozen(teacher), run.distill, **named)


def meta_vae() -> AutoencoderKL:
    """An auto-encoder with the public one's shapes, on the meta device."""
    with torch.device(META):
        return build_vae(PUBLIC_VAE_SHAPE)


def meta_pixel_losses(run: UNetRun) -> PixelLosses | None:
    """The losses on pixels, with networks of the public shapes; None if there are none."""
    facts = run.facts
    return make_pixel_losses(run, lambda loss: loss.empty(facts), lambda: Frozen(meta_vae()))


def meta_batch(run: UNetRun) -> ClipBatch:
    """A batch with the shapes of the run's data; audio features have the public speech encoder's number of tokens."""
    data = run.data
    b, f, r = data.batch_size, data.num_frames, data.resolution

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=META)

    tokens = 2 * (sum(CONTEXT) + 1) * PUBLIC_WHISPER_STATES
    batch = ClipBatch(audio=empty(b, f, tokens, run.net.cross_attention_dim))
    if run.needs_mel:
        batch = replace(batch, mel=empty(b, 1, NUM_MELS, sync_mel_length(f)))
    clip = {name: empty(b, 3, f, r, r) for name in ("pixels", "masked_pixels", "reference_pixels")}
    if run.needs_pixels:
        batch = replace(batch, **clip)
    if data.cached_latents:
        side = r // LATENT_STRIDE
        names = ("latents", "masked_latents", "reference_latents")
        batch = replace(batch, **{name: empty(b, LATENT_CHANNELS, f, side, side) for name in names})
    return batch


def frozen_nets(step: UNetStep) -> dict[str, nn.Module]:
    """The frozen networks of an objective by name."""
    losses = step.pixel_losses
    named: dict[str, nn.Module] = {"vae": step.encoder.net} if step.encoder else {}
    if isinstance(step, DistillStep):
        named |= {"teacher": step.teacher.net, "target": step.target}
    if losses is not None:
        named |= {"vae": losses.vae.net} if losses.vae else {}
        for loss in losses.losses:
            named |= loss.networks
    return named


def description(run: UNetRun, step: UNetStep, batch: ClipBatch, losses: Losses, peak: int) -> str:
    """Lines of text: the parameters of every network, the batch, the losses and the memory."""
    frozen = frozen_nets(step)
    memory = training_memory(
        step.unet, sum(map(byte_count, frozen.values())), peak, run.train.optimizer, bool(run.train.ema_decay)
    )
    lines = ["part                      trained M   frozen M"]
    lines += [
        f"{name:24} {trained / MILLION:10.3f} {fixed / MILLION:10.3f}" for name, trained, fixed in counts(step.unet)
    ]
    lines += [f"{name:24} {0:10.3f} {parameters(net) / MILLION:10.3f}" for name, net in frozen.items()]
    lines += [*batch_lines(batch.present()), "losses:"]
    lines += [f"  {name:22} {loss_text(loss)}, weight {run.weight(name):g}" for name, loss in losses.items()]
    return "\n".join(
        [*lines, f"memory, one process: {memory}", f"disk: {disk_need(memory.checkpoint, run.train.keep_checkpoints)}"]
    )


def counts(unet: nn.Module) -> Iterator[tuple[str, int, int]]:
    """(name, trained parameters, frozen parameters) of the network's children and of the whole network."""
    for name, child in [*unet.named_children(), ("U-Net", unet)]:
        trained = sum(p.numel() for p in child.parameters() if p.requires_grad)
        yield name, trained, parameters(child) - trained


def parameters(net: nn.Module) -> int:
    """Number of a network's parameters."""
    return sum(parameter.numel() for parameter in net.parameters())
