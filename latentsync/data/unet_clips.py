"""Training data of the U-Net: a window of faces, a reference window from another part of the same clip, and the audio.

Tensor legend: b batch, c channels, f frames, h w; s Whisper rows, d hidden states, w their width, n mel columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset

from latentsync.audio.windows import window_rows
from latentsync.data.clips import TrainingClip
from latentsync.data.draws import ClipOrder, Draw, readable_item
from latentsync.data.features import ClipFeature, Encode
from latentsync.data.frames import FrameMemory
from latentsync.face.pixels import FaceInputs, prepare_faces
from latentsync.timebase import sync_mel_length, sync_mel_start

WINDOWS_NEEDED = 3  # minimum length of a clip in windows, so that every start has a reference without overlap


@dataclass(frozen=True)
class ClipBatch:
    """A training batch in float32, or one item of it, without dimension b; tensors that a training does not use are None.

    Pixels are in [-1, 1], latents scaled, `mel` in [-4, 4]. Masked pixels are 0 (mid grey) in the generated region.
    """

    audio: Tensor | None = None  # [b, f, tokens, w], Whisper features around each frame
    latents: Tensor | None = None  # [b, c, f, h, w]
    masked_latents: Tensor | None = None
    reference_latents: Tensor | None = None
    pixels: Tensor | None = None  # [b, 3, f, r, r]
    masked_pixels: Tensor | None = None
    reference_pixels: Tensor | None = None
    mel: Tensor | None = None  # [b, 1, 80, n], mel window for the SyncNet

    def to(self, device: torch.device) -> "ClipBatch":
        """The same batch on another device."""
        return ClipBatch(**{name: value.to(device, non_blocking=True) for name, value in self.present().items()})

    def present(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    def __len__(self) -> int:
        return len(next(iter(self.present().values())))


def collate(items: Sequence[ClipBatch]) -> ClipBatch:
    """Stack items that have the same tensors."""
    return ClipBatch(**{name: torch.stack([item.present()[name] for item in items]) for name in items[0].present()})


@torch.no_grad()
def with_latents(batch: ClipBatch, encode: Encode) -> ClipBatch:
    """A batch of pixels with its latents, computed by `encode`."""

    def encoded(pixels: Tensor | None) -> Tensor:
        assert pixels is not None, "the batch has pixels"
        latents = encode(rearrange(pixels, "b c f h w -> (b f) c h w"))
        return rearrange(latents.float(), "(b f) c h w -> b c f h w", b=len(batch))

    return replace(
        batch,
        latents=encoded(batch.pixels),
        masked_latents=encoded(batch.masked_pixels),
        reference_latents=encoded(batch.reference_pixels),
    )


class UNetClips(Dataset[ClipBatch]):
    """Item n of an endless sequence: a window of the clip at position n (see `draws`), and a reference window of the same clip.

    The start is uniform over the clip; so is that of the reference among those that are at least `num_frames` away. With `mirrored`
    left and right are exchanged in half of the items. Latents are mirrored as they are, which is not quite the same as latents of
    mirrored faces: with the demo's auto-encoder they differ by less than 5 % of their variance.
    """

    def __init__(
        self,
        clips: list[TrainingClip],
        num_frames: int,
        seed: int,
        audio: ClipFeature | None = None,
        latents: ClipFeature | None = None,
        mel: ClipFeature | None = None,
        frames: FrameMemory | None = None,
        mask: Tensor | None = None,
        mirrored: bool = False,
        lanes: int = 1,
    ):
        """Each of `audio`, `latents`, `mel` and `frames` adds its tensors to the items; `frames` requires `mask` [r, r].

        `lanes` is the number of items of an optimizer step (see `draws`).

        Raises:
            ValueError: there is no clip, or one is too short.
        """
        if not clips:
            raise ValueError("No clip can be used for training; see the reasons above.")
        shortest = min(clips, key=lambda clip: clip.frames)
        if shortest.frames < min_frames(num_frames):
            raise ValueError(
                f"{shortest.path} has {shortest.frames} frames, but at least {min_frames(num_frames)} are needed for windows of"
                f" {num_frames} frames."
            )
        assert frames is None or mask is not None, "masked pixels need a mask"
        self.clips, self.num_frames, self.order = clips, num_frames, ClipOrder(clips, seed, lanes)
        self.audio, self.latents, self.mel, self.frames, self.mask = audio, latents, mel, frames, mask
        self.mirrored = mirrored

    def __len__(self) -> int:
        """Number of items of one epoch; larger positions are valid too."""
        return len(self.clips)

    def __getitem__(self, position: int) -> ClipBatch:
        return readable_item(self.order, position, self._item)

    def _item(self, clip: TrainingClip, draw: Draw) -> ClipBatch:
        start, reference = draw_window(clip.frames, self.num_frames, draw)
        is_mirrored = self.mirrored and bool(draw.below(2))
        parts: dict[str, Tensor] = {}
        if self.latents is not None:
            parts |= self._latents(self.latents, clip, start, reference, is_mirrored)
        if self.frames is not None:
            parts |= self._pixels(self.frames, clip, start, reference, is_mirrored)
        if self.audio is not None:
            parts["audio"] = audio_window(self.audio, clip, start, self.num_frames)
        if self.mel is not None:
            parts["mel"] = mel_window(self.mel, clip, start, self.num_frames)
        return ClipBatch(**parts)

    def _latents(
        self, feature: ClipFeature, clip: TrainingClip, start: int, reference: int, is_mirrored: bool
    ) -> dict[str, Tensor]:
        def window(name: str, first: int) -> Tensor:
            rows = (
                feature.rows(clip, name, first, first + self.num_frames).float().transpose(0, 1)
            )  # f c h w -> c f h w
            return rows.flip(-1) if is_mirrored else rows

        names = {"latents": ("latents", start), "masked_latents": ("masked_latents", start)}
        names["reference_latents"] = ("latents", reference)
        return {part: window(name, first) for part, (name, first) in names.items()}

    def _pixels(
        self, frames: FrameMemory, clip: TrainingClip, start: int, reference: int, is_mirrored: bool
    ) -> dict[str, Tensor]:
        def window(first: int) -> FaceInputs:
            assert self.mask is not None
            faces = frames.frames(clip, first, first + self.num_frames)  # f h w c
            return prepare_faces(faces.flip(-2) if is_mirrored else faces, self.mask)

        shown, other = window(start), window(reference)
        return {
            "pixels": shown.pixels.transpose(0, 1),  # f c h w -> c f h w
            "masked_pixels": shown.masked_pixels.transpose(0, 1),
            "reference_pixels": other.pixels.transpose(0, 1),
        }


def min_frames(num_frames: int) -> int:
    """Minimum length of a clip in frames, for windows of `num_frames` frames with a reference."""
    return WINDOWS_NEEDED * num_frames


def draw_window(frames: int, num_frames: int, draw: Draw) -> tuple[int, int]:
    """Random starts of a window and of its reference in a clip of `frames` frames; the two do not overlap."""
    starts = frames - num_frames + 1
    start = draw.below(starts)
    elsewhere = [other for other in range(starts) if abs(other - start) >= num_frames]
    return start, draw.one_of(elsewhere)


def audio_window(feature: ClipFeature, clip: TrainingClip, start: int, num_frames: int) -> Tensor:
    """Whisper features around each frame of a window, float32 [f, rows * d, w]; reads only the rows needed."""
    rows = window_rows(range(start, start + num_frames), feature.length(clip, "audio"))
    first = int(rows.min())
    features = feature.rows(clip, "audio", first, int(rows.max()) + 1)
    return rearrange(features[rows - first].float(), "f r d w -> f (r d) w")


def mel_window(feature: ClipFeature, clip: TrainingClip, start: int, num_frames: int) -> Tensor:
    """Mel columns of a window, float32 [1, 80, n]."""
    first = sync_mel_start(start)
    return feature.rows(clip, "mel", first, first + sync_mel_length(num_frames)).float().T[None]
