"""Small clips (noise of 64 px, with audio) and networks (a few thousand parameters) for tests of training."""

from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from whisper.model import AudioEncoder, ModelDimensions, Whisper

from latentsync.config import UNetRun, load
from latentsync.data.clips import find_clips, index_clips
from latentsync.data.features import whisper_feature
from latentsync.media.sound.copy import AudioSource
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig
from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import build_vae
from latentsync.training.unet.data import cached_latents
from latentsync.weights import describe, save_checkpoint, save_state
from tests.support.tiny import make_audio

RESOLUTION, NUM_FRAMES = 64, 4
VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
UNET = {
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 2,
    "cross_attention_dim": 32,
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D"],
    "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D"],
    "use_motion_module": False,
    "motion_module_kwargs": {"num_attention_heads": 2, "attention_block_types": ["Temporal_Self"]},
}
SYNCNET = {
    "audio_encoder": {
        "in_channels": 1,
        "block_out_channels": [32, 32, 32, 128],
        "downsample_factors": [[2, 1], [2, 1], [4, 4], [4, 2]],
    },
    "visual_encoder": {
        "in_channels": 3 * NUM_FRAMES,
        "block_out_channels": [32, 32, 128],
        "downsample_factors": [[1, 2], 4, 8],
    },
}
WHISPER = {"n_mels": 80, "n_audio_ctx": 50, "n_audio_state": 32, "n_audio_head": 2, "n_audio_layer": 1}
TEXT = {"n_vocab": 8, "n_text_ctx": 8, "n_text_state": 16, "n_text_head": 1, "n_text_layer": 1}


def make_clip(path: Path, seed: int, frames: int = 14) -> Path:
    """Write a clip of random noise with audio; returns its path."""
    rng = np.random.default_rng(seed)
    sound = path.with_suffix(".wav")
    make_audio(sound, frames / 25)
    coarse = rng.integers(0, 256, (frames, 8, 8, 3), dtype=np.uint8)
    with VideoWriter(path, VideoFormat.constant(RESOLUTION, RESOLUTION, 25), AudioSource(sound)) as writer:
        for frame in coarse.repeat(8, 1).repeat(8, 2):
            writer.write(frame)
    sound.unlink()
    return path


def make_networks(folder: Path) -> None:
    """Write an auto-encoder, a speech encoder, a U-Net and a SyncNet with random weights."""
    torch.manual_seed(0)
    save_checkpoint(folder / "vae.safetensors", build_vae(VAE).state_dict(), describe("vae", VAE, 1))
    whole = Whisper(ModelDimensions(**WHISPER, **TEXT))
    whole.encoder.load_state_dict(AudioEncoder(80, 50, 32, 2, 1).state_dict())
    save_state(folder / "whisper.pt", {"dims": {**WHISPER, **TEXT}, "model_state_dict": whole.state_dict()})
    unet = UNet3DConditionModel(UNetConfig.from_dict(UNET))
    for name, parameter in unet.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.1)
    save_state(folder / "start.pt", {"state_dict": unet.state_dict()})
    scores = {"resolution": RESOLUTION, "num_frames": NUM_FRAMES, "scores": {"accuracy": 0.9}}
    net = StableSyncNet(SyncNetConfig.from_dict(SYNCNET))
    save_checkpoint(folder / "syncnet.safetensors", net.state_dict(), describe("syncnet", SYNCNET, 1, **scores))


def make_data(folder: Path, clips: int = 3) -> Path:
    """Write clips, networks, a configuration and cached features; returns the configuration's path."""
    (folder / "clips").mkdir(parents=True)
    for index in range(clips):
        make_clip(folder / f"clips/{index}.mp4", index)
    make_networks(folder)
    path = folder / "run.yaml"
    OmegaConf.save(OmegaConf.create(configuration(folder)), path)
    run = load(path, UNetRun)
    found = index_clips(find_clips(run.data.train_data_dir), 1, run.data.cache_dir).clips
    for feature in (whisper_feature(run.data.cache_dir, run.frozen_networks.whisper), cached_latents(run)):
        list(feature.fill(found))
    return path


def configuration(folder: Path) -> dict[str, object]:
    """Configuration of a stage 1 training in float32."""
    return {
        "model": UNET,
        "init_from": str(folder / "start.pt"),
        "data": {
            "train_data_dir": str(folder / "clips"),
            "cache_dir": str(folder / "cache"),
            "train_output_dir": str(folder / "run"),
            "resolution": RESOLUTION,
            "num_frames": NUM_FRAMES,
            "batch_size": 2,
        },
        "frozen_networks": {name: str(folder / file) for name, file in FROZEN_NETWORKS.items()},
        "objective": {"audio_dropout": 0.3},
        "train": {"max_steps": 4, "warmup_steps": 2, "learning_rate": 1e-3, "checkpoint_steps": 1, "log_steps": 1},
    }


FROZEN_NETWORKS = {"vae": "vae.safetensors", "whisper": "whisper.pt", "syncnet": "syncnet.safetensors"}
STAGE2 = ("model.use_motion_module=true", "train.loss_weights.sync=0.05", "trainable_modules=[motion_modules.,attn2.]")
