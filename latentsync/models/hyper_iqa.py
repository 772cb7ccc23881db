"""HyperIQA, the image-quality network (Su et al. 2020, Blindly Assess Image Quality in the Wild Guided by a
Self-Adaptive Hyper Network), and the choice and preparation of video frames for it.

Tensor legend: b images, c channels, h w; o i are the outputs and inputs of a linear layer. Parameter names are those of
the public file `koniq_pretrained.pkl`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.transforms.functional import center_crop, normalize

from latentsync.weights import load_strict, read_checkpoint

IMAGE_PX = 224
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, RGB
POOL = 7


@dataclass(frozen=True)
class HyperIQAConfig:
    """Widths of the network; the defaults are those of the public weights."""

    lda_out_channels: int = 16  # features of each of the first three stages
    hyper_in_channels: int = 112
    target_in_size: int = 224  # features of all stages together
    target_fc1: int = 112
    target_fc2: int = 56
    target_fc3: int = 28
    target_fc4: int = 14
    feature_size: int = 7  # side of the last stage's map

    @property
    def target_sizes(self) -> list[int]:
        return [self.target_in_size, self.target_fc1, self.target_fc2, self.target_fc3, self.target_fc4]


@dataclass(frozen=True)
class TargetNet:
    """The small network that scores one image: `vector` [b, i], and for every layer `weights` [b, o, i], `biases` [b, o]."""

    vector: Tensor
    weights: list[Tensor]
    biases: list[Tensor]

    def score(self) -> Tensor:
        """Quality [b], nominally 0 (bad) to 100, unbounded."""
        x = self.vector[:, :, None]
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[:, :, None], weight, x)
            x = x if index == last else x.sigmoid()
        return x.flatten()


def distortion_pool(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.AvgPool2d(POOL, POOL))


class DistortionBackbone(ResNet):
    """ResNet-50 that also returns local distortion features from each of its stages."""

    def __init__(self, config: HyperIQAConfig) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3])
        del self.avgpool, self.fc
        size = config.lda_out_channels
        self.lda1_pool = distortion_pool(256, 16)
        self.lda1_fc = nn.Linear(16 * 8 * 8, size)
        self.lda2_pool = distortion_pool(512, 32)
        self.lda2_fc = nn.Linear(32 * 4 * 4, size)
        self.lda3_pool = distortion_pool(1024, 64)
        self.lda3_fc = nn.Linear(64 * 2 * 2, size)
        self.lda4_pool = nn.AvgPool2d(POOL, POOL)
        self.lda4_fc = nn.Linear(2048, config.target_in_size - 3 * size)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, 224, 224] -> (map of the last stage [b, 2048, 7, 7], distortions [b, target_in_size])."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        pools = (self.lda1_pool, self.lda2_pool, self.lda3_pool, self.lda4_pool)
        heads = (self.lda1_fc, self.lda2_fc, self.lda3_fc, self.lda4_fc)
        distortions = []
        for stage, pool, head in zip(stages, pools, heads, strict=True):
            x = stage(x)
            distortions.append(head(pool(x).flatten(1)))
        return x, torch.cat(distortions, dim=1)


class HyperIQA(nn.Module):
    """A hyper-network: generates the weights of a small network for each image, which scores the image."""

    def __init__(self, config: HyperIQAConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HyperIQAConfig()
        channels, cells, sizes = config.hyper_in_channels, config.feature_size**2, config.target_sizes
        self.res = DistortionBackbone(config)
        self.conv1 = nn.Sequential(
            *(nn.Conv2d(2048, 1024, 1), nn.ReLU()),
            *(nn.Conv2d(1024, 512, 1), nn.ReLU()),
            *(nn.Conv2d(512, channels, 1), nn.ReLU()),
        )
        for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True), 1):
            setattr(self, f"fc{layer}w_conv", nn.Conv2d(channels, inputs * outputs // cells, 3, padding=1))
            setattr(self, f"fc{layer}b_fc", nn.Linear(channels, outputs))
        self.fc5w_fc = nn.Linear(channels, sizes[-1])
        self.fc5b_fc = nn.Linear(channels, 1)

    def target_net(self, image: Tensor) -> TargetNet:
        """Generate the scoring network of each image; images as in `forward`."""
        features, vector = self.res(image)
        features = self.conv1(features)  # [b, 112, 7, 7]
        pooled = features.mean(dim=(2, 3))
        weights, biases = [], []
        for layer, inputs in enumerate(self.config.target_sizes[:-1], 1):
            cells = getattr(self, f"fc{layer}w_conv")(features)
            weights.append(cells.flatten(1).unflatten(1, (-1, inputs)))  # channel-major values as [o, i]
            biases.append(getattr(self, f"fc{layer}b_fc")(pooled))
        weights.append(self.fc5w_fc(pooled)[:, None])
        biases.append(self.fc5b_fc(pooled))
        return TargetNet(vector, weights, biases)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [b], nominally 0 to 100, of images [b, 3, 224, 224] normalised as `quality_inputs` does."""
        return self.target_net(image).score()


def quality_frames(num_frames: int) -> list[int]:
    """Indices of the frames that are scored for a video of `num_frames`: first, middle and last.

    Raises:
        ValueError: the video is empty.
    """
    if num_frames < 1:
        raise ValueError("A video without frames has no image quality.")
    return [0, num_frames // 2, num_frames - 1]


def quality_inputs(frames: Tensor) -> Tensor:
    """Frames uint8 [b, h, w, 3] RGB -> inputs [b, 3, 224, 224]: a normalised centre crop, never resized.

    Smaller frames are padded with black.
    """
    images = center_crop(rearrange(frames, "b h w c -> b c h w"), [IMAGE_PX, IMAGE_PX])
    return normalize(images.float() / 255, MEAN, STD)


def load_hyper_iqa(path: Path | str) -> HyperIQA:
    """The network from the public file `koniq_pretrained.pkl`, frozen and in evaluation mode.

    Raises:
        CheckpointError: the file is absent, damaged, or of another network.
    """
    with torch.device("meta"):
        net = HyperIQA()
    net.to_empty(device="cpu")
    load_strict(net, read_checkpoint(path).tensors, path)
    return net.eval().requires_grad_(False)
