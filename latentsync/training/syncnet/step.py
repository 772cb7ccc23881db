"""StableSyncNet's training step: equally many right and wrong pairs of lips and audio; half of the wrong ones are hard.

`latentsync.data.sync_clips` chooses the wrong pairs. If the movement of the mouth is known, linear heads also predict it from
either embedding, which shortens the initial plateau at the chance loss, ln 2 = 0.693.
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

CHANCE_LOSS = math.log(2)  # binary cross-entropy of a constant prediction of 0.5
CONTROLS = 2  # aperture and width
ONLY_LOGGED = {"accuracy": 0.0}  # loss weights of measures that are only logged
NET = "net."  # prefix of the SyncNet's parameter names in the objective


class SyncNetWithHeads(nn.Module):
    """A SyncNet's objective; with `mouth_heads`, linear heads predict the mouth's movement from its embeddings."""

    def __init__(self, net: StableSyncNet, num_frames: int, mouth_heads: bool = False):
        super().__init__()
        self.net = net
        width = net.config.visual_encoder.block_out_channels[-1]
        self.scale = width**0.5  # embeddings have unit length
        self.lips_head = nn.Linear(width, num_frames * CONTROLS) if mouth_heads else None
        self.sound_head = nn.Linear(width, num_frames * CONTROLS) if mouth_heads else None

    def forward(self, batch: SyncBatch, positions: Tensor) -> Losses:
        """`sync`, the balanced cross-entropy; `mouth`, if there are heads; for the log `accuracy` at the threshold 0.5.

        The items' `positions` are not used: there are no random numbers here.
        """
        lips, sounds = self.net(batch.image, batch.mel)
        all_lips, all_sounds = torch.cat([lips, lips]), torch.cat([sounds, rotate_sounds(sounds)])
        is_right = torch.arange(len(all_lips), device=lips.device) < len(lips)
        losses = {"sync": sync_loss(all_lips, all_sounds, is_right.float()).mean()}
        if self.lips_head is not None:
            assert batch.mouth is not None, "mouth heads need the known movement"
            losses["mouth"] = self.mouth_error(lips, sounds, batch.mouth)
        with torch.no_grad():
            predicted_right = sync_similarity(all_lips, all_sounds) > 0.5
            losses["accuracy"] = (predicted_right == is_right).float().mean()
        return losses

    def mouth_error(self, lips: Tensor, sounds: Tensor, mouth: Tensor) -> Tensor:
        """Mean squared error of the `mouth` movement [b, f, 2], predicted from embeddings [b, D] of lips and of audio."""
        assert self.lips_head is not None and self.sound_head is not None
        predicted = torch.stack([self.lips_head(self.scale * lips), self.sound_head(self.scale * sounds)])
        return F.mse_loss(predicted.float(), mouth.flatten(1).expand_as(predicted))


def net_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The SyncNet's tensors in its objective's state dict, without the prefix and the heads."""
    return {name.removeprefix(NET): value for name, value in weights.items() if name.startswith(NET)}
