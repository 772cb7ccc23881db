"""The losses on pixels. `train.loss_weights.NAME`, their files' entries in `frozen_networks` and their checks follow from it."""

from latentsync.losses.contract import PixelLoss
from latentsync.losses.perceptual import LpipsLoss
from latentsync.losses.sync import SyncLoss
from latentsync.losses.trepa import TrepaLoss

PIXEL_LOSSES: list[type[PixelLoss]] = [
    SyncLoss,
    LpipsLoss,
    TrepaLoss,
]
