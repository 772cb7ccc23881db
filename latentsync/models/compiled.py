"""Compiling the U-Net's repeated blocks: windows have one length, so few shapes occur and each is compiled once."""

import torch
from torch import nn

from latentsync.models.blocks import ResidualBlock
from latentsync.models.motion import FrameTransformerBlock
from latentsync.models.transformer import TransformerBlock

REPEATED = (ResidualBlock, TransformerBlock, FrameTransformerBlock)
SHAPES_AT_MOST = 64  # of one kind of block: widths, sizes, and batches with and without guidance


def compile_blocks(unet: nn.Module) -> None:
    """Compile the repeated blocks in place, at their first use; names of parameters stay as they are.

    Blocks of one kind and shape share their code, so this takes a small part of the time of compiling the whole network.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES_AT_MOST)
    for module in unet.modules():
        if isinstance(module, REPEATED):
            module.compile(dynamic=False)
