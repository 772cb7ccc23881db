"""Embeddings of a whole video by a StableSyncNet, computed as a stream.

n windows (window i starts at video frame i), D features, f frames of a window, c h w.
"""

from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.sync_mel import sync_mel, sync_mel_window
from latentsync.face.pixels import frames_to_pixels, resize_frames
from latentsync.models.syncnet import StableSyncNet
from latentsync.timebase import sync_mel_length

FaceOrNone = NDArray[np.uint8] | None


def embed_lips(
    net: StableSyncNet, faces: Iterable[FaceOrNone], resolution: int, num_frames: int, batch_size: int = 16
) -> Tensor:
    """Embeddings [t - f + 1, D] of all windows of t aligned faces, uint8 [r, r, 3] of any size.

    A window with a missing face (None) gives NaN. One batch of windows is in memory at a time; its size changes the values by
    rounding alone.
    """
    windows = LipWindows(net, resolution, num_frames, batch_size)
    for face in faces:
        windows.add(face)
    return windows.embeddings()


class LipWindows:
    """Embeds the windows of faces that are added one by one, see `embed_lips`."""

    def __init__(self, net: StableSyncNet, resolution: int, num_frames: int, batch_size: int = 16) -> None:
        self.net, self.resolution, self.num_frames, self.batch_size = net, resolution, num_frames, batch_size
        self.window: deque[Tensor | None] = deque(maxlen=num_frames)
        self.batch: list[Tensor] = []
        self.known: list[bool] = []
        self.embedded: list[Tensor] = []

    def add(self, face: FaceOrNone) -> None:
        """Add the aligned face of the next frame, uint8 [r, r, 3]; None without a face."""
        self.window.append(None if face is None else _lower_half(face, self.resolution))
        if len(self.window) < self.num_frames:
            return
        complete = [half for half in self.window if half is not None]
        self.known.append(len(complete) == self.num_frames)
        if self.known[-1]:
            self.batch.append(torch.cat(complete))
        if len(self.batch) == self.batch_size:
            self._embed()

    def embeddings(self) -> Tensor:
        """The embeddings of all windows so far, [n, D]; NaN for those with a missing face."""
        if self.batch:
            self._embed()
        rows = torch.full((len(self.known), self.embedded[0].shape[1] if self.embedded else 1), torch.nan)
        if self.embedded:
            rows[torch.tensor(self.known)] = torch.cat(self.embedded)
        return rows

    def _embed(self) -> None:
        self.embedded.append(_embed_batch(self.net, self.batch))
        self.batch = []


@torch.no_grad()
def embed_sound(net: StableSyncNet, waveform: NDArray[np.floating], num_frames: int, batch_size: int = 64) -> Tensor:
    """Embeddings [n, D] of all complete windows of audio, float [samples] at 16 kHz; [0, 1] for less than a window."""
    mel, parameter = sync_mel(waveform), next(net.parameters())
    windows: list[Tensor] = []
    while (part := sync_mel_window(mel, len(windows), num_frames)).shape[-1] == sync_mel_length(num_frames):
        windows.append(part[None])
    firsts = range(0, len(windows), batch_size)
    parts = [net.embed_audio(torch.stack(windows[i : i + batch_size]).to(parameter)).float().cpu() for i in firsts]
    return torch.cat(parts) if parts else torch.zeros(0, 1)


def _lower_half(face: NDArray[np.uint8], resolution: int) -> Tensor:
    """The lower half [c, r / 2, r] in [-1, 1] of one aligned face."""
    half = resize_frames(face[None], resolution)[:, resolution // 2 :]
    return rearrange(frames_to_pixels(half), "1 c h w -> c h w")


@torch.no_grad()
def _embed_batch(net: StableSyncNet, images: list[Tensor]) -> Tensor:
    return net.embed_lips(torch.stack(images).to(next(net.parameters()))).float().cpu()
