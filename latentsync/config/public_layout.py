"""Configuration files in the layout of the public releases, read as if they were written in this project's.

Theirs have the sections `data`, `ckpt`, `run`, `optimizer` and `model`. Every key that only they have is renamed, or dropped as it
has one value here or nothing corresponds to it; each gives a line for the user. Values that ask for what this project does not do
are refused, and so are files that mix both layouts. Keys are dotted: `data.resolution`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from latentsync.audio.windows import CONTEXT
from latentsync.face.masks import mask_image, read_mask_image, resize_mask
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ

SECTIONS = ("ckpt", "run", "optimizer")  # that only their files have
MASK = "latentsync/utils/mask.png"  # the path of the releases' mask in their files
SCHEDULES = {"constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine"}
PIXEL_LOSSES = ("train.loss_weights.sync", "train.loss_weights.lpips", "train.loss_weights.trepa")
UNSAID = {"train.schedule": "constant", "train.warmup_steps": 0, "train.ema_decay": 0.0}  # as their training does it

Flat = dict[str, Any]  # values by dotted key
Special = Callable[[Any, Flat, Flat], str]  # (value, all of theirs, ours so far) -> what became of it; changes ours


@dataclass(frozen=True)
class Only:
    """The value that a key must have, because here it is always so."""

    value: Any
    because: str


@dataclass(frozen=True)
class PublicLayout:
    """What becomes of the keys of their files for one kind of run."""

    shared: tuple[str, ...]  # under `data`, that mean the same in both
    renamed: Mapping[str, str]  # theirs -> ours
    only: Mapping[str, Only]
    dropped: Mapping[str, str]  # with the reason
    special: Mapping[str, Special]  # in the order in which they count
    remarks: Mapping[str, str] = field(default_factory=dict)  # on shared keys

    @property
    def keys(self) -> list[str]:
        """All keys that only their files have."""
        return [*self.renamed, *self.only, *self.dropped, *self.special]

    def is_shared(self, key: str) -> bool:
        """Whether a key stands in files of both layouts."""
        section, _, name = key.partition(".")
        return key not in self.keys and (section == "model" or (section == "data" and name in self.shared))


def is_public(section: Mapping[str, Any], layout: PublicLayout) -> bool:
    """Whether a file is written in their layout."""
    return any(_is_theirs(key, layout) for key in flattened(section))


def unknown_key(section: Mapping[str, Any], layout: PublicLayout, own_keys: Sequence[str]) -> str | None:
    """The first key of a file in their layout that neither layout has; None if there is none."""
    known = {*layout.keys, *own_keys}
    return next((key for key in flattened(section) if key not in known and not layout.is_shared(key)), None)


def translate(section: Mapping[str, Any], layout: PublicLayout) -> tuple[dict[str, Any], list[str]]:
    """A file of their layout in this project's, and a line for the user about every key that is only theirs.

    Raises:
        ValueError: it mixes the layouts, or a value asks for what this project does not do.
    """
    theirs = flattened(section)
    own = [key for key in theirs if not _is_theirs(key, layout) and not layout.is_shared(key)]
    if own:
        first = next(key for key in theirs if _is_theirs(key, layout))
        raise ValueError(
            f"{first!r} belongs to the layout of the public files and {own[0]!r} to this project's: write one of them, or a"
            " second file in this project's layout that names the first as its base."
        )
    ours = {**UNSAID, **{key: value for key, value in theirs.items() if layout.is_shared(key)}}
    ours |= {layout.renamed[key]: value for key, value in theirs.items() if key in layout.renamed}
    said = {key: change(theirs[key], theirs, ours) for key, change in layout.special.items() if key in theirs}
    lines = [_line(key, value, layout, said) for key, value in theirs.items()]
    lines.append("what the file does not say is as in the public training: a constant rate, no average of the weights")
    return nested(ours), [line for line in lines if line]


def flattened(section: Mapping[str, Any]) -> Flat:
    """Entries of sections by their dotted keys; what lies deeper stays together."""
    found: Flat = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": entry for key, entry in value.items()}
        else:
            found[name] = value
    return found


def nested(flat: Flat) -> dict[str, Any]:
    """Sections from dotted keys of any depth."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return found


def _is_theirs(key: str, layout: PublicLayout) -> bool:
    return key in layout.keys or key.partition(".")[0] in SECTIONS


def _line(key: str, value: Any, layout: PublicLayout, said: Mapping[str, str]) -> str:
    """What became of a key; ValueError where only another value is known."""
    if key in said:
        return f"{key} {said[key]}"
    if key in layout.renamed:
        return f"{key} is read as {layout.renamed[key]}"
    if key in layout.dropped:
        return f"{key} is not used: {layout.dropped[key]}"
    if key in layout.only:
        only = layout.only[key]
        if value is not None and value != only.value:
            raise ValueError(f"{key} is {value!r}, but only {only.value!r} is possible: {only.because}.")
        return f"{key} is not needed: {only.because}"
    return f"{key}: {layout.remarks[key]}" if key in layout.remarks else ""


def _schedule(value: Any, theirs: Flat, ours: Flat) -> str:
    if value not in SCHEDULES:
        raise ValueError(f"optimizer.lr_scheduler is {value!r}: choose {', '.join(SCHEDULES)}.")
    ours["train.schedule"] = SCHEDULES[value]
    return f"is read as train.schedule {SCHEDULES[value]}"


def _precision(value: Any, theirs: Flat, ours: Flat) -> str:
    ours["train.precision"] = "fp16" if value else "fp32"
    return f"is read as train.precision {ours['train.precision']}"


def _start(value: Any, theirs: Flat, ours: Flat) -> str:
    ours["init_from"] = value or ""
    return "is read as init_from: the weights are taken, and steps are counted from 0"


def _pixel_losses(value: Any, theirs: Flat, ours: Flat) -> str:
    if value:
        return "is read as the weights of sync, lpips and trepa in train.loss_weights"
    ours |= dict.fromkeys(PIXEL_LOSSES, 0.0)
    return "is read as weights of 0 for sync, lpips and trepa in train.loss_weights"


def _sync_loss(value: Any, theirs: Flat, ours: Flat) -> str:
    if not value:
        ours[PIXEL_LOSSES[0]] = 0.0
    return f"is read as {'the weight of' if value else 'a weight of 0 for'} sync in train.loss_weights"


def _mixed_noise(value: Any, theirs: Flat, ours: Flat) -> str:
    if not value:
        ours["objective.mixed_noise_alpha"] = 0.0
    return f"is read as objective.mixed_noise_alpha{'' if value else ' 0, which draws every frame by itself'}"


def _trainable(value: Any, theirs: Flat, ours: Flat) -> str:
    if not theirs.get("model.use_motion_module", True):
        return "is not used: without motion modules everything is trained"
    ours["trainable_modules"] = value or []
    return "is read as trainable_modules"


def _syncnet(value: Any, theirs: Flat, ours: Flat) -> str:
    ours["frozen_networks.syncnet_config"] = value or ""
    weights = _weights_of_syncnet(value)
    if not weights:
        return "is read as frozen_networks.syncnet_config; its weights are named by frozen_networks.syncnet"
    ours["frozen_networks.syncnet"] = weights
    return (
        f"is read as frozen_networks.syncnet_config, and {weights}, which that file names, as frozen_networks.syncnet"
    )


def _weights_of_syncnet(path: Any) -> str:
    """The checkpoint that a SyncNet's file in their layout names; empty if there is none."""
    try:
        section = OmegaConf.to_container(OmegaConf.load(path))
        return str(section["ckpt"]["inference_ckpt_path"] or "")  # type: ignore[index, call-overload]
    except Exception:  # no such file, no YAML, or of another layout: whoever reads it tells
        return ""


def _mask(value: Any, theirs: Flat, ours: Flat) -> str:
    """Their mask is this project's; ValueError for another one."""
    if value and not _is_own_mask(str(value)):
        raise ValueError(
            f"data.mask_image_path names {value}, which is not the mask of this project and of all releases, {MASK}: weights"
            " that were trained with another mask cannot be used here; for others take the entry out."
        )
    return "is not needed: it is the mask of this project"


def _is_own_mask(path: str) -> bool:
    if not Path(path).is_file():
        return path.replace("\\", "/").endswith(MASK)
    image = read_mask_image(path)
    return image.shape[0] == image.shape[1] and np.array_equal(image, resize_mask(mask_image(), image.shape[0]))


RATES = {
    "data.audio_sample_rate": Only(SAMPLE_RATE_HZ, "audio is read at 16 kHz"),
    "data.video_fps": Only(MODEL_FPS, "clips are read at 25 frames a second"),
}
CACHES = {
    name: "what is computed from clips is kept by their content in data.cache_dir"
    for name in ("data.audio_cache_dir", "data.audio_mel_cache_dir", "data.audio_embeds_cache_dir")
}
TRAINING = {
    "ckpt.save_ckpt_steps": "train.checkpoint_steps",
    "run.max_train_steps": "train.max_steps",
    "run.seed": "train.seed",
    "optimizer.lr": "train.learning_rate",
    "optimizer.max_grad_norm": "train.max_grad_norm",
}
DATA = (
    "train_output_dir",
    "train_fileslist",
    "train_data_dir",
    "batch_size",
    "num_workers",
    "num_frames",
    "resolution",
)

UNET_LAYOUT = PublicLayout(
    shared=DATA,
    renamed={
        **TRAINING,
        "run.recon_loss_weight": "train.loss_weights.recon",
        "run.sync_loss_weight": "train.loss_weights.sync",
        "run.perceptual_loss_weight": "train.loss_weights.lpips",
        "run.trepa_loss_weight": "train.loss_weights.trepa",
        "run.mixed_noise_alpha": "objective.mixed_noise_alpha",
        "run.guidance_scale": "inference.guidance_scale",
        "run.inference_steps": "inference.steps",
        "run.enable_gradient_checkpointing": "gradient_checkpointing",
        "optimizer.lr_warmup_steps": "train.warmup_steps",
    },
    only={
        **RATES,
        "data.audio_feat_length": Only(list(CONTEXT), "a frame is given two frames of audio before and after itself"),
        "data.mask": Only("fix_mask", "the mask is fixed"),
        "run.max_train_epochs": Only(-1, "a training is as long as run.max_train_steps says"),
        "optimizer.scale_lr": Only(False, "optimizer.lr is the rate itself, for any number of processes"),
        "model.custom_audio_layer": Only(False, "the audio enters by cross-attention alone"),
        "model.audio_condition_method": Only("cross_attn", "the audio enters by cross-attention alone"),
        "model.unet_use_cross_frame_attention": Only(False, "frames attend to each other in motion modules alone"),
        "model.unet_use_temporal_attention": Only(False, "frames attend to each other in motion modules alone"),
    },
    dropped={
        **CACHES,
        "data.val_video_path": "validation samples clips, see data.val_data_dir and train.validation_steps",
        "data.val_audio_path": "validation samples clips with their own sound",
        "run.enable_xformers_memory_efficient_attention": "attention is PyTorch's own",
    },
    special={
        "ckpt.resume_ckpt_path": _start,
        "data.mask_image_path": _mask,
        "data.syncnet_config_path": _syncnet,
        "run.use_syncnet": _sync_loss,
        "run.pixel_space_supervise": _pixel_losses,
        "run.use_mixed_noise": _mixed_noise,
        "run.trainable_modules": _trainable,
        "run.mixed_precision_training": _precision,
        "optimizer.lr_scheduler": _schedule,
    },
    remarks={"data.batch_size": "counts over all processes, where the public training counts on each GPU"},
)

SYNCNET_LAYOUT = PublicLayout(
    shared=(*DATA, "val_fileslist", "val_data_dir", "latent_space", "lower_half"),
    renamed={**TRAINING, "run.validation_steps": "train.validation_steps"},
    only=RATES,
    dropped={
        **CACHES,
        "ckpt.inference_ckpt_path": "a U-Net's training names its SyncNet by frozen_networks.syncnet",
        "data.num_val_samples": "validation looks at validation.clips",
        "data.pretrained_audio_model_path": "the SyncNet reads mel spectrograms",
    },
    special={"ckpt.resume_ckpt_path": _start, "run.mixed_precision_training": _precision},
    remarks={"data.batch_size": "counts windows over all processes, each in a right and in a wrong pair"},
)
