"""The loss TREPA: the distance of two clips' features of a video model (Li et al. 2024, "LatentSync", section 3.4).

Legend: b clips, c channels, f frames, h w pixels, d width of a feature.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latentsync.losses.contract import Comparison, LossSettings, PixelLoss, RunFacts, frames_of
from latentsync.models.frozen import Frozen
from latentsync.models.videomae import VideoMAE, empty_videomae, load_videomae


def video_input(pixels: Tensor, size: int) -> Tensor:
    """Pixels [-1, 1] b 3 f h w -> the video model's input [0, 1] b 3 f `size` `size`.

    Frames are resized by bicubic interpolation (a = -0.75, half-pixel centres, no antialiasing) and clamped. The model was
    trained on inputs with normalised mean and deviation; the loss is defined without that normalisation.
    """
    frames = frames_of(pixels)
    if frames.shape[-2:] != (size, size):
        frames = F.interpolate(frames, size=(size, size), mode="bicubic", align_corners=False)
    return rearrange((frames / 2 + 0.5).clamp(0, 1), "(b f) c h w -> b c f h w", f=pixels.shape[2])


def trepa_features(net: VideoMAE, pixels: Tensor) -> Tensor:
    """Temporal features of unit length, b d in float32, of pixels [-1, 1] b 3 f h w; the network runs in its parameters' dtype."""
    dtype = net.patch_embed.proj.weight.dtype
    features = net.features(video_input(pixels.float(), net.config.img_size).to(dtype))
    return F.normalize(features.float(), dim=1)


def trepa_loss(net: VideoMAE, fake: Tensor, real: Tensor) -> Tensor:
    """Mean squared error (a scalar) of the two clips' `trepa_features`; at most 4 / d.

    Args:
        net: the frozen video model, see `load_videomae`.
        fake, real: pixels [-1, 1] b 3 f h w, any frame size; gradients flow to `fake` only.

    Raises:
        ValueError: the clips differ in shape, or the model does not support their number of frames.
    """
    if fake.shape != real.shape:
        raise ValueError(
            f"The clips have shapes {tuple(fake.shape)} and {tuple(real.shape)}, but must have the same shape."
        )
    with torch.no_grad():
        target = trepa_features(net, real)
    return F.mse_loss(trepa_features(net, fake), target)


@dataclass
class VideoMAESettings(LossSettings):
    """The video model of the loss `trepa`."""

    videomae: str = "checkpoints/auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth"


@dataclass(frozen=True)
class TrepaLoss(PixelLoss):
    """TREPA of the estimated and the true clip."""

    name = "trepa"
    settings_type = VideoMAESettings

    net: Frozen[VideoMAE]

    @classmethod
    def check(cls, run: RunFacts) -> None:
        """ValueError if the number of frames is odd: the video model reads frames in pairs."""
        if run.num_frames % 2:
            raise ValueError(
                f"data.num_frames is {run.num_frames}, but must be even: the loss trepa reads frames in pairs."
            )

    @classmethod
    def load(cls, run: RunFacts, device: torch.device, dtype: torch.dtype) -> "TrepaLoss":
        return cls._with(load_videomae(run.settings.videomae).to(device, dtype), run)

    @classmethod
    def empty(cls, run: RunFacts) -> "TrepaLoss":
        return cls._with(empty_videomae(), run)

    @classmethod
    def _with(cls, net: VideoMAE, run: RunFacts) -> "TrepaLoss":
        net.enable_gradient_checkpointing(run.recompute)
        return cls(Frozen(net))

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"trepa": self.net.net}

    def __call__(self, clips: Comparison) -> Tensor:
        """See `trepa_loss`."""
        return trepa_loss(self.net.net, *clips.pair())
