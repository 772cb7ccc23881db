"""Training a StableSyncNet: as many right pairs of lips and sound as wrong ones; half of the wrong ones are hard.

A hard wrong pair is the same clip's sound from another moment; an easy one is another clip's sound. Where the movement of the
mouth is known, both embeddings also have to tell it through a linear head, to shorten the plateau at ln 2 = 0.693, where a
network has not yet found what lips and sound have in common.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.data.sync_clips import SyncClip
from latentsync.losses.sync import sync_loss
from latentsync.models.syncnet import StableSyncNet
from latentsync.training.loop import Losses, batch_generator

MIN_SHIFT = 5  # frames between lips and sound from which a pair of one clip counts as wrong
MAX_JITTER = 2  # pixels by which training pictures are moved
MEL_NOISE = 0.25  # deviation of the noise added to training sounds, whose mel values lie in [-4, 4]
CONTROLS = 2  # aperture and width


class SyncNetWithHeads(nn.Module):
    """A SyncNet and the linear heads that read the mouth's movement from its embeddings; only the net is kept."""

    def __init__(self, net: StableSyncNet, num_frames: int):
        super().__init__()
        self.net = net
        width = net.config.visual_encoder.block_out_channels[-1]
        self.scale = width**0.5  # embeddings have unit length
        self.lips_head = nn.Linear(width, num_frames * CONTROLS)
        self.sound_head = nn.Linear(width, num_frames * CONTROLS)

    def mouth_error(self, lips: Tensor, sound: Tensor, mouth: Tensor) -> Tensor:
        """Mean squared error of the movement [b, f, 2] read from embeddings [b, D] of lips and of sound."""
        told = torch.stack([self.lips_head(self.scale * lips), self.sound_head(self.scale * sound)])
        return F.mse_loss(told, mouth.flatten(1).expand_as(told))


class SyncNetStep:
    """A step function: draws windows from (seed, step), returns `sync`, the balanced cross-entropy, and perhaps `mouth`."""

    def __init__(self, model: SyncNetWithHeads, clips: list[SyncClip], batch_size: int, num_frames: int, seed: int):
        self.model, self.batch_size, self.num_frames, self.seed = model, batch_size, num_frames, seed
        if batch_size % 2:
            raise ValueError(f"batch_size is {batch_size}; SyncNet windows come in pairs, choose an even number.")
        self.clips = [clip for clip in clips if clip.starts(num_frames) > 2 * MIN_SHIFT]
        if len(self.clips) < 2:
            raise ValueError("SyncNet training needs at least two clips that are long enough; add clips.")
        self.knows_mouths = all(clip.mouth is not None for clip in self.clips)

    def __call__(self, step: int) -> Losses:
        generator = batch_generator(self.seed, step)
        windows = [window for _ in range(self.batch_size // 2) for window in self._draw_two(generator)]
        f, net = self.num_frames, self.model.net
        lips = net.embed_lips(jitter(torch.stack([clip.image(start, f) for clip, start in windows]), generator))
        mel = torch.stack([clip.sound(start, f) for clip, start in windows])
        right = net.embed_audio(mel + MEL_NOISE * torch.randn(mel.shape, generator=generator))
        labels = torch.cat([torch.ones(self.batch_size), torch.zeros(self.batch_size)])
        sync = sync_loss(torch.cat([lips, lips]), torch.cat([right, wrong_sounds(right)]), labels)
        if not self.knows_mouths:
            return {"sync": sync.mean()}
        mouth = torch.stack([clip.mouth[start : start + f] for clip, start in windows if clip.mouth is not None])
        return {"sync": sync.mean(), "mouth": self.model.mouth_error(lips, right, mouth)}

    def _draw_two(self, generator: torch.Generator) -> list[tuple[SyncClip, int]]:
        """Two windows of one clip by their first frames, at least `MIN_SHIFT` frames apart."""

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        clip = self.clips[draw(len(self.clips))]
        starts = clip.starts(self.num_frames)
        first = draw(starts)
        elsewhere = [other for other in range(starts) if abs(other - first) >= MIN_SHIFT]
        return [(clip, first), (clip, elsewhere[draw(len(elsewhere))])]


def wrong_sounds(right: Tensor) -> Tensor:
    """Sounds [b, D] that do not belong to the lips, for windows that come in pairs of one clip.

    Every other pair swaps its sounds (hard: the same clip); the others take the next pair's (easy: another clip).
    """
    hard = right.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    easy = right.roll(2, 0)
    is_hard = torch.arange(len(right), device=right.device) // 2 % 2 == 0
    return torch.where(is_hard[:, None], hard, easy)


def jitter(image: Tensor, generator: torch.Generator) -> Tensor:
    """Move a batch of pictures by up to `MAX_JITTER` pixels and change their brightness a little."""
    dy, dx = (int(v) for v in torch.randint(-MAX_JITTER, MAX_JITTER + 1, (2,), generator=generator))
    gain = 0.85 + 0.3 * torch.rand(image.shape[0], 1, 1, 1, generator=generator)
    return image.roll((dy, dx), (-2, -1)) * gain
