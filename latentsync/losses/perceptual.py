"""The perceptual loss: LPIPS with VGG-16 (Zhang et al. 2018) on the lower half of the face.

The package lpips is imported where it is used: that takes seconds, and every configuration reads this file.

Tensor legend: f frames, c h w; pixels float [-1, 1].
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from latentsync.device import full_precision
from latentsync.losses.contract import Comparison, LossSettings, PixelLoss, RunFacts, frames_of, in_parts
from latentsync.models.frozen import Frozen
from latentsync.weights import VGG_FILE, CheckpointError, read_checkpoint

if TYPE_CHECKING:
    import lpips

FIXED = ("scaling_layer.shift", "scaling_layer.scale")  # constants, not weights


class PerceptualLoss(nn.Module):
    """LPIPS of the lower half of faces, in float32 even under autocast."""

    def __init__(self, network: "lpips.LPIPS") -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """The network stays in evaluation mode."""
        return super().train(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """LPIPS distances [f], 0 for equal images, of faces [f, 3, h, w] in [-1, 1]; only rows from h // 2 on are compared."""
        middle = prediction.shape[-2] // 2
        with full_precision(prediction.device):
            return self.network(prediction[..., middle:, :].float(), target[..., middle:, :].float()).flatten()


def build_lpips(vgg: Mapping[str, Tensor], linear: Mapping[str, Tensor], origin: Path | str) -> "lpips.LPIPS":
    """The lpips package's network with tensors of torchvision's VGG-16 (`features.0.weight`) and of LPIPS (`lin0.model.1.weight`).

    Raises:
        CheckpointError: a tensor is missing or has another shape; the message names `origin`.
    """
    network = _uninitialised()
    wanted = {key: value.shape for key, value in network.state_dict().items() if key not in FIXED}
    stored = {key: (linear if key.startswith("lin") else vgg).get(public_key(key)) for key in wanted}
    found = {key: value.float() for key, value in stored.items() if value is not None and value.shape == wanted[key]}
    wrong = [public_key(key) for key in wanted if key not in found]
    if wrong:
        raise CheckpointError(
            f"{origin} is not the VGG-16 of LPIPS: {len(wrong)} tensors are missing or have another shape "
            f"({', '.join(wrong[:5])}). Download torchvision's vgg16-397923af.pth."
        )
    network.load_state_dict(found, strict=False, assign=True)
    return network.eval()


def _uninitialised() -> "lpips.LPIPS":
    import lpips

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision's constructor with deprecated arguments
        return lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)


def empty_lpips() -> "lpips.LPIPS":
    """The lpips package's network on the meta device, constants included: shapes without storage."""
    return _uninitialised().to("meta").eval()


def public_key(key: str) -> str:
    """A network key's name in the public files: `features.0.weight` for `net.slice1.0.weight`, `lin0.*` for `lins.0.*`."""
    if key.startswith("net."):
        return "features." + key.split(".", 2)[2]
    return key.replace("lins.", "lin")


def load_perceptual_loss(vgg_path: Path | str = VGG_FILE) -> PerceptualLoss:
    """The loss with torchvision's VGG-16 file; nothing is downloaded.

    Raises:
        CheckpointError: the file is missing, damaged, or holds another network.
    """
    vgg, linear = read_checkpoint(vgg_path).tensors, read_checkpoint(linear_file()).tensors
    return PerceptualLoss(build_lpips(vgg, linear, vgg_path))


def linear_file() -> Path:
    """The weights of LPIPS' linear layers, part of the package lpips."""
    import lpips

    return Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"


@dataclass
class VggSettings(LossSettings):
    """The network of the loss `lpips`."""

    vgg: str = "checkpoints/auxiliary/vgg16-397923af.pth"


@dataclass(frozen=True)
class LpipsLoss(PixelLoss):
    """The perceptual loss of the estimated and the true clip, frame by frame."""

    name = "lpips"
    settings_type = VggSettings

    net: Frozen[PerceptualLoss]
    recompute: bool = False

    @classmethod
    def load(cls, run: RunFacts, device: torch.device, dtype: torch.dtype) -> "LpipsLoss":
        """The network on the device, in float32 whatever `dtype` is."""
        return cls(Frozen(load_perceptual_loss(run.settings.vgg).to(device)), run.recompute)

    @classmethod
    def empty(cls, run: RunFacts) -> "LpipsLoss":
        return cls(Frozen(PerceptualLoss(empty_lpips())), run.recompute)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"lpips": self.net.net}

    def __call__(self, clips: Comparison) -> Tensor:
        """Mean LPIPS distance of the frames."""
        estimated, true = (frames_of(pixels) for pixels in clips.pair())
        return in_parts(self.net.net, estimated, true, recompute=self.recompute).mean()
