"""The tiny networks of inference as they are run, on a simulated device; faces and audio for their windows."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from latentsync.audio.whisper_encoder import AudioEncoder
from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.device import DTYPES
from latentsync.inference.models import LipsyncModels
from latentsync.inference.windows.sampler import Window
from latentsync.models.auto_encoder import AutoEncoder, TinyDecoder
from latentsync.precision import Precision
from latentsync.testing import WIDTH
from tests.support.tiny import NUM_FRAMES, RESOLUTION, tiny_models, waveform

PLACES: list[tuple[str, Precision]] = [("cuda", "fp16"), ("cuda", "bf16"), ("cuda", "fp32"), ("mps", "fp32")]


@cache
def models_at(place: torch.device, precision: Precision = "fp32") -> LipsyncModels:
    """Random networks, always the same, at `place`: the U-Net and both decoders in `precision`, the speech encoder in float32.

    They are built once: their labels outlive a simulation.
    """
    models, dtype = tiny_models(), DTYPES[precision]
    encoder, vae = AudioEncoder(80, 50, WIDTH, 2, 1), AutoEncoder((8, 8, 8, 8), norm_num_groups=2)
    small = TinyDecoder((8, 8, 8, 8), (1, 1, 1, 1))
    for network in (encoder, vae, small):
        network.eval().requires_grad_(False)
    return replace(
        models,
        unet=models.unet.to(place, dtype),
        vae=vae.to(place, dtype).to(memory_format=torch.channels_last),
        tiny_vae=small.to(place, dtype),
        audio_encoder=encoder.to(place),
        device=place,
        dtype=dtype,
    )


def windows_at(models: LipsyncModels, count: int = 1) -> list[Window]:
    """Windows of random faces, with the audio features of the models' encoder."""
    random, track = np.random.default_rng(0), WhisperFeatures(models.audio_encoder).track(waveform(1.0))
    windows = []
    for index in range(count):
        faces = random.integers(0, 256, (NUM_FRAMES, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
        numbers = range(index * NUM_FRAMES, (index + 1) * NUM_FRAMES)
        windows.append(Window(faces, track.windows(numbers), sources=numbers))
    return windows
