"""Distilling the auto-encoder's decoder into a small one: latents of faces in, that decoder's pixels as the target.

Legend: b faces, c channels, h w latent height and width, r side of a face in pixels.
"""

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from latentsync.data.clips import TrainingClip
from latentsync.data.features import ClipFeature
from latentsync.face.masks import weighted_mouth
from latentsync.models.frozen import Frozen
from latentsync.models.vae import decode, decode_tiny
from latentsync.training.demo.vae import MOUTH_WEIGHT, edge_loss
from latentsync.training.engine.loop import Losses, item_generator
from latentsync.weights import LATENT_STRIDE

PEAK = 2.0  # range of pixel values, [-1, 1]


class LatentItems(Dataset[Tensor]):
    """Item n: scaled latents [4, h, w] of a random frame of a random clip, chosen by a generator seeded with (seed, n)."""

    def __init__(self, latents: ClipFeature, clips: list[TrainingClip], seed: int):
        self.latents, self.clips, self.seed = latents, clips, seed

    def __getitem__(self, position: int) -> Tensor:
        generator = item_generator(self.seed, position)
        clip = self.clips[int(torch.randint(len(self.clips), (1,), generator=generator))]
        frame = int(torch.randint(self.latents.length(clip, "latents"), (1,), generator=generator))
        return self.latents.rows(clip, "latents", frame, frame + 1)[0].float()


class TinyVaeObjective(nn.Module):
    """Losses of a batch of latents [b, 4, h, w]: `pixel`, `edge`, and `colour` (mean colour of each latent cell)."""

    weight: Tensor

    def __init__(self, student: AutoencoderTiny, teacher: Frozen[AutoencoderKL], resolution: int):
        super().__init__()
        student.encoder.requires_grad_(False)  # unused here
        self.student, self.teacher = student, teacher
        self.register_buffer("weight", weighted_mouth(resolution, MOUTH_WEIGHT), persistent=False)

    def forward(self, latents: Tensor, positions: Tensor) -> Losses:
        with torch.no_grad():
            target = decode(self.teacher.net, latents)
        decoded = decode_tiny(self.student, latents)
        return {
            "pixel": (self.weight * (decoded - target).abs()).mean(),
            "edge": edge_loss(decoded, target, self.weight),
            "colour": F.l1_loss(F.avg_pool2d(decoded, LATENT_STRIDE), F.avg_pool2d(target, LATENT_STRIDE)),
        }


@torch.no_grad()
def imitation_psnr(student: AutoencoderTiny, teacher: AutoencoderKL, latents: Tensor) -> float:
    """PSNR in dB of the student's pixels against the teacher's, both clamped to [-1, 1]."""
    pairs = [(decode_tiny(student, part), decode(teacher, part)) for part in latents.split(8)]
    errors = [F.mse_loss(decoded.clamp(-1, 1), target.clamp(-1, 1)) for decoded, target in pairs]
    return float(10 * torch.log10(PEAK**2 / torch.stack(errors).mean()))
