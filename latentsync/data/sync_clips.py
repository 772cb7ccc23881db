"""Clips for the SyncNet: pictures of lips, packed as its visual encoder reads them, and mel windows of the sound.

An item holds four windows, two of each of two clips, A A' B B'. Their own sounds are the right pairs; moving the sounds on by
one place makes the wrong ones: A with the sound of A' and B with that of B' (hard: the same clip at another moment), A' with
the sound of B and B' with that of A (easy: another clip). So right and wrong, hard and easy are exactly balanced in every item,
every sound is used once rightly and once wrongly, and a loss does not depend on how items are spread over batches.

Tensor legend: b windows, f frames, c colours or latent channels, h w, n mel columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latentsync.audio.sync_mel import sync_mel, sync_mel_window
from latentsync.data.clips import TrainingClip
from latentsync.data.draws import Draw, readable_item
from latentsync.data.features import ClipFeature
from latentsync.data.frames import FrameMemory
from latentsync.data.settings import MIN_SHIFT, WINDOWS_AN_ITEM
from latentsync.data.unet_clips import mel_window
from latentsync.face.pixels import frames_to_pixels
from latentsync.timebase import sync_mel_length


class Pictures(Protocol):
    """What the visual encoder sees of clips."""

    def window(self, clip: TrainingClip, start: int, num_frames: int) -> Tensor:
        """A window, float32 [f, c, h, w]: pixels in [-1, 1], or scaled latents."""


@dataclass(frozen=True)
class PixelPictures:
    """Decoded faces, their lower half or all of them."""

    memory: FrameMemory

    def window(self, clip: TrainingClip, start: int, num_frames: int) -> Tensor:
        return frames_to_pixels(self.memory.frames(clip, start, start + num_frames))


@dataclass(frozen=True)
class LatentPictures:
    """Latents of faces, their lower half or all of them."""

    feature: ClipFeature
    lower_half: bool = False

    def window(self, clip: TrainingClip, start: int, num_frames: int) -> Tensor:
        latents = self.feature.rows(clip, "latents", start, start + num_frames).float()
        return latents[:, :, latents.shape[2] // 2 :] if self.lower_half else latents


@dataclass(frozen=True)
class SyncClip:
    """One whole clip in memory: `pictures` [t, c, h, w] in [-1, 1] or scaled latents, `mel` [80, n]."""

    pictures: Tensor
    mel: Tensor

    def starts(self, num_frames: int) -> int:
        """Number of windows of `num_frames` frames that have all of their pictures and sound."""
        starts = len(self.pictures) - num_frames + 1
        while starts > 0 and sync_mel_window(self.mel, starts - 1, num_frames).shape[-1] < sync_mel_length(num_frames):
            starts -= 1
        return max(0, starts)

    def image(self, start: int, num_frames: int) -> Tensor:
        """Frames packed into channels: [f * c, h, w]."""
        return self.pictures[start : start + num_frames].flatten(0, 1)

    def sound(self, start: int, num_frames: int) -> Tensor:
        """Mel window [1, 80, n] of the same stretch."""
        return sync_mel_window(self.mel, start, num_frames)[None]


def load_sync_clip(clip: TrainingClip, pictures: Pictures) -> SyncClip:
    """A whole clip as the SyncNet sees and hears it."""
    return SyncClip(pictures.window(clip, 0, clip.frames), sync_mel(clip.waveform()))


@dataclass(frozen=True)
class SyncBatch:
    """Windows of lips and their own sounds, in groups of four (see above), or one such group."""

    image: Tensor  # [b, f * c, h, w]
    mel: Tensor  # [b, 1, 80, n]
    mouth: Tensor | None = None  # [b, f, 2], aperture and width, where they are known

    def to(self, device: torch.device) -> "SyncBatch":
        """The same batch on another device."""
        return SyncBatch(**{name: value.to(device, non_blocking=True) for name, value in self.present().items()})

    def present(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


def collate(items: Sequence[SyncBatch]) -> SyncBatch:
    """Groups -> a batch of all of their windows."""
    return SyncBatch(**{name: torch.cat([item.present()[name] for item in items]) for name in items[0].present()})


@dataclass(frozen=True)
class Augmentation:
    """How training windows are changed; nothing by default."""

    jitter_px: int = 0  # pictures of a group are moved by up to this many pixels
    brightness: float = 0.0  # and made up to this share brighter or darker, each window for itself
    mel_noise: float = 0.0  # deviation of the noise added to sounds, whose values lie in [-4, 4]

    def image(self, image: Tensor, draw: Draw) -> Tensor:
        """Change pictures [b, c, h, w]."""
        if self.jitter_px:
            side = 2 * self.jitter_px + 1
            image = image.roll((draw.below(side) - self.jitter_px, draw.below(side) - self.jitter_px), (-2, -1))
        if self.brightness:
            share = 2 * torch.rand(len(image), 1, 1, 1, generator=draw.generator) - 1
            image = image * (1 + self.brightness * share)
        return image

    def sound(self, mel: Tensor, draw: Draw) -> Tensor:
        """Change mel windows [b, 1, 80, n]."""
        return mel + self.mel_noise * torch.randn(mel.shape, generator=draw.generator) if self.mel_noise else mel


class SyncClips(Dataset[SyncBatch]):
    """Item n of an endless sequence: two windows of the clip that n visits, and two of another one."""

    def __init__(
        self,
        clips: list[TrainingClip],
        num_frames: int,
        seed: int,
        pictures: Pictures,
        mel: ClipFeature,
        min_shift: int = MIN_SHIFT,
        augmentation: Augmentation | None = None,
    ):
        """`min_shift`: frames by which the two windows of a clip differ at least.

        Raises:
            ValueError: there are fewer than two clips, or one is too short.
        """
        if len(clips) < 2:
            raise ValueError(
                f"A SyncNet needs at least two usable clips, there are {len(clips)}: see the reasons above."
            )
        shortest = min(clips, key=lambda clip: clip.frames)
        if shortest.frames < min_frames(num_frames, min_shift):
            raise ValueError(
                f"{shortest.path} has {shortest.frames} frames; windows of {num_frames} that lie {min_shift} apart need"
                f" {min_frames(num_frames, min_shift)}."
            )
        self.clips, self.num_frames, self.seed, self.min_shift = clips, num_frames, seed, min_shift
        self.pictures, self.mel = pictures, mel
        self.augmentation = augmentation or Augmentation()
        self.knows_mouths = all(clip.mouth() is not None for clip in clips)

    def __len__(self) -> int:
        """Items of one epoch; positions go on beyond it."""
        return len(self.clips)

    def __getitem__(self, position: int) -> SyncBatch:
        return readable_item(self.clips, self.seed, position, self._item)

    def _item(self, clip: TrainingClip, draw: Draw) -> SyncBatch:
        other = self._another(clip, draw)
        windows = [(shown, start) for shown in (clip, other) for start in self._two_starts(shown, draw)]
        image = torch.stack(
            [self.pictures.window(shown, start, self.num_frames).flatten(0, 1) for shown, start in windows]
        )
        mel = torch.stack([mel_window(self.mel, shown, start, self.num_frames) for shown, start in windows])
        mouth = torch.stack([self._mouth(shown, start) for shown, start in windows]) if self.knows_mouths else None
        return SyncBatch(self.augmentation.image(image, draw), self.augmentation.sound(mel, draw), mouth)

    def _another(self, clip: TrainingClip, draw: Draw) -> TrainingClip:
        index = draw.below(len(self.clips) - 1)
        others = self.clips[index], self.clips[-1]
        return others[1] if others[0] is clip else others[0]

    def _two_starts(self, clip: TrainingClip, draw: Draw) -> tuple[int, int]:
        """First frames of two windows at least `min_shift` apart."""
        starts = clip.frames - self.num_frames + 1
        first = draw.below(starts)
        return first, draw.one_of([other for other in range(starts) if abs(other - first) >= self.min_shift])

    def _mouth(self, clip: TrainingClip, start: int) -> Tensor:
        mouth = clip.mouth()
        assert mouth is not None, "known for every clip"
        return torch.from_numpy(mouth[start : start + self.num_frames])


def min_frames(num_frames: int, min_shift: int = MIN_SHIFT) -> int:
    """Frames that a clip needs: two whole windows, and for every window another one `min_shift` away."""
    return max(2 * num_frames, num_frames + 2 * min_shift)


def rotate_sounds(sounds: Tensor) -> Tensor:
    """Sounds [b, D] of groups of four -> the wrong sound of each window: the next one of its group."""
    return sounds.unflatten(0, (-1, WINDOWS_AN_ITEM)).roll(-1, 1).flatten(0, 1)
