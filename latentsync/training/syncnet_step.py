"""Training a StableSyncNet: as many right pairs of lips and sound as wrong ones; half of the wrong ones are hard.

A hard wrong pair is the same clip's sound from another moment; an easy one is another clip's sound.
"""

import torch
from torch import Tensor

from latentsync.data.sync_clips import SyncClip
from latentsync.losses.sync import sync_loss
from latentsync.models.syncnet import StableSyncNet
from latentsync.training.loop import Losses, batch_generator

MIN_SHIFT = 3  # frames between a hard wrong pair's lips and sound
MAX_JITTER = 2  # pixels by which training pictures are moved


class SyncNetStep:
    """A step function: draws windows from (seed, step), returns `sync`, the balanced cross-entropy."""

    def __init__(self, net: StableSyncNet, clips: list[SyncClip], batch_size: int, num_frames: int, seed: int):
        self.net, self.batch_size, self.num_frames, self.seed = net, batch_size, num_frames, seed
        self.clips = [clip for clip in clips if clip.starts(num_frames) > 4 * MIN_SHIFT]
        if len(self.clips) < 2:
            raise ValueError("SyncNet training needs at least two clips that are long enough; add clips.")

    def __call__(self, step: int) -> Losses:
        generator = batch_generator(self.seed, step)
        windows = [self._draw(generator) for _ in range(self.batch_size)]
        image, right, shifted = (torch.stack(column) for column in zip(*windows, strict=True))
        lips = self.net.embed_lips(jitter(image, generator))
        sounds = self.net.embed_audio(torch.cat([right, shifted]))
        right_sound, shifted_sound = sounds.chunk(2)
        easy = torch.arange(self.batch_size) % 2 == 0
        wrong_sound = torch.where(easy[:, None], right_sound.roll(1, 0), shifted_sound)
        labels = torch.cat([torch.ones(self.batch_size), torch.zeros(self.batch_size)])
        losses = sync_loss(torch.cat([lips, lips]), torch.cat([right_sound, wrong_sound]), labels)
        return {"sync": losses.mean()}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Lips, their sound, and the same clip's sound from at least `MIN_SHIFT` frames away."""

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        clip = self.clips[draw(len(self.clips))]
        starts = clip.starts(self.num_frames)
        start = draw(starts)
        elsewhere = [other for other in range(starts) if abs(other - start) >= MIN_SHIFT]
        other = elsewhere[draw(len(elsewhere))]
        f = self.num_frames
        return clip.image(start, f), clip.sound(start, f), clip.sound(other, f)


def jitter(image: Tensor, generator: torch.Generator) -> Tensor:
    """Move a batch of pictures by up to `MAX_JITTER` pixels and change their brightness a little."""
    dy, dx = (int(v) for v in torch.randint(-MAX_JITTER, MAX_JITTER + 1, (2,), generator=generator))
    gain = 0.85 + 0.3 * torch.rand(image.shape[0], 1, 1, 1, generator=generator)
    return image.roll((dy, dx), (-2, -1)) * gain
