"""Training a StableSyncNet: as many right pairs of lips and sound as wrong ones; half of the wrong ones are hard.

`latentsync.data.sync_clips` chooses the wrong pairs. Where the movement of the mouth is known, a linear head must also predict
it from both embeddings, to shorten the plateau at ln 2 = 0.693, where a network has not yet
found what lips and sound have in common.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.data.sync_clips import SyncBatch, rotate_sounds
from latentsync.losses.sync import sync_loss, sync_similarity
from latentsync.models.syncnet import StableSyncNet
from latentsync.training.engine.loop import Losses

CHANCE_LOSS = math.log(2)  # of a network that guesses
CONTROLS = 2  # aperture and width
ONLY_WATCHED = {"accuracy": 0.0}  # weights of measures that are only logged
NET = "net."  # of the objective's parameter names


class SyncNetWithHeads(nn.Module):
    """A SyncNet's objective; with `mouth_heads`, linear heads read the mouth's movement from its embeddings."""

    def __init__(self, net: StableSyncNet, num_frames: int, mouth_heads: bool = False):
        super().__init__()
        self.net = net
        width = net.config.visual_encoder.block_out_channels[-1]
        self.scale = width**0.5  # embeddings have unit length
        self.lips_head = nn.Linear(width, num_frames * CONTROLS) if mouth_heads else None
        self.sound_head = nn.Linear(width, num_frames * CONTROLS) if mouth_heads else None

    def forward(self, batch: SyncBatch, positions: Tensor) -> Losses:
        """`sync`, the balanced cross-entropy, with heads `mouth`, and for the log `accuracy` at the threshold 0.5.

        `positions` of the items are not needed: nothing is drawn here.
        """
        lips, sounds = self.net(batch.image, batch.mel)
        both, heard = torch.cat([lips, lips]), torch.cat([sounds, rotate_sounds(sounds)])
        is_right = torch.arange(len(both), device=both.device) < len(lips)
        losses = {"sync": sync_loss(both, heard, is_right.float()).mean()}
        if self.lips_head is not None:
            assert batch.mouth is not None, "heads are made where the movement is known"
            losses["mouth"] = self.mouth_error(lips, sounds, batch.mouth)
        with torch.no_grad():
            judged_right = sync_similarity(both, heard) > 0.5
            losses["accuracy"] = (judged_right == is_right).float().mean()
        return losses

    def mouth_error(self, lips: Tensor, sounds: Tensor, mouth: Tensor) -> Tensor:
        """Mean squared error of the movement [b, f, 2] read from embeddings [b, D] of lips and of sounds."""
        assert self.lips_head is not None and self.sound_head is not None
        told = torch.stack([self.lips_head(self.scale * lips), self.sound_head(self.scale * sounds)])
        return F.mse_loss(told.float(), mouth.flatten(1).expand_as(told))


def net_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The SyncNet's own tensors among those of its objective."""
    return {name.removeprefix(NET): value for name, value in weights.items() if name.startswith(NET)}
