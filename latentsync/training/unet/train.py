"""A U-Net's training, built from its configuration: network, data, frozen networks, validation, stored files."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsync.audio.whisper_model import load_audio_encoder
from latentsync.audio.windows import CONTEXT
from latentsync.config import UNetRun
from latentsync.config.loading import plain
from latentsync.config.unet_run import LOSSES
from latentsync.data.clips import ClipIndex
from latentsync.data.frames import FrameMemory
from latentsync.data.unet_clips import UNetClips, collate, min_frames
from latentsync.device import DTYPES
from latentsync.face.masks import latent_mask, load_mask
from latentsync.inference.settings import InferenceSettings
from latentsync.losses.perceptual import LpipsLoss
from latentsync.losses.sync import SyncLoss, read_sync_loss
from latentsync.models.frozen import Frozen
from latentsync.models.unet.adapter import KIND as ADAPTER_KIND
from latentsync.models.unet.adapter import adapter_names
from latentsync.training.engine.charts import CurvePanel, curve, read_rows, save_charts
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.log import validation_videos
from latentsync.training.engine.loop import Hooks, LogRow, Trainer
from latentsync.training.engine.preparation import fill_cache, shared_index
from latentsync.training.engine.run_folder import RunFolder
from latentsync.training.unet.data import cached_features, unet_index, unet_items
from latentsync.training.unet.distill import DistillStep
from latentsync.training.unet.frozen_networks import load_frozen_vae, load_pixel_losses
from latentsync.training.unet.initial_weights import base_of, build_unet, load_teacher
from latentsync.training.unet.judges import TAUGHT_BY_SYNCNET, load_expert
from latentsync.training.unet.step import UNetStep
from latentsync.training.unet.validate import LOSS, MetricNetworks, Sampling, UNetValidation, validation_clips
from latentsync.weights import delta_of, describe, read_checkpoint, save_checkpoint

# Titles of the validation chart's panels, by measure.
TITLES = {
    "sync": "similarity of lips and audio: sampled, sampled with silence (leakage), true",
    "psnr_db": "PSNR in the generated region, dB",
    "lpips": "LPIPS of the lower half",
    "aperture": "correlation of the lips with the true opening: sampled, sampled with silence (leakage), true as read",
    "confidence": "confidence of SyncNet v2: sampled, true",
    "silent_motion": "movement of lips sampled with silence, as a fraction of the true movement",
    "score": "score (the best checkpoint has the highest)",
}
CURVES = {
    "sync": ("sync", "silent_sync", "sync_truth"),
    "aperture": ("aperture", "silent_aperture", "aperture_truth"),
    "confidence": ("confidence", "confidence_truth"),
}


def draw_unet_charts(folder: Path) -> None:
    """Write `losses.png` and `validation.png` into a run folder."""
    rows, validation = read_rows(folder / "log.jsonl"), read_rows(folder / "validation.jsonl")
    curves = {
        name: {"training": curve(rows, name), "validation": curve(validation, f"{LOSS}{name}")} for name in LOSSES
    }
    save_charts(folder / "losses.png", [CurvePanel(name, named) for name, named in curves.items() if named["training"]])
    panels = []
    for name, title in TITLES.items():
        shown = CURVES.get(name, (name,))
        panels.append(CurvePanel(title, {each: curve(validation, each) for each in shown}))
    save_charts(folder / "validation.png", panels)


log = logging.getLogger(__name__)
UNET = "unet."  # prefix of the network's names in the objective's state dict


@dataclass(frozen=True)
class UNetFile:
    """Saves the trained U-Net with its metadata."""

    run: UNetRun
    step: UNetStep
    clip_count: int
    folder: RunFolder
    base: Mapping[str, str] | None = None  # of an adapter: file and fingerprint of its U-Net

    def metadata(self, steps_done: int) -> dict[str, Any]:
        """The metadata of the trained network's, or adapter's, file."""
        run, data = self.run, self.run.data
        return describe(
            "unet" if self.base is None else ADAPTER_KIND,
            run.model if self.base is None else asdict(run.adapter),
            steps_done,
            base=self.base,
            resolution=data.resolution,
            num_frames=data.num_frames,
            mask=self.step.mask,
            alignment=data.aligned_by,
            audio={"width": self.step.unet.config.cross_attention_dim, "context": list(CONTEXT)},
            objective=asdict(run.objective),
            inference=run.inference,
            distilled=asdict(run.distill) if run.distill.teacher else None,
            seed=run.train.seed,
            clips=self.clip_count,
            run=plain(run),
            origin=self.folder.origin(),
        )

    def save(self, path: Path, weights: Mapping[str, Tensor], steps_done: int) -> None:
        """Save the U-Net from its objective's state dict: in float16 with `half_weights`, as a delta with `store_changes`.

        Of a run with an adapter only that is saved.
        """
        if self.base is not None:
            save_checkpoint(path, {name: weights[name] for name in adapter_names(weights)}, self.metadata(steps_done))
            return
        tensors = {name.removeprefix(UNET): value for name, value in weights.items() if name.startswith(UNET)}
        if self.run.half_weights:
            tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        metadata = self.metadata(steps_done)
        if self.run.store_changes:
            tensors, base_entry = delta_of(tensors, read_checkpoint(self.run.init_from))
            metadata |= base_entry
        save_checkpoint(path, tensors, metadata)


@dataclass(frozen=True)
class UNetTraining:
    """The parts of a run."""

    run: UNetRun
    step: UNetStep
    data: UNetClips
    index: ClipIndex
    trainer: Trainer
    file: UNetFile


def build_step(run: UNetRun, device: torch.device) -> UNetStep:
    """The objective with its frozen networks on the device."""
    pixel_losses = load_pixel_losses(run, device)
    encoder = None
    if not run.data.cached_latents:
        encoder = pixel_losses.vae if pixel_losses and pixel_losses.vae else load_frozen_vae(run, device)
    others: dict[str, Any] = {
        "mask": latent_mask(load_mask(run.data.resolution)),
        "objective": run.objective,
        "seed": run.train.seed,
        "pixel_losses": pixel_losses,
        "encoder": encoder,
    }
    if not run.distill.teacher:
        return UNetStep(build_unet(run), **others)
    teacher = load_teacher(run).to(device)
    unet = build_unet(replace(run, init_from=run.init_from or run.distill.teacher))
    return DistillStep(unet, Frozen(teacher), run.distill, **others)


def used_files(run: UNetRun) -> dict[str, str]:
    """Paths of the files that decide what a run learns, by the names of their settings."""
    networks = {"vae": run.frozen_networks.vae, "whisper": run.frozen_networks.whisper}
    for loss in run.pixel_losses:
        names = (each.name for each in fields(loss.settings_type))
        values = ((name, getattr(run.frozen_networks, name)) for name in names)
        networks |= {name: value for name, value in values if isinstance(value, str) and not name.endswith("_config")}
    named = {"init_from": run.init_from, "distill.teacher": run.distill.teacher}
    named |= {f"frozen_networks.{name}": path for name, path in networks.items()}
    return {name: path for name, path in named.items() if path}


def run_folder(run: UNetRun, fresh: bool = False) -> RunFolder:
    """The folder of a run; with `fresh` an earlier run in it is moved aside."""
    return RunFolder(run.data.train_output_dir, run, used_files(run), fresh)


def prepare(run: UNetRun, processes: Processes | None = None, folder: RunFolder | None = None) -> UNetTraining:
    """Build all parts of a run, with all checks that are possible before the first step.

    Raises:
        ValueError: data, weights or settings are missing or do not fit each other, or the folder belongs to another run.
    """
    processes, folder = processes or Processes(), folder or run_folder(run)
    sampling_settings(run)
    index = unet_index(run, processes)
    folder.check(processes, index)
    log.info(f"{len(index.clips)} clips, {index.hours:.2f} h; {len(index.rejected)} left out")
    for clip in index.rejected:
        log.info(f"left out {clip.path}: {clip.reason}")
    data = unet_items(run, index.clips, processes.device)
    step = build_step(run, processes.device)
    validation = make_validation(run, step, processes) if run.train.validation_steps else None
    file = UNetFile(run, step, len(index.clips), folder, base_of(run, step.unet))
    hooks = Hooks(
        export=file.save,
        validate=None if validation is None else lambda at: validation(validation_videos(folder.path, at)),
        charts=draw_unet_charts,
    )
    trainer = Trainer(
        step,
        data,
        run.data.batch_size,
        run.train,
        folder,
        collate,
        hooks,
        run.data.num_workers,
        processes,
    )
    return UNetTraining(run, step, data, index, trainer, file)


def sampling_settings(run: UNetRun) -> InferenceSettings:
    """The settings that the trained checkpoint recommends and validation samples with; ValueError if `inference` is wrong."""
    try:
        return InferenceSettings().changed(run.inference)
    except ValueError as error:
        raise ValueError(f"inference: {error}") from error


def make_validation(run: UNetRun, step: UNetStep, processes: Processes) -> UNetValidation:
    """The validation on the configured clips, with the measures whose networks are available.

    Raises:
        ValueError: there are no validation clips, or the auto-encoder or speech encoder is missing.
    """
    data, device = run.data, processes.device
    if not (data.val_data_dir or data.val_fileslist):
        raise ValueError(
            "train.validation_steps requires validation clips: set data.val_data_dir or data.val_fileslist."
        )
    index = shared_index(data, processes, min_frames(data.num_frames), validation=True)
    encoder = load_audio_encoder(run.frozen_networks.whisper).to(device)
    memory = FrameMemory(data.resolution, limit_bytes=0)
    clips = validation_clips(index.clips[: run.validation.clips], memory, encoder, data.num_frames)
    losses = step.pixel_losses
    vae = step.encoder or (losses.vae if losses else None) or load_frozen_vae(run, device)
    sampling = Sampling(
        step.unet,
        vae,
        data.resolution,
        data.num_frames,
        device,
        DTYPES[run.train.precision],
        sampling_settings(run),
        run.validation.seed,
    )
    networks = load_metric_networks(run, step, device)
    return UNetValidation(sampling, clips, step, networks, score_weights(run), processes)


def score_weights(run: UNetRun) -> dict[str, float]:
    """The weights of the measures in a checkpoint's score; 0 for those of a SyncNet that teaches in this run, which is logged."""
    weights = asdict(run.validation.weights)
    taught = {name: 0.0 for name in TAUGHT_BY_SYNCNET if weights[name]}
    if not run.weight("sync") or not taught:
        return weights
    log.info("The SyncNet teaches in this run, so what it measures in validation does not count in the score.")
    return weights | taught


def load_metric_networks(run: UNetRun, step: UNetStep, device: torch.device) -> MetricNetworks:
    """The networks for validation measures: those of the losses, else those whose files exist."""
    losses, files = step.pixel_losses, run.frozen_networks
    sync, lpips = (losses.find(SyncLoss), losses.find(LpipsLoss)) if losses else (None, None)
    if sync is None and Path(files.syncnet).is_file():
        sync, _ = read_sync_loss(run.facts)
        sync.net.net.to(device)
    if lpips is None and Path(files.vgg).is_file():
        lpips = LpipsLoss.load(run.facts, device, torch.float32)
    return MetricNetworks(sync, lpips.net if lpips else None, load_expert(device))


def train_unet(
    run: UNetRun,
    processes: Processes | None = None,
    on_row: Callable[[LogRow], None] | None = None,
    fresh: bool = False,
) -> UNetTraining:
    """Train a U-Net as configured; the same call resumes. `on_row` is called with each log row on the first process.

    With `fresh` an earlier run in the folder is moved to one beside it.

    Raises:
        ValueError: before the first step, as `prepare`; later, if the training cannot continue.
        TrainingStopped: a signal stopped it, after a checkpoint.
    """
    processes, folder = processes or Processes(), run_folder(run, fresh)
    folder.check(processes)
    with folder.held(processes):
        training = prepare(run, processes, folder)
        fill_cache(cached_features(run, processes.device), training.index.clips, processes)
        reason = training.trainer.train(on_row)
    if reason:
        log.info(f"stopped: {reason}")
    return training
