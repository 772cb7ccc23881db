"""The public models' networks with random weights, for timings, which do not depend on the values."""

from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn

from latentsync.config import UNetRun, load
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import build_tiny_vae, build_vae
from latentsync.testing import UNET
from latentsync.testing import VAE as TINY_SHAPE

Net = TypeVar("Net", bound=nn.Module)
CONFIG = Path(__file__).resolve().parent.parent / "configs/unet/stage2.yaml"
PUBLIC_VAE_SHAPE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}
PUBLIC_TINY_SHAPE = {"decoder_block_out_channels": [64, 64, 64, 64], "num_decoder_blocks": [3, 3, 3, 1]}
SMALLEST_SHAPE = {"decoder_block_out_channels": [8, 8, 8, 8], "num_decoder_blocks": [1, 1, 1, 1]}


def random_unet(tiny: bool = False, dtype: torch.dtype = torch.float32) -> UNet3DConditionModel:
    """The U-Net of releases 1.5 and 1.6, or a tiny one."""
    config = UNET if tiny else load(CONFIG, UNetRun).net
    with torch.device("meta"):
        unet = UNet3DConditionModel(config)
    return filled(unet.to(dtype))


def random_vae(tiny: bool = False) -> AutoencoderKL:
    """An auto-encoder of the public size, or a tiny one."""
    with torch.device("meta"):
        vae = build_vae(TINY_SHAPE if tiny else PUBLIC_VAE_SHAPE)
    return filled(vae).to(memory_format=torch.channels_last)


def random_tiny_vae(tiny: bool = False) -> AutoencoderTiny:
    """The small auto-encoder (TAESD) of the public size, or a tiny one."""
    with torch.device("meta"):
        vae = build_tiny_vae(SMALLEST_SHAPE if tiny else PUBLIC_TINY_SHAPE)
    return filled(vae)


def filled(net: Net) -> Net:
    """The network with storage on the CPU: weights small enough that activations stay finite; frozen, in evaluation mode."""
    net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.ndim < 2:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            tensor.uniform_(-1, 1, generator=generator).mul_(tensor[0].numel() ** -0.5)
    return net.eval().requires_grad_(False)
