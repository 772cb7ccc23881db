"""A U-Net's training, built from its configuration: network, data, frozen networks, validation, stored files."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.audio.whisper_model import load_audio_encoder
from latentsync.audio.windows import CONTEXT
from latentsync.config import UNetRun, to_yaml
from latentsync.config.loading import plain
from latentsync.config.unet_run import LOSSES
from latentsync.data.clips import ClipIndex, find_clips, index_clips, write_index
from latentsync.data.frames import FrameMemory
from latentsync.data.unet_clips import UNetClips, collate, min_frames
from latentsync.device import DTYPES
from latentsync.face.masks import latent_mask, load_mask
from latentsync.inference.settings import InferenceSettings
from latentsync.losses.perceptual import LpipsLoss
from latentsync.losses.sync import SyncLoss, read_sync_loss
from latentsync.models.frozen import Frozen
from latentsync.models.unet.checkpoint import alignment_of, load_unet, rename_v10_keys
from latentsync.models.unet.network import UNet3DConditionModel, initialise_for_training
from latentsync.training.engine.charts import CurvePanel, curve, read_rows, save_charts
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.fill_cache import fill_cache
from latentsync.training.engine.loop import Hooks, LogRow, Trainer
from latentsync.training.unet.data import cached_features, unet_index, unet_items
from latentsync.training.unet.distill import DistillStep
from latentsync.training.unet.frozen_networks import load_frozen_vae, load_pixel_losses
from latentsync.training.unet.step import UNetStep, choose_trainable
from latentsync.training.unet.validate import MetricNetworks, Sampling, UNetValidation, validation_clips
from latentsync.weights import delta_of, describe, load_partly, read_checkpoint, save_checkpoint

# Titles of the validation chart's panels, by measure.
TITLES = {
    "sync": "similarity of lips and audio: sampled, sampled with silence (leakage), true",
    "psnr_db": "PSNR in the generated region, dB",
    "lpips": "LPIPS of the lower half",
    "silent_motion": "movement of lips sampled with silence, as a fraction of the true movement",
    "score": "score (the best checkpoint has the highest)",
}
SYNC_CURVES = ("sync", "silent_sync", "sync_truth")


def draw_unet_charts(folder: Path) -> None:
    """Write `losses.png` and `validation.png` into a run folder."""
    rows, validation = read_rows(folder / "log.jsonl"), read_rows(folder / "validation.jsonl")
    named = {name: curve(rows, name) for name in LOSSES}
    save_charts(folder / "losses.png", [CurvePanel(name, {name: points}) for name, points in named.items() if points])
    panels = []
    for name, title in TITLES.items():
        shown = SYNC_CURVES if name == "sync" else (name,)
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

    def metadata(self, steps_done: int) -> dict[str, Any]:
        """The metadata of the trained network's file."""
        run, data = self.run, self.run.data
        return describe(
            "unet",
            run.model,
            steps_done,
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
        )

    def save(self, path: Path, weights: Mapping[str, Tensor], steps_done: int) -> None:
        """Save the U-Net from its objective's state dict: in float16 with `half_weights`, as a delta with `store_changes`."""
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


def build_unet(run: UNetRun) -> UNet3DConditionModel:
    """The network with the run's initial weights; tensors that are missing in `init_from`, or unused, are logged.

    Raises:
        CheckpointError: `init_from` cannot be read or holds another kind of network.
        ValueError: no tensor of `init_from` fits, or `trainable_modules` matches no parameter or is set without `init_from`.
    """
    torch.manual_seed(run.train.seed)
    unet = UNet3DConditionModel(run.net)
    initialise_for_training(unet)
    if run.trainable_modules and not run.init_from:
        raise ValueError(
            "trainable_modules freezes the other weights, but they are random: set init_from to a checkpoint of the first stage"
            " or of a release."
        )
    if run.init_from:
        checkpoint = read_checkpoint(run.init_from)
        checkpoint.require_kind("unet")
        tensors = rename_v10_keys(checkpoint.tensors)
        log.info(loading_report(run.init_from, tensors, load_partly(unet, tensors), unet))
        if alignment_of(checkpoint) != run.data.aligned_by:
            log.warning(
                f"{run.init_from} was trained with the alignment {alignment_of(checkpoint)}, but this run's clips have"
                f" {run.data.aligned_by}: the network has to adapt to it; correct data.alignment if it is not the clips' own."
            )
    choose_trainable(unet, run.trainable_modules)
    unet.enable_gradient_checkpointing(run.gradient_checkpointing)
    return unet


def loading_report(origin: str, tensors: Mapping[str, Tensor], left_out: list[str], unet: nn.Module) -> str:
    """A log message on which tensors of a checkpoint were loaded; ValueError if none was."""
    own = unet.state_dict()
    unused = [name for name in tensors if name not in own or name in left_out]
    loaded = len(own) - len(left_out)
    if not loaded:
        raise ValueError(f"{origin} contains no tensor of this U-Net: check init_from.")
    text = f"started from {origin}: {loaded} of {len(own)} tensors loaded"
    if left_out:
        text += f"; {len(left_out)} newly initialised ({', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''})"
    if unused:
        text += f"; {len(unused)} of the file unused ({', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''})"
    return text + "."


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


def load_teacher(run: UNetRun) -> UNet3DConditionModel:
    """The teacher of a distillation.

    Raises:
        CheckpointError: its file is missing, damaged or of another shape.
        ValueError: it is itself distilled.
    """
    data = run.data
    size = {"resolution": data.resolution, "num_frames": data.num_frames, "alignment": data.aligned_by}
    unet, metadata = load_unet(run.distill.teacher, run.net, size)
    if "distilled" in metadata:
        raise ValueError(
            f"distill.teacher {run.distill.teacher} is itself distilled: set it to the U-Net that this one was distilled from."
        )
    return unet


def prepare(run: UNetRun, processes: Processes | None = None) -> UNetTraining:
    """Build all parts of a run, with all checks that are possible before the first step.

    Raises:
        ValueError: data, weights or settings are missing or do not fit each other.
    """
    processes = processes or Processes()
    sampling_settings(run)
    index = processes.broadcast_from_main(lambda: unet_index(run))
    log.info(f"{len(index.clips)} clips, {index.hours:.2f} h; {len(index.rejected)} left out")
    for clip in index.rejected:
        log.info(f"left out {clip.path}: {clip.reason}")
    data = unet_items(run, index.clips, processes.device)
    step = build_step(run, processes.device)
    validation = make_validation(run, step, processes) if run.train.validation_steps else None
    folder = Path(run.data.train_output_dir)
    file = UNetFile(run, step, len(index.clips))
    hooks = Hooks(
        export=file.save,
        validate=None if validation is None else lambda at: validation(video_folder(folder, at, processes)),
        charts=draw_unet_charts,
    )
    trainer = Trainer(
        step,
        data,
        run.data.batch_size,
        run.train,
        run.data.train_output_dir,
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


def video_folder(folder: Path, step: int, processes: Processes) -> Path | None:
    """The folder of a validation's videos on the first process, which writes them; None on the others."""
    return folder / "validation" / f"step-{step:08d}" if processes.is_main else None


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
    found = find_clips(data.val_data_dir, data.val_fileslist)
    index = index_clips(found, min_frames(data.num_frames), data.cache_dir)
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
    return UNetValidation(sampling, clips, load_metric_networks(run, step, device), asdict(run.validation.weights))


def load_metric_networks(run: UNetRun, step: UNetStep, device: torch.device) -> MetricNetworks:
    """The networks for validation measures: those of the losses, else those whose files exist."""
    losses, files = step.pixel_losses, run.frozen_networks
    sync, lpips = (losses.find(SyncLoss), losses.find(LpipsLoss)) if losses else (None, None)
    if sync is None and Path(files.syncnet).is_file():
        sync, _ = read_sync_loss(run.facts)
        sync.net.net.to(device)
    if lpips is None and Path(files.vgg).is_file():
        lpips = LpipsLoss.load(run.facts, device, torch.float32)
    return MetricNetworks(sync, lpips.net if lpips else None)


def train_unet(
    run: UNetRun, processes: Processes | None = None, on_row: Callable[[LogRow], None] | None = None
) -> UNetTraining:
    """Train a U-Net as configured; the same call resumes. `on_row` is called with each log row on the first process.

    Raises:
        ValueError: before the first step, as `prepare`; later, if the training cannot continue.
    """
    processes = processes or Processes()
    training = prepare(run, processes)
    fill_cache(cached_features(run, processes.device), training.index.clips, processes)
    if processes.is_main:
        write_run_files(run, training.index)
    reason = training.trainer.train(on_row)
    if reason:
        log.info(f"stopped: {reason}")
    return training


def write_run_files(run: UNetRun, index: ClipIndex) -> None:
    """Write the resolved configuration and the list of clips into the run folder.

    Raises:
        ValueError: the folder cannot be written.
    """
    folder = Path(run.data.train_output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(run), encoding="utf-8")
        write_index(index, folder / "clips.jsonl")
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be written ({error.strerror}): choose another data.train_output_dir."
        ) from error
