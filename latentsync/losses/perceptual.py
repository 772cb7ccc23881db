"""How different two pictures look: LPIPS with VGG-16 (Zhang et al. 2018), on the part of the face that is generated.

Tensor legend: f frames, c h w; pixels float [-1, 1].
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import lpips
import torch
from torch import Tensor, nn

from latentsync.device import full_precision
from latentsync.weights import CHECKPOINTS, CheckpointError, read_checkpoint

VGG_FILE = CHECKPOINTS / "auxiliary" / "vgg16-397923af.pth"
LINEAR_FILE = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"  # comes with the package
FIXED = ("scaling_layer.shift", "scaling_layer.scale")  # constants of the method, not weights


class PerceptualLoss(nn.Module):
    """LPIPS of the lower half of faces, in float32 also under autocast."""

    def __init__(self, network: lpips.LPIPS) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """The network stays in evaluation mode."""
        return super().train(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Distances [f], 0 for equal pictures, of faces [f, 3, h, w] in [-1, 1]; rows from h // 2 on are compared."""
        middle = prediction.shape[-2] // 2
        with full_precision(prediction.device):
            return self.network(prediction[..., middle:, :].float(), target[..., middle:, :].float()).flatten()


def build_lpips(vgg: Mapping[str, Tensor], linear: Mapping[str, Tensor], origin: Path | str) -> lpips.LPIPS:
    """The package's network from torchvision's VGG-16 entries (`features.0.weight`, ...) and `lin0.model.1.weight`, ...

    Raises:
        CheckpointError: an entry is missing or misshapen; `origin` is named as the place it should have come from.
    """
    network = _unfilled()
    wanted = {key: value.shape for key, value in network.state_dict().items() if key not in FIXED}
    stored = {key: (linear if key.startswith("lin") else vgg).get(public_key(key)) for key in wanted}
    found = {key: value.float() for key, value in stored.items() if value is not None and value.shape == wanted[key]}
    wrong = [public_key(key) for key in wanted if key not in found]
    if wrong:
        raise CheckpointError(
            f"{origin} is not the VGG-16 of LPIPS: {len(wrong)} entries are missing or of another shape "
            f"({', '.join(wrong[:5])}). Fetch torchvision's vgg16-397923af.pth."
        )
    network.load_state_dict(found, strict=False, assign=True)
    return network.eval()


def _unfilled() -> lpips.LPIPS:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision by its old signature
        return lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)


def empty_lpips() -> lpips.LPIPS:
    """The package's network on the meta device, constants included: shapes without storage."""
    return _unfilled().to("meta").eval()


def public_key(key: str) -> str:
    """Name of a network entry in the public files: torchvision numbers the layers through, the package has two names."""
    if key.startswith("net."):
        return "features." + key.split(".", 2)[2]
    return key.replace("lins.", "lin")


def load_perceptual_loss(vgg_path: Path | str = VGG_FILE) -> PerceptualLoss:
    """The loss from torchvision's VGG-16 file; nothing is downloaded.

    Raises:
        CheckpointError: the file is absent, damaged, or of another network.
    """
    vgg, linear = read_checkpoint(vgg_path).tensors, read_checkpoint(LINEAR_FILE).tensors
    return PerceptualLoss(build_lpips(vgg, linear, vgg_path))
