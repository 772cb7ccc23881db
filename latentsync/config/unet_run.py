"""The configuration of a U-Net's training, and what of it inference reads: `model`, `data.resolution`, `data.num_frames`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from latentsync.config import checks
from latentsync.config.common import OutputConfig, TrainConfig
from latentsync.config.public_layout import UNET_LAYOUT, PublicLayout
from latentsync.data.settings import ClipDataConfig
from latentsync.device import DTYPES

PIXEL_LOSSES = ("sync", "lpips", "trepa")
LOSSES = ("recon", "consistency", *PIXEL_LOSSES)
DISTANCES = ("huber", "l2")
MAX_SKIP = 500
METRICS = ("sync", "psnr_db", "lpips", "silent_sync", "silent_motion")


@dataclass
class UNetDataConfig(ClipDataConfig, OutputConfig):
    """Clips for the U-Net. What is cached is computed once, before the first step or by `scripts.precompute`; else its
    network runs in every step."""

    cached_latents: bool = True  # posterior means from the cache; else posterior samples of the auto-encoder
    cached_audio: bool = True


@dataclass
class FrozenNetworksConfig:
    """The frozen networks beside the U-Net; only those that a run needs are loaded.

    A run with the loss `sync` starts only if its SyncNet is known to be right on at least `min_sync_accuracy` of validation
    pairs. Files that this project trained say it; for others put what you measured into `sync_accuracy`, or set
    `allow_unproven_sync`.
    """

    vae: str = "checkpoints/vae"  # a folder of the public format or one of this project's files
    whisper: str = "checkpoints/whisper/tiny.pt"
    syncnet: str = "checkpoints/stable_syncnet.pt"
    syncnet_config: str = ""  # for a SyncNet file that does not carry its configuration
    min_sync_accuracy: float = 0.85
    sync_accuracy: float = 0.0  # measured by you, for a file that does not say; 0: unknown
    allow_unproven_sync: bool = False
    vgg: str = "checkpoints/auxiliary/vgg16-397923af.pth"
    videomae: str = "checkpoints/auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth"


@dataclass
class ValidationConfig:
    """Which fixed clips are sampled after every `train.validation_steps`, and what the best checkpoint is best at.

    The score is the weighted sum of what could be measured, see `latentsync.training.unet.validate`.
    """

    clips: int = 8  # of data.val_data_dir or data.val_fileslist, in order of their names
    seed: int = 1247
    weights: dict[str, float] = field(
        default_factory=lambda: {"sync": 1.0, "lpips": -0.5, "psnr_db": 0.01, "silent_motion": -0.25}
    )


@dataclass
class UNetObjective:
    """The loss on the predicted noise; `snr_power` 0 with `visible_weight` 1 is the plain mean squared error.

    The error at a timestep is weighted by snr^-snr_power, at most `snr_limit`: the shape of the mouth is decided at high noise,
    to which the plain error is hardly sensitive.
    """

    mixed_noise_alpha: float = 1.0  # weight of the noise that all frames share
    audio_dropout: float = 0.0  # share of clips with unconditional (zero) audio, for guidance
    snr_power: float = 0.0
    snr_limit: float = 5.0
    visible_weight: float = 1.0  # weight of the latent cells that the mask leaves visible


@dataclass
class DistillConfig:
    """Distilling a U-Net into one that samples in few steps, see `latentsync.training.unet.distill`; off without a teacher."""

    teacher: str = ""  # the U-Net's file; the student begins with its weights unless init_from names others
    guidance_scale: float = 1.5  # of the teacher; the student needs none
    skip: int = 20  # diffusion steps between neighbouring points of the way
    loss: str = "huber"  # or l2
    target_decay: float = 0.95  # of the average that gives the targets


@dataclass
class UNetRun:
    """Training a U-Net.

    `init_from` is a checkpoint whose weights are taken where they fit; `trainable_modules` are parts of parameter names,
    and only parameters that contain one are trained (none given: all); `objective` holds entries of `UNetObjective`;
    `inference` the settings that the trained checkpoint recommends (see `latentsync.inference.settings`).
    """

    public_layout: ClassVar[PublicLayout] = UNET_LAYOUT
    renamed_sections: ClassVar[dict[str, str]] = {"experts": "frozen_networks"}

    model: dict[str, Any] = field(default_factory=dict)
    data: UNetDataConfig = field(default_factory=UNetDataConfig)
    init_from: str = ""
    trainable_modules: list[str] = field(default_factory=list)
    gradient_checkpointing: bool = False
    objective: UNetObjective = field(default_factory=UNetObjective)
    distill: DistillConfig = field(default_factory=DistillConfig)
    frozen_networks: FrozenNetworksConfig = field(default_factory=FrozenNetworksConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    inference: dict[str, Any] = field(default_factory=dict)
    half_weights: bool = False  # store the trained weights in float16
    store_changes: bool = False  # store only what is no longer as in init_from, which must then lie beside

    def weight(self, loss: str) -> float:
        """Weight of a loss; those that are not named do not exist, except `recon`."""
        return self.train.loss_weights.get(loss, 1.0 if loss in ("recon", "consistency") else 0.0)

    @property
    def pixel_losses(self) -> list[str]:
        """Names of the losses that need decoded pixels."""
        return [loss for loss in PIXEL_LOSSES if self.weight(loss) > 0]

    def check(self) -> None:
        """ValueError naming the entry that is wrong or contradicts another."""
        self.train.check()
        if self.store_changes and not self.init_from:
            raise ValueError("store_changes needs a file to leave the rest to: set init_from.")
        checks.alignment("data.alignment", self.data.alignment)
        checks.unet_section(self.model, self.data.num_frames, self.data.resolution)
        checks.known_names("train.loss_weights", self.train.loss_weights, LOSSES)
        checks.known_names("validation.weights", self.validation.weights, METRICS)
        checks.share("objective.audio_dropout", self.objective.audio_dropout)
        checks.share("frozen_networks.min_sync_accuracy", self.frozen_networks.min_sync_accuracy)
        checks.share("frozen_networks.sync_accuracy", self.frozen_networks.sync_accuracy)
        for loss, weight in self.train.loss_weights.items():
            checks.at_least(f"train.loss_weights.{loss}", weight, 0)
        self._check_distillation()
        checks.choice("data.latents_precision", self.data.latents_precision, DTYPES)
        for name in ("batch_size", "memory_mb"):
            checks.at_least(f"data.{name}", getattr(self.data, name), 1)
        if "trepa" in self.pixel_losses:
            checks.even_frames(self.data.num_frames)

    def _check_distillation(self) -> None:
        distill = self.distill
        if not distill.teacher:
            return
        checks.choice("distill.loss", distill.loss, DISTANCES)
        checks.at_least("distill.skip", distill.skip, 1)
        checks.at_least("distill.guidance_scale", distill.guidance_scale, 1)
        checks.share("distill.target_decay", distill.target_decay)
        if distill.skip > MAX_SKIP:
            raise ValueError(
                f"distill.skip is {distill.skip}, but must be at most {MAX_SKIP} of 1000 diffusion steps; 20 to 100 is usual."
            )
        if self.objective.audio_dropout:
            raise ValueError(
                "distill.teacher is set and objective.audio_dropout is not 0: the student is sampled without guidance and must"
                " always hear the sound, so set objective.audio_dropout=0."
            )
