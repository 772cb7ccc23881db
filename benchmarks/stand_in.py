"""Small random networks and a face that is always there: the whole way of a job without the time of a real network."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from whisper.model import AudioEncoder

from latentsync.face.align import FrameArray
from latentsync.face.detection.detector import Face
from latentsync.inference.models import LipsyncModels
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import build_vae
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ
from latentsync.weights import DEFAULT_ALIGNMENT, Alignment

RESOLUTION, NUM_FRAMES, WIDTH = 64, 16, 16
VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2}
UNET = UNetConfig(
    block_out_channels=[8],
    down_block_types=["CrossAttnDownBlock3D"],
    up_block_types=["CrossAttnUpBlock3D"],
    layers_per_block=1,
    norm_num_groups=2,
    attention_head_dim=2,
    cross_attention_dim=WIDTH,
    use_motion_module=False,
)


def stand_in_models(resolution: int = RESOLUTION, num_frames: int = NUM_FRAMES) -> LipsyncModels:
    """Networks of the real kinds with a few thousand random numbers, on the CPU."""
    torch.manual_seed(0)
    unet = UNet3DConditionModel(UNET)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vae, encoder = build_vae(VAE), AudioEncoder(80, 50, WIDTH, 2, 1)
    for network in (unet, vae, encoder):
        network.eval().requires_grad_(False)
    return LipsyncModels(unet, vae, encoder, resolution, num_frames, torch.device("cpu"), torch.float32)


class MiddleFace:
    """Sees a still face in the middle of every frame, a quarter of its height wide."""

    alignment: Alignment = DEFAULT_ALIGNMENT

    def faces(self, frame: FrameArray) -> list[Face]:
        h, w = frame.shape[:2]
        x, y, side = w / 2, h / 2, h / 4
        points = np.array([[-0.3, -0.2], [0.3, -0.2], [0.0, 0.2]], np.float32) * side + np.array([x, y], np.float32)
        return [Face(points.astype(np.float32), (x - side / 2, y - side / 2, x + side / 2, y + side / 2), 1.0)]

    def points(self, frame: FrameArray) -> Face | None:
        return self.faces(frame)[0]

    def reset(self) -> None:
        """There is nothing to forget."""


def drawn_frames(width: int, height: int, count: int) -> Iterator[FrameArray]:
    """A bright spot that wanders over smooth grey: pictures that cost an encoder little."""
    still = np.repeat(np.linspace(60, 180, width, dtype=np.float32)[None, :, None], height, axis=0).repeat(3, axis=2)
    for index in range(count):
        frame = still.astype(np.uint8)
        place = int(width * (0.2 + 0.6 * (index % 100) / 100)), height // 4
        yield np.asarray(cv2.circle(frame, place, height // 20, (240, 220, 180), cv2.FILLED))


def write_pair(folder: Path, seconds: float, width: int, height: int) -> tuple[Path, Path]:
    """A drawn video and a sound of the same length."""
    video, audio = folder / "v.mp4", folder / "a.wav"
    with VideoWriter(video, VideoFormat.constant(width, height, MODEL_FPS, crf=25)) as writer:
        for frame in drawn_frames(width, height, round(seconds * MODEL_FPS)):
            writer.write(frame)
    times = np.arange(round(seconds * SAMPLE_RATE_HZ), dtype=np.float32) / SAMPLE_RATE_HZ
    write_wav(audio, (0.3 * np.sin(2 * np.pi * 180 * times)).astype(np.float32))
    return video, audio
