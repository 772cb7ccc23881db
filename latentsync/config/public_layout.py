"""Translate configuration files in the layout of the public releases into this project's layout.

Public files have the sections `data`, `ckpt`, `run`, `optimizer` and `model`. Every key that exists only there is either renamed,
or dropped because its value is fixed here or it has no counterpart; a line for the user is returned for each. A ValueError is
raised for values that this project does not support, and for files that mix both layouts. Keys are dotted: `data.resolution`.
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

SECTIONS = ("ckpt", "run", "optimizer")  # sections that only public files have
MASK = "latentsync/utils/mask.png"  # path of the releases' mask in public files
SCHEDULES = {"constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine"}
PUBLIC_LOSSES = ("train.loss_weights.sync", "train.loss_weights.lpips", "train.loss_weights.trepa")
PUBLIC_DEFAULTS = {"train.schedule": "constant", "train.warmup_steps": 0, "train.ema_decay": 0.0}

Flat = dict[str, Any]  # values by dotted key
Special = Callable[
    [Any, Flat, Flat], str
]  # (value, public entries, own entries) -> text for the user; changes own entries


@dataclass(frozen=True)
class Only:
    """The only supported value of a key, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class PublicLayout:
    """How the keys of public files are translated for one kind of run."""

    shared: tuple[str, ...]  # keys of `data` that mean the same in both layouts
    renamed: Mapping[str, str]  # public key -> own key
    only: Mapping[str, Only]  # keys with a single supported value
    dropped: Mapping[str, str]  # key -> why it is ignored
    special: Mapping[str, Special]  # applied in this order; later ones override earlier ones
    remarks: Mapping[str, str] = field(default_factory=dict)  # notes for the user on shared keys

    @property
    def keys(self) -> list[str]:
        """All keys that only public files have."""
        return [*self.renamed, *self.only, *self.dropped, *self.special]

    def is_shared(self, key: str) -> bool:
        """Whether a key exists in both layouts."""
        section, _, name = key.partition(".")
        return key not in self.keys and (section == "model" or (section == "data" and name in self.shared))


def is_public(section: Mapping[str, Any], layout: PublicLayout) -> bool:
    """Whether a file has the public layout."""
    return any(_is_theirs(key, layout) for key in flattened(section))


def unknown_key(section: Mapping[str, Any], layout: PublicLayout, own_keys: Sequence[str]) -> str | None:
    """The first key of a file in the public layout that exists in neither layout; None if there is none."""
    known = {*layout.keys, *own_keys}
    return next((key for key in flattened(section) if key not in known and not layout.is_shared(key)), None)


def translate(section: Mapping[str, Any], layout: PublicLayout) -> tuple[dict[str, Any], list[str]]:
    """A public file's entries in this project's layout, and a line for the user about every key that only public files have.

    Raises:
        ValueError: the file mixes the layouts, or has a value that this project does not support.
    """
    theirs = flattened(section)
    own = [key for key in theirs if not _is_theirs(key, layout) and not layout.is_shared(key)]
    if own:
        first = next(key for key in theirs if _is_theirs(key, layout))
        raise ValueError(
            f"{first!r} belongs to the layout of the public files and {own[0]!r} to this project's: use one layout, or put the"
            " latter into a second file that names the first as its base."
        )
    ours = {**PUBLIC_DEFAULTS, **{key: value for key, value in theirs.items() if layout.is_shared(key)}}
    ours |= {layout.renamed[key]: value for key, value in theirs.items() if key in layout.renamed}
    special_texts = {key: change(theirs[key], theirs, ours) for key, change in layout.special.items() if key in theirs}
    lines = [_line(key, value, layout, special_texts) for key, value in theirs.items()]
    lines.append(
        "other settings are those of the public training: constant learning rate, no moving average of the weights"
    )
    return nested(ours), [line for line in lines if line]


def flattened(section: Mapping[str, Any]) -> Flat:
    """Entries of sections by their dotted keys, two levels deep; deeper sections stay nested."""
    found: Flat = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": entry for key, entry in value.items()}
        else:
            found[name] = value
    return found


def nested(flat: Flat) -> dict[str, Any]:
    """Nested sections from dotted keys of any depth."""
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


def _line(key: str, value: Any, layout: PublicLayout, special_texts: Mapping[str, str]) -> str:
    """The line for the user about a key, empty for most shared ones; ValueError if its value is not supported."""
    if key in special_texts:
        return f"{key} {special_texts[key]}"
    if key in layout.renamed:
        return f"{key} is read as {layout.renamed[key]}"
    if key in layout.dropped:
        return f"{key} is not used: {layout.dropped[key]}"
    if key in layout.only:
        only = layout.only[key]
        if value is not None and value != only.value:
            raise ValueError(f"{key} is {value!r}, but only {only.value!r} is supported: {only.reason}.")
        return f"{key} is not needed: {only.reason}"
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
    return "is read as init_from: training starts from these weights at step 0"


def _pixel_losses(value: Any, theirs: Flat, ours: Flat) -> str:
    if value:
        return "is read as the weights of sync, lpips and trepa in train.loss_weights"
    ours |= dict.fromkeys(PUBLIC_LOSSES, 0.0)
    return "is read as weights of 0 for sync, lpips and trepa in train.loss_weights"


def _sync_loss(value: Any, theirs: Flat, ours: Flat) -> str:
    if not value:
        ours[PUBLIC_LOSSES[0]] = 0.0
    return f"is read as {'the weight of' if value else 'a weight of 0 for'} sync in train.loss_weights"


def _mixed_noise(value: Any, theirs: Flat, ours: Flat) -> str:
    if not value:
        ours["objective.mixed_noise_alpha"] = 0.0
    return f"is read as objective.mixed_noise_alpha{'' if value else ' 0: independent noise for every frame'}"


def _trainable(value: Any, theirs: Flat, ours: Flat) -> str:
    if not theirs.get("model.use_motion_module", True):
        return "is not used: without motion modules all parameters are trained"
    ours["trainable_modules"] = value or []
    return "is read as trainable_modules"


def _syncnet(value: Any, theirs: Flat, ours: Flat) -> str:
    ours["frozen_networks.syncnet_config"] = value or ""
    weights = _weights_of_syncnet(value)
    if not weights:
        return "is read as frozen_networks.syncnet_config; the weights are those of frozen_networks.syncnet"
    ours["frozen_networks.syncnet"] = weights
    return (
        f"is read as frozen_networks.syncnet_config, and {weights}, which that file names, as frozen_networks.syncnet"
    )


def _weights_of_syncnet(path: Any) -> str:
    """The checkpoint named in a SyncNet's file of the public layout; empty if there is none."""
    try:
        section = OmegaConf.to_container(OmegaConf.load(path))
        return str(section["ckpt"]["inference_ckpt_path"] or "")  # type: ignore[index, call-overload]
    except Exception:  # missing, not YAML, or in another layout: an error is raised when the file is used
        return ""


def _mask(value: Any, theirs: Flat, ours: Flat) -> str:
    """ValueError unless the mask equals this project's."""
    if value and not _is_own_mask(str(value)):
        raise ValueError(
            f"data.mask_image_path is {value}, which is not the mask of this project and of all releases, {MASK}: weights"
            " trained with another mask are not supported; remove the entry for all other weights."
        )
    return "is not needed: the mask is built in"


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
    name: "features are cached in data.cache_dir, by the clips' content"
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
        "data.audio_feat_length": Only(
            list(CONTEXT), "the audio of a frame includes that of two frames before and after it"
        ),
        "data.mask": Only("fix_mask", "the mask is fixed"),
        "run.max_train_epochs": Only(-1, "run.max_train_steps sets the length of the training"),
        "optimizer.scale_lr": Only(False, "optimizer.lr is not scaled by the number of processes"),
        "model.custom_audio_layer": Only(False, "the audio enters by cross-attention alone"),
        "model.audio_condition_method": Only("cross_attn", "the audio enters by cross-attention alone"),
        "model.unet_use_cross_frame_attention": Only(False, "frames attend to each other in motion modules alone"),
        "model.unet_use_temporal_attention": Only(False, "frames attend to each other in motion modules alone"),
    },
    dropped={
        **CACHES,
        "data.val_video_path": "validation samples clips, see data.val_data_dir and train.validation_steps",
        "data.val_audio_path": "validation samples clips with their own audio",
        "run.enable_xformers_memory_efficient_attention": "PyTorch's own attention is used",
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
    remarks={"data.batch_size": "is the total over all processes; in the public training it is per GPU"},
)

SYNCNET_LAYOUT = PublicLayout(
    shared=(*DATA, "val_fileslist", "val_data_dir", "latent_space", "lower_half"),
    renamed={**TRAINING, "run.validation_steps": "train.validation_steps"},
    only=RATES,
    dropped={
        **CACHES,
        "ckpt.inference_ckpt_path": "the training of a U-Net names its SyncNet in frozen_networks.syncnet",
        "data.num_val_samples": "validation.clips is the number of clips for validation",
        "data.pretrained_audio_model_path": "the SyncNet's input is mel spectrograms",
    },
    special={"ckpt.resume_ckpt_path": _start, "run.mixed_precision_training": _precision},
    remarks={
        "data.batch_size": "is the number of windows over all processes, each in a matching and a mismatched pair"
    },
)
