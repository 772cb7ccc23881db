"""S3FD, the face detector of the sync-confidence metric (Zhang et al. 2017, Single Shot Scale-invariant Face Detector).

Tensor legend: b images, c channels, h w, p priors (all cells of six maps, fine to coarse, row after row). Parameter names
are those of the public file `sfd_face.pth`. The package face-alignment has a variant with other
names, without dilation and with map sizes rounded down; its weights are in another file (`s3fd-619a316812.pth`).
"""

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchvision.ops import box_convert, nms

from latentsync.weights import load_strict, read_checkpoint

STRIDES = [4, 8, 16, 32, 64, 128]
MIN_SIZES = [16, 32, 64, 128, 256, 512]  # sides of the priors in pixels
VARIANCES = (0.1, 0.2)  # scales of the regressed centres and of the logarithms of the sides
MEAN_RGB = (123.0, 117.0, 104.0)  # subtracted from pixels in [0, 255]
# layers of `vgg` whose outputs are the first three maps -> their normalisations
SOURCES = {15: "L2Norm3_3", 22: "L2Norm4_3", 29: "L2Norm5_3"}


class L2Norm(nn.Module):
    """Normalise to unit length over channels, then scale by a learned gain per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        length = x.norm(dim=1, keepdim=True) + 1e-10
        return x / length * self.weight[:, None, None]


def vgg_layers() -> nn.ModuleList:
    """VGG-16's convolutions, with the first fully connected layers turned into convolutions: stride 32, 1024 channels."""
    blocks = [(3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512)]
    layers: list[nn.Module] = []
    for index, channels in enumerate(blocks):
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2, ceil_mode=index == 2))
    layers += [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(inplace=True)]
    return nn.ModuleList([*layers, nn.Conv2d(1024, 1024, 1), nn.ReLU(inplace=True)])


class S3FD(nn.Module):
    """One face score and one box for every cell of six maps."""

    def __init__(self) -> None:
        super().__init__()
        widths = [256, 512, 512, 1024, 512, 256]
        self.vgg = vgg_layers()
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = L2Norm(256), L2Norm(512), L2Norm(512)
        self.extras = nn.ModuleList(
            [
                nn.Conv2d(1024, 256, 1),
                nn.Conv2d(256, 512, 3, stride=2, padding=1),
                nn.Conv2d(512, 128, 1),
                nn.Conv2d(128, 256, 3, stride=2, padding=1),
            ]
        )
        self.loc = nn.ModuleList([nn.Conv2d(width, 4, 3, padding=1) for width in widths])
        self.conf = nn.ModuleList(
            [nn.Conv2d(width, 4 if i == 0 else 2, 3, padding=1) for i, width in enumerate(widths)]
        )

    def maps(self, image: Tensor) -> list[Tensor]:
        """The six feature maps, strides 4 to 128, of images as in `forward`."""
        x, found = image, []
        for index, layer in enumerate(self.vgg):
            x = layer(x)
            if index in SOURCES:
                found.append(getattr(self, SOURCES[index])(x))
        found.append(x)
        for index, layer in enumerate(self.extras):
            x = F.relu(layer(x))
            if index % 2:
                found.append(x)
        return found

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [b, 3, h, w] RGB in [0, 255] minus `MEAN_RGB` -> (loc [b, p, 4], conf [b, p, 2], priors [p, 4]).

        `loc` are offsets to the priors; `conf` are probabilities (no face, face); `priors` are centre x, centre y, width
        and height relative to the image.
        """
        maps = self.maps(image)
        loc = [rearrange(head(x), "b c h w -> b (h w) c") for head, x in zip(self.loc, maps, strict=True)]
        conf = [rearrange(head(x), "b c h w -> b (h w) c") for head, x in zip(self.conf, maps, strict=True)]
        background = conf[0][..., :3].amax(dim=-1, keepdim=True)  # the finest map has three scores for no face
        conf[0] = torch.cat([background, conf[0][..., 3:]], dim=-1)
        cells = [(x.shape[-2], x.shape[-1]) for x in maps]
        priors = prior_boxes(cells, image.shape[-2], image.shape[-1]).to(image)
        return torch.cat(loc, dim=1), torch.cat(conf, dim=1).softmax(dim=-1), priors


def prior_boxes(cells: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """One square prior [p, 4] around the middle of every cell, relative to an image of `height` x `width` pixels."""
    boxes = []
    for (rows, columns), stride, side in zip(cells, STRIDES, MIN_SIZES, strict=True):
        y = ((torch.arange(rows) + 0.5) * stride / height)[:, None].expand(rows, columns)
        x = ((torch.arange(columns) + 0.5) * stride / width).expand(rows, columns)
        size = torch.tensor([side / width, side / height]).expand(rows, columns, 2)
        boxes.append(torch.cat([torch.stack([x, y], dim=-1), size], dim=-1).flatten(0, 1))
    return torch.cat(boxes)


def detections(
    loc: Tensor,
    face_score: Tensor,
    priors: Tensor,
    min_score: float = 0.05,
    max_overlap: float = 0.3,
    max_candidates: int = 5000,
    max_faces: int = 750,
) -> Tensor:
    """Faces of one image, best first: [k, 5] rows (score, x1, y1, x2, y2), relative to the image.

    `loc` [p, 4], `face_score` [p] and `priors` [p, 4] as `S3FD` returns them for that image.
    """
    centre = priors[:, :2] + loc[:, :2] * VARIANCES[0] * priors[:, 2:]
    size = priors[:, 2:] * torch.exp(loc[:, 2:] * VARIANCES[1])
    boxes = box_convert(torch.cat([centre, size], dim=1), "cxcywh", "xyxy")
    candidates = (face_score > min_score).nonzero().flatten()
    candidates = candidates[face_score[candidates].argsort(descending=True, stable=True)[:max_candidates]]
    kept = candidates[nms(boxes[candidates], face_score[candidates], max_overlap)[:max_faces]]
    return torch.cat([face_score[kept, None], boxes[kept]], dim=1)


def load_s3fd(path: Path | str) -> S3FD:
    """The detector from the public file `sfd_face.pth`, frozen and in evaluation mode.

    Raises:
        CheckpointError: the file is absent, damaged, or of another network.
    """
    with torch.device("meta"):
        net = S3FD()
    net.to_empty(device="cpu")
    load_strict(net, read_checkpoint(path).tensors, path)
    return net.eval().requires_grad_(False)
