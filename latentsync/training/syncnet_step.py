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
        if batch_size % 2:
            raise ValueError(f"batch_size is {batch_size}; SyncNet windows come in pairs, choose an even number.")
        self.clips = [clip for clip in clips if clip.starts(num_frames) > 4 * MIN_SHIFT]
        if len(self.clips) < 2:
            raise ValueError("SyncNet training needs at least two clips that are long enough; add clips.")

    def __call__(self, step: int) -> Losses:
        generator = batch_generator(self.seed, step)
        windows = [window for _ in range(self.batch_size // 2) for window in self._draw_two(generator)]
        image, mel = (torch.stack(column) for column in zip(*windows, strict=True))
        lips, right = self.net.embed_lips(jitter(image, generator)), self.net.embed_audio(mel)
        labels = torch.cat([torch.ones(self.batch_size), torch.zeros(self.batch_size)])
        losses = sync_loss(torch.cat([lips, lips]), torch.cat([right, wrong_sounds(right)]), labels)
        return {"sync": losses.mean()}

    def _draw_two(self, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """Lips and sound of two windows of one clip, at least `MIN_SHIFT` frames apart."""

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        clip = self.clips[draw(len(self.clips))]
        starts = clip.starts(self.num_frames)
        first = draw(starts)
        elsewhere = [other for other in range(starts) if abs(other - first) >= MIN_SHIFT]
        second = elsewhere[draw(len(elsewhere))]
        return [(clip.image(s, self.num_frames), clip.sound(s, self.num_frames)) for s in (first, second)]


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
