"""Training data of the SyncNet: windows of faces (or their latents) with frames packed into channels, and mel windows.

An item has four windows, two from each of two clips: A A' B B'. Each window with its own audio is a matching pair. Rotating the
audio by one gives the mismatched pairs: A with the audio of A' and B with that of B' (hard: same clip, other time), A' with the
audio of B and B' with that of A (easy: other clip). Matching and mismatched, hard and easy pairs are thus balanced in every item,
every window of audio is in one matching and one mismatched pair, and the loss does not depend on how items are batched.

Tensor legend: b windows, f frames, t frames of a clip, c colours or latent channels, h w, n mel columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latentsync.audio.sync_mel import sync_mel, sync_mel_window
from latentsync.data.clips import TrainingClip
from latentsync.data.draws import ClipOrder, Draw, readable_item
from latentsync.data.features import ClipFeature
from latentsync.data.frames import FrameMemory
from latentsync.data.settings import MIN_SHIFT, WINDOWS_AN_ITEM
from latentsync.data.unet_clips import mel_window
from latentsync.face.pixels import frames_to_pixels
from latentsync.timebase import sync_mel_length

COLOURS = 3


class Pictures(Protocol):
    """Input of the visual encoder, by clip."""

    def window(self, clip: TrainingClip, start: int, num_frames: int) -> Tensor:
        """A window, float32 [f, c, h, w]: pixels in [-1, 1], or scaled latents."""


@dataclass(frozen=True)
class PixelPictures:
    """Decoded faces, or their lower halves, in [-1, 1]."""

    memory: FrameMemory

    def window(self, clip: TrainingClip, start: int, num_frames: int) -> Tensor:
        return frames_to_pixels(self.memory.frames(clip, start, start + num_frames))


@dataclass(frozen=True)
class LatentPictures:
    """Scaled latents of faces, or their lower halves."""

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
        """Number of windows of `num_frames` frames with complete frames and audio."""
        starts = len(self.pictures) - num_frames + 1
        while starts > 0 and sync_mel_window(self.mel, starts - 1, num_frames).shape[-1] < sync_mel_length(num_frames):
            starts -= 1
        return max(0, starts)

    def image(self, start: int, num_frames: int) -> Tensor:
        """Frames packed into channels: [f * c, h, w]."""
        return self.pictures[start : start + num_frames].flatten(0, 1)

    def sound(self, start: int, num_frames: int) -> Tensor:
        """Mel window [1, 80, n] of the same frames."""
        return sync_mel_window(self.mel, start, num_frames)[None]


def load_sync_clip(clip: TrainingClip, pictures: Pictures) -> SyncClip:
    """Load a whole clip as input of the SyncNet."""
    return SyncClip(pictures.window(clip, 0, clip.frames), sync_mel(clip.waveform()))


@dataclass(frozen=True)
class SyncBatch:
    """One or more groups of four windows (see above), each with its own audio."""

    image: Tensor  # [b, f * c, h, w]
    mel: Tensor  # [b, 1, 80, n]
    mouth: Tensor | None = None  # [b, f, 2], aperture and width of the mouth, if known for all clips

    def to(self, device: torch.device) -> "SyncBatch":
        """The same batch on another device."""
        return SyncBatch(**{name: value.to(device, non_blocking=True) for name, value in self.present().items()})

    def present(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


def collate(items: Sequence[SyncBatch]) -> SyncBatch:
    """Concatenate groups to a batch of all their windows."""
    return SyncBatch(**{name: torch.cat([item.present()[name] for item in items]) for name in items[0].present()})


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training windows; off by default."""

    jitter_px: int = 0  # largest random shift, the same for all windows of a group
    brightness: float = 0.0  # largest relative change of red, green and blue, drawn for each window and colour
    mel_noise: float = 0.0  # standard deviation of the noise added to mel windows, whose values are in [-4, 4]
    mirrored: bool = False  # left and right are exchanged in every second group of windows

    def image(self, image: Tensor, draw: Draw) -> Tensor:
        """Augment windows [b, f * c, h, w] of pixels."""
        if self.mirrored and draw.below(2):
            image = image.flip(-1)
        if self.jitter_px:
            side = 2 * self.jitter_px + 1
            image = image.roll((draw.below(side) - self.jitter_px, draw.below(side) - self.jitter_px), (-2, -1))
        if self.brightness:
            share = 2 * torch.rand(len(image), COLOURS, generator=draw.generator) - 1
            frames = image.shape[1] // COLOURS
            image = image * (1 + self.brightness * share).repeat(1, frames)[:, :, None, None]  # [b, f * c, 1, 1]
        return image

    def sound(self, mel: Tensor, draw: Draw) -> Tensor:
        """Augment mel windows [b, 1, 80, n]."""
        return mel + self.mel_noise * torch.randn(mel.shape, generator=draw.generator) if self.mel_noise else mel


class SyncClips(Dataset[SyncBatch]):
    """Item n of an endless sequence: two windows of the clip at position n (see `draws`), and two of another clip."""

    def __init__(
        self,
        clips: list[TrainingClip],
        num_frames: int,
        seed: int,
        pictures: Pictures,
        mel: ClipFeature,
        min_shift: int = MIN_SHIFT,
        augmentation: Augmentation | None = None,
        lanes: int = 1,
    ):
        """`min_shift` is the smallest distance of the two windows of a clip, in frames; `lanes` the number of items of a step.

        Raises:
            ValueError: there are fewer than two clips, or one is too short.
        """
        if len(clips) < 2:
            raise ValueError(
                f"A SyncNet needs at least two usable clips, but there are {len(clips)}; see the reasons above."
            )
        shortest = min(clips, key=lambda clip: clip.frames)
        if shortest.frames < min_frames(num_frames, min_shift):
            raise ValueError(
                f"{shortest.path} has {shortest.frames} frames, but at least {min_frames(num_frames, min_shift)} are needed for"
                f" windows of {num_frames} frames that are {min_shift} apart."
            )
        self.clips, self.num_frames, self.min_shift = clips, num_frames, min_shift
        self.order = ClipOrder(clips, seed, lanes)
        self.pictures, self.mel = pictures, mel
        self.augmentation = augmentation or Augmentation()
        self.knows_mouths = all(clip.has_mouth() for clip in clips)

    def __len__(self) -> int:
        """Number of items of one epoch; larger positions are valid too."""
        return len(self.clips)

    def __getitem__(self, position: int) -> SyncBatch:
        return readable_item(self.order, position, self._item)

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
        near = self.order.near(clip)
        index = draw.below(len(near) - 1)
        others = near[index], near[-1]
        return others[1] if others[0] is clip else others[0]

    def _two_starts(self, clip: TrainingClip, draw: Draw) -> tuple[int, int]:
        """Random first frames of two windows that are at least `min_shift` frames apart."""
        starts = clip.frames - self.num_frames + 1
        first = draw.below(starts)
        return first, draw.one_of([other for other in range(starts) if abs(other - first) >= self.min_shift])

    def _mouth(self, clip: TrainingClip, start: int) -> Tensor:
        mouth = clip.mouth()
        assert mouth is not None, "known for every clip"
        return torch.from_numpy(mouth[start : start + self.num_frames])


def min_frames(num_frames: int, min_shift: int = MIN_SHIFT) -> int:
    """Minimum length of a clip in frames: two windows, and for every window another one that is `min_shift` frames away."""
    return max(2 * num_frames, num_frames + 2 * min_shift)


def rotate_sounds(sounds: Tensor) -> Tensor:
    """Audio embeddings [b, D] rotated by one within each group of four: the mismatched audio of each window."""
    return sounds.unflatten(0, (-1, WINDOWS_AN_ITEM)).roll(-1, 1).flatten(0, 1)
