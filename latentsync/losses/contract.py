"""The interface of a loss on pixels, which is one file of this folder; `table.py` lists the losses.

Such a loss compares the clip decoded from the U-Net's prediction with the training clip. Everything about it stands in its file:
its formula, the network that it needs and how that is loaded, its settings, and its checks.

Legend: b clips, c channels, f frames, h w height and width; pixels in [-1, 1], latents scaled.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentsync.weights import Alignment

FRAMES_AT_ONCE = 4  # per checkpointed call, where activations are recomputed in the backward pass


@dataclass
class LossSettings:
    """Base of a loss's settings. Each field is an entry `frozen_networks.FIELD` of the configuration and needs a default."""

    def check(self) -> None:
        """Raises ValueError for invalid values, whether or not the loss is used; its message is one sentence with a remedy."""


@dataclass(frozen=True)
class RunFacts:
    """What a loss may know of the run that uses it."""

    settings: Any  # an instance of the settings class of every loss
    num_frames: int
    resolution: int  # px of the face
    alignment: Alignment  # of the clips' faces
    recompute: bool = False  # networks recompute their activations in the backward pass


@dataclass(frozen=True)
class Comparison:
    """The clip estimated from the U-Net's prediction, and what is known of the training clip."""

    latents: Tensor  # estimated, b 4 f h w
    decoded: Tensor | None = None  # the estimated latents' pixels b 3 f h w, not clamped; None if no loss needs them
    pixels: Tensor | None = None  # the training clip's, b 3 f h w
    mel: Tensor | None = None  # its mel windows [b, 1, 80, n]

    def pair(self) -> tuple[Tensor, Tensor]:
        """The pixels of both clips: estimated, true."""
        assert self.decoded is not None and self.pixels is not None, "the loss compares pixels"
        return self.decoded, self.pixels


class PixelLoss(ABC):
    """One loss. A new one defines `name` and `__call__`, and overrides the defaults below where needed."""

    name: ClassVar[str]  # in `train.loss_weights`, logs and charts
    settings_type: ClassVar[type[LossSettings]] = LossSettings
    needs_pixels: ClassVar[bool] = True  # of the training clip
    needs_mel: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, clips: Comparison) -> Tensor:
        """The unweighted loss of a batch, a scalar; gradients flow to the estimated clip."""

    @classmethod  # noqa: B027  # not abstract: most losses fit every run
    def check(cls, run: RunFacts) -> None:
        """Raises ValueError if the loss cannot be used in this run; called when the configuration is loaded."""

    @classmethod
    def load(cls, run: RunFacts, device: torch.device, dtype: torch.dtype) -> "PixelLoss":
        """The loss with its networks, frozen, on the device; `dtype` is that of the run's frozen networks.

        Raises:
            ValueError: a file is missing, damaged, or does not fit the run.
        """
        return cls()

    @classmethod
    def empty(cls, run: RunFacts) -> "PixelLoss":
        """The loss with its networks on the meta device, shapes only, for a dry run; ValueError if a shape is unknown."""
        return cls()

    @property
    def decodes(self) -> bool:
        """Whether it needs the estimated clip's pixels; otherwise its latents suffice."""
        return True

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Its networks by name, for the description of a dry run."""
        return {}


def frames_of(clip: Tensor) -> Tensor:
    """b c f h w -> (b f) c h w."""
    return rearrange(clip, "b c f h w -> (b f) c h w")


def in_parts(compute: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """`compute` over the inputs' first dimension, frames.

    With `recompute` a few frames at a time, whose activations are recomputed in the backward pass, so that the memory for
    activations does not grow with the length of clips.
    """
    if not (recompute and torch.is_grad_enabled()):
        return compute(*inputs)
    parts = zip(*(each.split(FRAMES_AT_ONCE) for each in inputs), strict=True)
    return torch.cat([checkpoint(compute, *part, use_reentrant=False) for part in parts])
