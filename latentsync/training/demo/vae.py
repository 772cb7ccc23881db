"""Training a small image auto-encoder on aligned faces.

The losses are L1 errors of pixels, of edges, of each latent cell's mean colour and of the local strength of fine detail, and a KL
term of small weight. The strength of detail does not depend on where each pore or hair lies, which eight times smaller latents
cannot tell: without it the decoder would blur them. Afterwards the decoder alone is trained against a critic (Goodfellow et al.
2014), with the hinge loss of Lim and Ye (2017), so that what it makes up looks like skin and hair; latents stay what they are.
"""

from itertools import pairwise

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import Dataset

from latentsync.data.clips import TrainingClip
from latentsync.data.frames import FrameMemory, random_faces
from latentsync.face.masks import load_mask, weighted_mouth
from latentsync.face.pixels import frames_to_pixels
from latentsync.training.engine.loop import Losses, item_generator
from latentsync.weights import LATENT_STRIDE

MOUTH_WEIGHT = 8.0  # of the lips' pixels
MASKED_EVERY = 4  # one image in four is masked, like the U-Net's masked input
COLOUR_JITTER = (
    0.2  # gains of red, green and blue differ from 1 by up to this, so that other skins and lights are known too
)
DETAIL_CELL = 8  # side in pixels of the squares in which the strength of detail is compared


class FaceItems(Dataset[Tensor]):
    """Item n: pixels [3, r, r] of a random frame, chosen by a generator seeded with (seed, n); every `MASKED_EVERY`th is masked."""

    def __init__(self, memory: FrameMemory, clips: list[TrainingClip], seed: int):
        self.memory, self.clips, self.seed = memory, clips, seed
        self.mask = load_mask(memory.resolution)

    def __getitem__(self, position: int) -> Tensor:
        generator = item_generator(self.seed, position)
        drawn = random_faces(self.memory, self.clips, 1, generator)
        gains = 1 + COLOUR_JITTER * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
        pixels = ((frames_to_pixels(drawn)[0] + 1) * gains - 1).clamp(max=1)
        return pixels * self.mask if position % MASKED_EVERY == 0 else pixels


class Critic(nn.Module):
    """Tells pictures from decoded ones in patches of 22 pixels: [b, 3, h, w] -> [b, 1, h/8, w/8], above 0 where it looks real."""

    def __init__(self, width: int = 32):
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(inner, outer, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


class VaeObjective(nn.Module):
    """Losses of a batch of pixels [b, 3, r, r]: `pixel`, `edge`, `colour` (mean colour of each latent cell), `detail`, `kl`.

    With a critic also `adversarial`, by which the decoder learns what looks real, and `critic`, by which the critic does.
    """

    weight: Tensor

    def __init__(self, vae: AutoencoderKL, resolution: int, critic: Critic | None = None):
        super().__init__()
        self.vae, self.critic = vae, critic
        self.register_buffer("weight", weighted_mouth(resolution, MOUTH_WEIGHT), persistent=False)

    def forward(self, pixels: Tensor, positions: Tensor) -> Losses:
        posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(posterior.sample()).sample
        losses = {
            "pixel": (self.weight * (decoded - pixels).abs()).mean(),
            "edge": edge_loss(decoded, pixels, self.weight),
            "colour": colour_loss(decoded, pixels, self.weight),
            "detail": detail_loss(decoded, pixels, self.weight),
            "kl": posterior.kl().mean() / posterior.mean[0].numel(),
        }
        if self.critic is None:
            return losses
        shown = shifted(torch.cat([decoded, pixels]), int(positions[0]))
        return losses | adversarial_losses(self.critic, *shown.chunk(2))


def shifted(pixels: Tensor, seed: int) -> Tensor:
    """Pixels [b, c, h, w] without up to `LATENT_STRIDE` - 1 rows and columns at the top and left: else the critic's grid, which
    equals that of the decoder, would show in the pictures."""
    down, right = torch.randint(LATENT_STRIDE, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    return pixels[..., down:, right:]


def adversarial_losses(critic: Critic, decoded: Tensor, pixels: Tensor) -> Losses:
    """`adversarial` has gradients for what made `decoded` alone, `critic` for the critic alone."""
    fixed = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    real, made_up = critic(pixels), critic(decoded.detach())
    return {
        "adversarial": -functional_call(critic, fixed, decoded).mean(),
        "critic": F.relu(1 - real).mean() + F.relu(1 + made_up).mean(),
    }


def colour_loss(decoded: Tensor, pixels: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 error of each latent cell's mean colour."""
    error = F.avg_pool2d(decoded - pixels, LATENT_STRIDE).abs()
    return (F.avg_pool2d(weight[None, None], LATENT_STRIDE) * error).mean()


def edge_loss(decoded: Tensor, pixels: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 error of the differences between neighbouring pixels, summed over both directions."""
    error = decoded - pixels
    across = (weight[:, 1:] * error.diff(dim=-1).abs()).mean()
    down = (weight[1:] * error.diff(dim=-2).abs()).mean()
    return across + down


def detail_loss(decoded: Tensor, pixels: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 error of the strength of detail: root mean square, in squares of `DETAIL_CELL`, of what a blur removes.

    Summed over two sizes of detail, of one and of two pixels.
    """
    loss, cell = decoded.new_zeros(()), DETAIL_CELL
    for _ in range(2):
        strengths = [
            F.avg_pool2d((each - _blurred(each)).square(), cell).add(1e-5).sqrt() for each in (decoded, pixels)
        ]
        loss = loss + (F.avg_pool2d(weight[None, None], cell) * (strengths[0] - strengths[1]).abs()).mean()
        decoded, pixels, weight = F.avg_pool2d(decoded, 2), F.avg_pool2d(pixels, 2), F.avg_pool2d(weight[None], 2)[0]
        cell //= 2
    return loss


def _blurred(pixels: Tensor) -> Tensor:
    """Pixels [b, c, h, w] after a 3 x 3 mean."""
    return F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


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
