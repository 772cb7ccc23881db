"""The configuration of a SyncNet's training."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from latentsync.audio.sync_mel import NUM_MELS
from latentsync.config import checks
from latentsync.config.common import TrainConfig
from latentsync.config.public_layout import SYNCNET_LAYOUT, PublicLayout
from latentsync.data.settings import MIN_SHIFT, WINDOWS_AN_ITEM, ClipDataConfig
from latentsync.models.syncnet import SyncNetConfig, check_geometry
from latentsync.timebase import sync_mel_length
from latentsync.weights.table import LATENT_CHANNELS, LATENT_STRIDE

LOSSES = ("sync", "mouth")
PIXEL_CHANNELS = 3


@dataclass
class SyncNetDataConfig(ClipDataConfig):
    """Clips for the SyncNet. `batch_size` counts windows; each is part of one matching and one mismatched pair."""

    train_output_dir: str = ""
    latent_space: bool = False  # input is the auto-encoder's latents instead of pixels
    lower_half: bool = True  # input is the lower half of the face only
    min_shift: int = MIN_SHIFT  # smallest offset, in frames, of a mismatched pair from one clip
    jitter_px: int = 0  # this and the next three: see `latentsync.data.sync_clips.Augmentation`
    brightness: float = 0.0
    mel_noise: float = 0.0
    mirrored: bool = False
    known_mouths: bool = False  # also train on mouth tracks, if all clips have them; only clips of drawn heads do

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the visual encoder's input, in pixels or latent cells."""
        side = self.resolution // LATENT_STRIDE if self.latent_space else self.resolution
        return side // 2 if self.lower_half else side, side

    @property
    def image_channels(self) -> int:
        """Channels of the visual encoder's input: those of all frames of a window together."""
        return self.num_frames * (LATENT_CHANNELS if self.latent_space else PIXEL_CHANNELS)


@dataclass
class SyncPreflightConfig:
    """A check before training: a copy of the network must overfit a few pairs. If it cannot, training would fail too."""

    pairs: int = 32  # matching and mismatched ones together
    max_steps: int = 300
    max_sec: float = 600.0  # on a machine too slow for a result within this time, training starts with a warning
    target_loss: float = 0.1
    learning_rate: float = 3e-4
    skip: bool = False


@dataclass
class SyncValidationConfig:
    """Numbers of clips for the validation every `train.validation_steps` steps; the first ones in order of their names."""

    clips: int = 64  # of data.val_data_dir or data.val_fileslist
    offset_clips: int = 64  # training clips whose offsets are measured
    held_out_clips: int = 16  # training clips set aside if no validation data are given


@dataclass
class PlateauConfig:
    """Advice is logged when the mean loss of the last `steps` steps is no more than `margin` below chance, 0.693."""

    steps: int = 20_000
    margin: float = 0.02


@dataclass
class SyncNetRun:
    """Configuration of a SyncNet's training.

    `model` has the sections `audio_encoder` and `visual_encoder` (see `SyncNetConfig`). `init_from` is a checkpoint whose weights
    training starts from. `vae` is the auto-encoder that computes latents if `data.latent_space` is set.
    """

    public_layout: ClassVar[PublicLayout] = SYNCNET_LAYOUT

    model: dict[str, Any] = field(default_factory=dict)
    data: SyncNetDataConfig = field(default_factory=SyncNetDataConfig)
    init_from: str = ""
    vae: str = "checkpoints/vae"
    preflight: SyncPreflightConfig = field(default_factory=SyncPreflightConfig)
    validation: SyncValidationConfig = field(default_factory=SyncValidationConfig)
    plateau: PlateauConfig = field(default_factory=PlateauConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    half_weights: bool = False  # store the trained weights in float16

    @property
    def net(self) -> SyncNetConfig:
        """The network that `model` describes; ValueError if it is none."""
        try:
            return SyncNetConfig.from_dict(self.model)
        except ValueError as error:
            raise ValueError(f"model: {error}") from error

    def check(self) -> None:
        """ValueError that names an entry which is invalid or contradicts another."""
        self.train.check()
        checks.known_names("train.loss_weights", self.train.loss_weights, LOSSES)
        self._check_data()
        self._check_model()

    def _check_data(self) -> None:
        data = self.data
        checks.alignment("data.alignment", data.alignment)
        checks.clip_size(data.num_frames, data.resolution)
        for name in ("batch_size", "min_shift"):
            checks.at_least(f"data.{name}", getattr(data, name), 1)
        for name in ("jitter_px", "brightness", "mel_noise", "memory_mb", "num_workers", "shard_cache_gb"):
            checks.at_least(f"data.{name}", getattr(data, name), 0)
        for name, count, of in (
            ("data.batch_size", data.batch_size, WINDOWS_AN_ITEM),
            ("preflight.pairs", self.preflight.pairs, 2 * WINDOWS_AN_ITEM),
        ):
            if count < 1 or count % of:
                raise ValueError(
                    f"{name} is {count}, but must be a multiple of {of}: windows are drawn in groups of four, two per clip."
                )
        if data.latent_space and (data.jitter_px or data.brightness or data.mirrored):
            raise ValueError(
                "data.jitter_px, data.brightness and data.mirrored change pixels: set them to 0 with data.latent_space."
            )

    def _check_model(self) -> None:
        for encoder in fields(SyncNetConfig):
            if encoder.name not in self.model:
                raise ValueError(f"model.{encoder.name} is missing: name a file of configs/syncnet as the `base`.")
        net = self.net
        found, wanted = net.visual_encoder.in_channels, self.data.image_channels
        if found != wanted:
            raise ValueError(
                f"model.visual_encoder.in_channels is {found}, but {self.data.num_frames} frames of"
                f" {'latents' if self.data.latent_space else 'pixels'} have {wanted} channels."
            )
        check_geometry(net, self.data.image_size, (NUM_MELS, sync_mel_length(self.data.num_frames)))
