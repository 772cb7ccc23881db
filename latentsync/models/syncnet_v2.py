"""The network of the sync-confidence metric: SyncNet v2 (Chung & Zisserman 2016, Out of Time).

Tensor legend: b windows, c channels, f video frames (25 fps), h w. Lips are five frames, audio is 20 rows of cepstral
coefficients (0.2 s). Parameter names are those of the public file `syncnet_v2.model`.
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from latentsync.weights import load_strict, read_checkpoint

WINDOW_FRAMES = 5
WINDOW_CEPSTRA = 20  # rows of `latentsync.audio.mfcc` that last as long as the five frames
IMAGE_PX = 224
EMBEDDING = 1024


def conv_audio(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 3, padding: int = 1
) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, kernel, padding=padding), nn.BatchNorm2d(out_channels), nn.ReLU()]


def conv_lip(
    in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    """3D convolution, batch norm, ReLU; stride and padding are spatial only."""
    convolution = nn.Conv3d(in_channels, out_channels, kernel, (1, stride, stride), (0, padding, padding))
    return [convolution, nn.BatchNorm3d(out_channels), nn.ReLU()]


def pool_lip(padding: int = 0) -> nn.MaxPool3d:
    return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, padding, padding))


def audio_layers() -> nn.Sequential:
    """Cepstra [b, 1, 13, 20] -> [b, 512, 1, 1]."""
    return nn.Sequential(
        *conv_audio(1, 64),
        nn.Identity(),  # keeps the numbering of the public file
        *conv_audio(64, 192),
        nn.MaxPool2d(3, (1, 2)),  # 11 x 9
        *conv_audio(192, 384),
        *conv_audio(384, 256),
        *conv_audio(256, 256),
        nn.MaxPool2d(3, 2),  # 5 x 4
        *conv_audio(256, 512, kernel=(5, 4), padding=0),
    )


def lip_layers() -> nn.Sequential:
    """Frames [b, 3, f, 224, 224] -> [b, 512, f - 4, 1, 1]: only the first layer mixes frames."""
    return nn.Sequential(
        *conv_lip(3, 96, (5, 7, 7), stride=2),  # 109 x 109
        pool_lip(),  # 54 x 54
        *conv_lip(96, 256, (1, 5, 5), stride=2, padding=1),  # 26 x 26
        pool_lip(padding=1),  # 13 x 13
        *conv_lip(256, 256, (1, 3, 3), padding=1),
        *conv_lip(256, 256, (1, 3, 3), padding=1),
        *conv_lip(256, 256, (1, 3, 3), padding=1),
        pool_lip(),  # 6 x 6
        *conv_lip(256, 512, (1, 6, 6)),
    )


def head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING))


class SyncNetV2(nn.Module):
    """Two encoders whose embeddings are close (Euclidean) for lips and audio in sync; for evaluation only."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = audio_layers()
        self.netfcaud = head()
        self.netcnnlip = lip_layers()
        self.netfclip = head()

    def embed_audio(self, cepstra: Tensor) -> Tensor:
        """Windows of cepstral coefficients [b, 1, 13, 20] (see `latentsync.audio.mfcc`) -> embeddings [b, 1024]."""
        return self.netfcaud(self.netcnnaud(cepstra).flatten(1))

    def lip_features(self, frames: Tensor) -> Tensor:
        """Windows of five frames [b, 3, 5, 224, 224], blue-green-red in [0, 255] -> lip features [b, 512]."""
        return self.netcnnlip(frames).flatten(1)

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Windows of five frames [b, 3, 5, 224, 224], blue-green-red in [0, 255] -> embeddings [b, 1024]."""
        return self.netfclip(self.lip_features(frames))

    def embed_lip_track(self, frames: Tensor) -> Tensor:
        """Embeddings [f - 4, 1024] of all windows of consecutive frames [3, f, 224, 224]: row i is of frames i ... i + 4.

        Equal to `embed_lips` of all windows, but every frame is computed once instead of five times.
        """
        features = rearrange(self.netcnnlip(frames[None]), "1 c f 1 1 -> f c")
        return self.netfclip(features)


def load_syncnet_v2(path: Path | str) -> SyncNetV2:
    """The network from the public file `syncnet_v2.model`, frozen and in evaluation mode.

    Raises:
        CheckpointError: the file is absent, damaged, or of another network.
    """
    with torch.device("meta"):
        net = SyncNetV2()
    net.to_empty(device="cpu")
    counters = {k: torch.zeros((), dtype=torch.int64) for k in net.state_dict() if k.endswith("num_batches_tracked")}
    load_strict(net, counters | read_checkpoint(path).tensors, path)  # files of old PyTorch versions lack the counters
    return net.eval().requires_grad_(False)
