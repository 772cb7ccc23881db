"""Small networks stored like the official weights, for tests that need a folder of checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from whisper.model import AudioEncoder

from latentsync.face.detection import landmarks
from latentsync.inference import model_files
from latentsync.models.unet.checkpoint import RENAMED_PARTS
from latentsync.models.unet.config import UNetConfig
from latentsync.models.vae import build_vae
from latentsync.weights import table
from latentsync.weights.sources import Source, record_source
from latentsync.weights.table import PUBLIC_FILES
from tests.weights.test_weights import CONFIG, Tensors, tensors_of

UNET = replace(CONFIG, cross_attention_dim=384)
FIRST_UNET = replace(UNET, use_motion_module=False)  # release 1.0 has no motion modules
VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2}
PARTS = {  # name in messages -> files
    "U-Net": ("latentsync_unet.pt",),
    "image auto-encoder": ("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    "speech encoder": ("whisper/tiny.pt",),
    "face detector": ("auxiliary/s3fd-619a316812.pth", "auxiliary/2DFAN4-11f355bf06.pth.tar"),
}


def first_names(weights: Tensors) -> Tensors:
    """The same weights with the parameter names of release 1.0."""
    old = {}
    for key, value in weights.items():
        for pattern, name in RENAMED_PARTS:
            key = key.replace(name, pattern.pattern.replace("\\", "")) if ".transformer_blocks." in key else key
        old[key] = value
    return old


def save_unet(path: Path, release: str, config: UNetConfig | None = None) -> None:
    """Write a small U-Net in the format of a release."""
    weights = tensors_of(config or (FIRST_UNET if release == "1.0" else UNET))
    content = first_names(weights) if release == "1.0" else weights
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": content, "global_step": 1}, path)


def save_companions(folder: Path, width: int = 384) -> None:
    """Write all networks that the official U-Nets need."""
    for name in ("vae", "whisper", "auxiliary"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    build_vae(VAE).save_pretrained(folder / "vae")
    encoder = AudioEncoder(80, 50, width, 6, 1)
    dims = dict(n_mels=80, n_audio_ctx=50, n_audio_state=width, n_audio_head=6, n_audio_layer=1)
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"dims": dims, "model_state_dict": weights}, folder / "whisper/tiny.pt")
    for name in landmarks.WEIGHT_FILES:
        torch.save({"weight": torch.ones(3)}, folder / "auxiliary" / name, _use_new_zipfile_serialization=False)


def note_release(folder: Path, release: str) -> None:
    """Record the U-Net of `folder` as downloaded from a release."""
    file = next(file for file in PUBLIC_FILES if file.release == release and file.resolution)
    record_source(file, folder, Source(file.repo, release, (folder / file.path).stat().st_size, ""))


def use_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Use `folder` as checkpoints/, and disable the caches of the hub and of PyTorch; returns the official U-Net's path."""
    for module in (model_files, landmarks, table):
        monkeypatch.setattr(module, "CHECKPOINTS", folder)
    monkeypatch.setattr("latentsync.weights.hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "no_hub"))
    return folder / "latentsync_unet.pt"
