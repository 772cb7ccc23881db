"""The lip-sync expert of Wav2Lip at a larger size: five frames, convolutions with batch norm. Kept for comparisons."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2


class Layer(NamedTuple):
    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int | tuple[int, int] = 1
    padding: int = 1
    residual: bool = False


def residual(channels: int, count: int) -> list[Layer]:
    return [Layer(channels, channels, residual=True)] * count


VISUAL_LAYERS = [
    Layer(15, 32, kernel=7, padding=3),
    Layer(32, 64, kernel=5, stride=(1, 2)),
    *residual(64, 2),
    Layer(64, 128, stride=2),
    *residual(128, 3),
    Layer(128, 256, stride=3),
    *residual(256, 2),
    Layer(256, 512, stride=2),
    *residual(512, 2),
    Layer(512, 1024, stride=2),
    *residual(1024, 2),
    Layer(1024, 1024, stride=2),
    Layer(1024, 1024, padding=0),
    Layer(1024, 1024, kernel=1, padding=0),
]
AUDIO_LAYERS = [
    Layer(1, 32),
    *residual(32, 2),
    Layer(32, 64, stride=(3, 1)),
    *residual(64, 2),
    Layer(64, 128, stride=3),
    *residual(128, 2),
    Layer(128, 256, stride=(3, 2)),
    *residual(256, 2),
    Layer(256, 512),
    *residual(512, 2),
    Layer(512, 1024, padding=0),
    Layer(1024, 1024, kernel=1, padding=0),
]


class ConvBlock(nn.Module):
    """Convolution, batch norm, the input on top where the layer is residual, activation."""

    def __init__(self, layer: Layer, activation: nn.Module) -> None:
        super().__init__()
        convolution = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(layer.out_channels))
        self.residual = layer.residual
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_block(x)
        return self.activation(y + x if self.residual else y)


def encoder(layers: list[Layer], plain_relu: int) -> nn.Sequential:
    """Leaky ReLU everywhere but in the last `plain_relu` layers."""
    leaky = len(layers) - plain_relu
    return nn.Sequential(
        *(ConvBlock(layer, nn.LeakyReLU(LEAKY_SLOPE) if i < leaky else nn.ReLU()) for i, layer in enumerate(layers))
    )


class Wav2LipSyncNet(nn.Module):
    """Sync expert of Prajwal et al. 2020 (A Lip Sync Expert Is All You Need), for the lower half of 256-pixel faces."""

    def __init__(self) -> None:
        super().__init__()
        self.visual_encoder = encoder(VISUAL_LAYERS, plain_relu=3)
        self.audio_encoder = encoder(AUDIO_LAYERS, plain_relu=2)

    def embed_lips(self, image: Tensor) -> Tensor:
        """Five packed frames [b, 15, 128, 256] in [-1, 1] -> unit-length embeddings [b, 1024], not negative."""
        return F.normalize(self.visual_encoder(image).flatten(1), dim=1)

    def embed_audio(self, mel: Tensor) -> Tensor:
        """SyncNet mel windows [b, 1, 80, 16] in [-4, 4] -> unit-length embeddings [b, 1024], not negative."""
        return F.normalize(self.audio_encoder(mel).flatten(1), dim=1)

    def forward(self, image: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(vision, audio) embeddings, [b, 1024] each, of `image` [b, 15, 128, 256] and `mel` [b, 1, 80, 16]."""
        return self.embed_lips(image), self.embed_audio(mel)
