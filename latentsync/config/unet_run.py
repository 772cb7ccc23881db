"""Configuration of a U-Net's training; inference uses its `model`, `data.resolution` and `data.num_frames`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from latentsync.config import checks
from latentsync.config.common import OutputConfig, TrainConfig
from latentsync.config.loading import load
from latentsync.config.public_layout import UNET_LAYOUT, PublicLayout
from latentsync.config.syncnet_run import SyncNetRun
from latentsync.data.settings import ClipDataConfig
from latentsync.losses.contract import LossSettings, PixelLoss, RunFacts
from latentsync.losses.sync import SyncView
from latentsync.losses.table import PIXEL_LOSSES
from latentsync.models.syncnet import SyncNetConfig
from latentsync.models.unet.adapter import AdapterConfig
from latentsync.models.unet.config import UNetConfig
from latentsync.precision import DTYPE_NAMES

LATENT_LOSSES = ("recon", "consistency")
LOSSES = (*LATENT_LOSSES, *(loss.name for loss in PIXEL_LOSSES))
LOSS_SETTINGS = tuple(
    dict.fromkeys(loss.settings_type for loss in PIXEL_LOSSES if loss.settings_type is not LossSettings)
)
DISTANCES = ("huber", "l2")
MAX_SKIP = 500


@dataclass
class UNetDataConfig(ClipDataConfig, OutputConfig):
    """Clips for the U-Net. Cached features are computed once, before the first step or by `scripts.precompute`; features
    that are not cached are computed in every step."""

    cached_latents: bool = True  # cached: posterior means; not cached: posterior samples, drawn anew in every step
    cached_audio: bool = True  # Whisper features
    mirrored: bool = False  # left and right are exchanged in half of the items; with cached latents nearly exactly


@dataclass
class FrozenNetworksConfig(*reversed(LOSS_SETTINGS)):  # type: ignore[misc]  # the bases follow from the list of losses
    """The frozen networks used in training; only those that a run needs are loaded. Each loss adds its own settings.

    It is an instance of every loss's settings class, so a loss uses it as its own.
    """

    vae: str = "checkpoints/vae"  # a folder in diffusers' format or a checkpoint of this project
    whisper: str = "checkpoints/whisper/tiny.pt"

    def check(self) -> None:
        """ValueError for invalid settings of any loss."""
        for settings in LOSS_SETTINGS:
            settings.check(self)

    def described_syncnet(self) -> tuple[SyncNetConfig, SyncView] | None:
        """The network and input that the file `syncnet_config` describes; None without one."""
        if not self.syncnet_config:
            return None
        run = load(self.syncnet_config, SyncNetRun)
        data = run.data
        return run.net, SyncView(data.num_frames, data.resolution, data.latent_space, data.lower_half)


@dataclass
class MeasureWeights:
    """The weights of the measures in a checkpoint's score; those of a SyncNet that teaches in the run do not count."""

    aperture: float = 1.0
    confidence: float = 0.1
    sync: float = 1.0
    lpips: float = -0.5
    psnr_db: float = 0.01
    silent_motion: float = -0.25
    silent_sync: float = 0.0


@dataclass
class ValidationConfig:
    """The clips that are sampled every `train.validation_steps` steps, and the weights that rank the checkpoints.

    A checkpoint's score is the weighted sum of its metrics, see `latentsync.training.unet.validate`; the highest is the best.
    """

    clips: int = 8  # of data.val_data_dir or data.val_fileslist, in order of their names
    seed: int = 1247
    weights: MeasureWeights = field(default_factory=MeasureWeights)


@dataclass
class UNetObjective:
    """The loss on the predicted noise; with `snr_power` 0 and the weights of cells 1 it is the plain mean squared error.

    The error at a timestep is weighted by min(snr^-snr_power, snr_limit): the shape of the mouth is decided at high noise levels,
    to which the plain error is hardly sensitive.
    """

    mixed_noise_alpha: float = 1.0  # weight of the noise component shared by all frames
    audio_dropout: float = 0.0  # share of clips trained with zero audio, for classifier-free guidance
    snr_power: float = 0.0
    snr_limit: float = 5.0
    visible_weight: float = 1.0  # weight of the latent cells that the mask leaves visible
    mouth_weight: float = 1.0  # weight of the cells around the lips
    coarse_weight: float = 0.0  # weight of the error of means over 4 x 4 cells: the hidden area's colour and light


@dataclass
class DistillConfig:
    """Distillation into a U-Net that samples in few steps, see `latentsync.training.unet.distill`; off without a teacher."""

    teacher: str = ""  # checkpoint of the teacher; the student starts from its weights unless init_from is set
    guidance_scale: float = 1.5  # of the teacher; the student is sampled without guidance
    skip: int = 20  # diffusion steps between neighbouring points of the sampling trajectory
    loss: str = "huber"  # or l2
    target_decay: float = 0.95  # of the student's moving average, which predicts the targets


@dataclass
class UNetRun:
    """Configuration of a U-Net's training.

    `model` is the network's section as the files have it, also in the trained checkpoint; `net` is the network that it describes.
    `init_from` is a checkpoint; its weights are loaded where names and shapes match. Only parameters whose names contain an entry
    of `trainable_modules` are trained; all if it is empty. With `adapter.rank` an adapter of `init_from` is trained instead, and
    the trained file is that adapter. `inference` holds settings stored in the trained checkpoint as its
    defaults (see `latentsync.inference.settings`).
    """

    public_layout: ClassVar[PublicLayout] = UNET_LAYOUT
    renamed_sections: ClassVar[dict[str, str]] = {"experts": "frozen_networks"}

    model: dict[str, Any] = field(default_factory=dict)
    data: UNetDataConfig = field(default_factory=UNetDataConfig)
    init_from: str = ""
    trainable_modules: list[str] = field(default_factory=list)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    gradient_checkpointing: bool = False
    objective: UNetObjective = field(default_factory=UNetObjective)
    distill: DistillConfig = field(default_factory=DistillConfig)
    frozen_networks: FrozenNetworksConfig = field(default_factory=FrozenNetworksConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    inference: dict[str, Any] = field(default_factory=dict)
    half_weights: bool = False  # store the trained weights in float16
    store_changes: bool = False  # store only weights that differ from init_from, which is then needed for loading

    def weight(self, loss: str) -> float:
        """Weight of a loss; if it is not set, 1 for `recon` and `consistency`, 0 for others."""
        return self.train.loss_weights.get(loss, 1.0 if loss in LATENT_LOSSES else 0.0)

    @property
    def net(self) -> UNetConfig:
        """The network that `model` describes; ValueError if it is none."""
        try:
            return UNetConfig.from_dict(self.model)
        except ValueError as error:
            raise ValueError(f"model: {error}") from error

    @property
    def pixel_losses(self) -> list[type[PixelLoss]]:
        """The losses on pixels with a weight above 0."""
        return [loss for loss in PIXEL_LOSSES if self.weight(loss.name) > 0]

    @property
    def needs_pixels(self) -> bool:
        """Whether batches contain the clips' pixels: for a loss, or to be encoded in the step."""
        return not self.data.cached_latents or any(loss.needs_pixels for loss in self.pixel_losses)

    @property
    def needs_mel(self) -> bool:
        """Whether batches contain mel windows."""
        return any(loss.needs_mel for loss in self.pixel_losses)

    @property
    def facts(self) -> RunFacts:
        """What the losses on pixels may know of the run."""
        data = self.data
        return RunFacts(
            self.frozen_networks, data.num_frames, data.resolution, data.aligned_by, self.gradient_checkpointing
        )

    def check(self) -> None:
        """ValueError that names an entry which is invalid or contradicts another."""
        self.train.check()
        if self.store_changes and not self.init_from:
            raise ValueError("store_changes needs a base checkpoint: set init_from.")
        checks.alignment("data.alignment", self.data.alignment)
        checks.unet_of_clips(self.net, self.data.num_frames, self.data.resolution)
        checks.known_names("train.loss_weights", self.train.loss_weights, LOSSES)
        checks.share("objective.audio_dropout", self.objective.audio_dropout)
        self.frozen_networks.check()
        self._check_adapter()
        for name, weight in self.train.loss_weights.items():
            checks.at_least(f"train.loss_weights.{name}", weight, 0)
        self._check_distillation()
        checks.choice("data.latents_precision", self.data.latents_precision, DTYPE_NAMES)
        for entry in ("batch_size", "memory_mb"):
            checks.at_least(f"data.{entry}", getattr(self.data, entry), 1)
        checks.at_least("data.shard_cache_gb", self.data.shard_cache_gb, 0)
        for loss in self.pixel_losses:
            loss.check(self.facts)

    def _check_adapter(self) -> None:
        adapter = self.adapter
        checks.at_least("adapter.rank", adapter.rank, 0)
        checks.at_least("adapter.alpha", adapter.alpha, 0)
        if not adapter.rank:
            return
        if not self.init_from:
            raise ValueError("adapter.rank is set, so set init_from to the U-Net that the adapter is for.")
        others = {
            "trainable_modules": self.trainable_modules,
            "store_changes": self.store_changes,
            "distill.teacher": self.distill.teacher,
        }
        for name, value in others.items():
            if value:
                raise ValueError(
                    f"adapter.rank and {name} are both set: an adapter leaves the U-Net as it is; leave out {name}."
                )

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
                "distill.teacher is set, so set objective.audio_dropout=0: the student is sampled without guidance and is"
                " always trained with audio."
            )
