"""Training a small image auto-encoder on aligned faces.

The losses are L1 errors of pixels, of edges and of each latent cell's mean colour, and a KL term of small weight.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from latentsync.data.clips import TrainingClip
from latentsync.data.frames import FrameMemory, random_faces
from latentsync.face.masks import load_mask
from latentsync.face.pixels import frames_to_pixels
from latentsync.training.engine.loop import Losses, item_generator
from latentsync.weights import LATENT_STRIDE

MOUTH_ROWS, MOUTH_COLUMNS = (
    (0.55, 0.90),
    (0.25, 0.75),
)  # region of the lips in an aligned face, as fractions of its side
MOUTH_WEIGHT = 4.0
MASKED_EVERY = 4  # one image in four is masked, like the U-Net's masked input


class FaceItems(Dataset[Tensor]):
    """Item n: pixels [3, r, r] of a random frame, chosen by a generator seeded with (seed, n); every `MASKED_EVERY`th is masked."""

    def __init__(self, memory: FrameMemory, clips: list[TrainingClip], seed: int):
        self.memory, self.clips, self.seed = memory, clips, seed
        self.mask = load_mask(memory.resolution)

    def __getitem__(self, position: int) -> Tensor:
        drawn = random_faces(self.memory, self.clips, 1, item_generator(self.seed, position))
        pixels = frames_to_pixels(drawn)[0]
        return pixels * self.mask if position % MASKED_EVERY == 0 else pixels


class VaeObjective(nn.Module):
    """Losses of a batch of pixels [b, 3, r, r]: `pixel`, `edge`, `colour` (mean colour of each latent cell) and `kl`."""

    weight: Tensor

    def __init__(self, vae: AutoencoderKL, resolution: int):
        super().__init__()
        self.vae = vae
        self.register_buffer("weight", mouth_weight(resolution), persistent=False)

    def forward(self, pixels: Tensor, positions: Tensor) -> Losses:
        posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(posterior.sample()).sample
        return {
            "pixel": (self.weight * (decoded - pixels).abs()).mean(),
            "edge": edge_loss(decoded, pixels, self.weight),
            "colour": F.l1_loss(F.avg_pool2d(decoded, LATENT_STRIDE), F.avg_pool2d(pixels, LATENT_STRIDE)),
            "kl": posterior.kl().mean() / posterior.mean[0].numel(),
        }


def mouth_weight(resolution: int) -> Tensor:
    """Loss weights of pixels, [r, r]: `MOUTH_WEIGHT` around the lips, 1 elsewhere."""
    weight = torch.ones(resolution, resolution)
    (top, bottom), (left, right) = MOUTH_ROWS, MOUTH_COLUMNS
    weight[int(top * resolution) : int(bottom * resolution), int(left * resolution) : int(right * resolution)] = (
        MOUTH_WEIGHT
    )
    return weight


def edge_loss(decoded: Tensor, pixels: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 error of the differences between neighbouring pixels, summed over both directions."""
    error = decoded - pixels
    across = (weight[:, 1:] * error.diff(dim=-1).abs()).mean()
    down = (weight[1:] * error.diff(dim=-2).abs()).mean()
    return across + down


@torch.no_grad()
def latent_statistics(
    vae: AutoencoderKL, memory: FrameMemory, clips: list[TrainingClip], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [4] each, of unscaled latents over 256 random frames."""
    parts = [frames_to_pixels(random_faces(memory, clips, 32, generator)) for _ in range(8)]
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in parts])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


@torch.no_grad()
def reconstruction_psnr(
    vae: AutoencoderKL, memory: FrameMemory, clips: list[TrainingClip], generator: torch.Generator
) -> float:
    """PSNR in dB of 32 random frames decoded from the posterior's mean and clamped to [-1, 1]."""
    pixels = frames_to_pixels(random_faces(memory, clips, 32, generator))
    decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / F.mse_loss(decoded, pixels)))
