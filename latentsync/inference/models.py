"""The three networks of a run, loaded together: U-Net, image auto-encoder and speech encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from latentsync.audio.whisper_features import AudioEncoder
from latentsync.audio.whisper_model import load_audio_encoder
from latentsync.device import Precision, check_compiler, pick_device, pick_dtype
from latentsync.face.detection.detector import FaceDetector
from latentsync.files import network_hash
from latentsync.inference.model_files import TINY_VAE, configured, find_model_files, folders, width_problem
from latentsync.inference.settings import InferenceSettings, precision_of
from latentsync.models.unet.checkpoint import load_unet
from latentsync.models.unet.network import UNet3DConditionModel, compile_blocks
from latentsync.models.vae import load_tiny_vae, load_vae
from latentsync.weights import DEFAULT_ALIGNMENT, DEMO, PUBLIC_UNET, Alignment, CheckpointError, load_public_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny  # takes seconds to import: only what builds a network does

DEMO_UNET = DEMO / "unet.safetensors"
HASHED_VALUES = 16  # of every tensor of a network


@dataclass(frozen=True)
class LipsyncModels:
    """Frozen networks on one device, in evaluation mode; the speech encoder is in float32, the others in `dtype`."""

    unet: UNet3DConditionModel
    vae: "AutoencoderKL"
    audio_encoder: AudioEncoder
    resolution: int  # px, of the aligned face
    num_frames: int  # frames sampled together
    device: torch.device
    dtype: torch.dtype
    defaults: InferenceSettings = field(default_factory=InferenceSettings)  # what the checkpoint recommends
    tiny_vae: "AutoencoderTiny | None" = None  # decodes what `vae` encoded, where its file is there
    distilled: bool = False  # whether the U-Net was trained to sample in a few steps, without guidance
    alignment: Alignment = DEFAULT_ALIGNMENT  # by which points the faces of its training were aligned

    def check(self, settings: InferenceSettings) -> None:
        """ValueError where the settings ask for what these weights cannot do."""
        check_settings(settings, self.distilled, self.tiny_vae is not None)

    def check_detector(self, detector: FaceDetector) -> None:
        """ValueError where a detector finds other points than those that the U-Net's faces were aligned by."""
        if detector.alignment != self.alignment:
            raise ValueError(
                f"the detector gives points for the alignment {detector.alignment}, but these weights were trained with"
                f" {self.alignment}: make it with make_detector(..., alignment=models.alignment)."
            )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all networks, from some values of each of their tensors."""
        networks: tuple[Any, ...] = (self.unet, self.vae, self.audio_encoder, self.tiny_vae)
        return "".join(network_hash(network, HASHED_VALUES) for network in networks if network is not None)

    @classmethod
    def load(
        cls,
        unet_path: Path | str = PUBLIC_UNET,
        unet_config_path: Path | str | None = None,
        device: torch.device | None = None,
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> "LipsyncModels":
        """Load a U-Net and what belongs to it; `load(DEMO_UNET)` gives the demo models.

        A U-Net that this project trained or fetched knows its resolution, and so does release 1.0; one of unknown origin needs
        `unet_config_path`, a YAML file with the sections `model` and `data`. The auto-encoder is `vae.safetensors` or the
        folder `vae` beside the U-Net, else the one that it was trained with, else in `checkpoints`, else in the hub's cache;
        the speech encoder, in the same order, `whisper.pt` or `whisper/tiny.pt`; a small decoder is `tiny_vae.safetensors`
        beside the U-Net. With `precision` auto weights that recommend a preset are loaded for it; with `compiled` the U-Net's
        blocks are compiled at their first use.

        Raises:
            CheckpointError: files are missing or damaged (all are named before any is read), do not fit, or contradict the
                configuration.
            ValueError: the configuration is missing or wrong, or the device cannot compute in `precision` or compile.
        """
        device = device or pick_device()
        pick_dtype(device, precision)  # a wrong choice is told before anything is read
        if compiled:
            check_compiler(device)
        files = find_model_files(unet_path, unet_config_path).check()
        unet, metadata = configured_unet(unet_path, unet_config_path)
        defaults = recommended(metadata)
        dtype = pick_dtype(device, precision_of(defaults.preset) if precision == "auto" else precision)
        audio_encoder = load_audio_encoder(files.audio_encoder.path)
        check_width(audio_encoder, unet)
        unet = unet.to(device, dtype)
        if compiled:
            compile_blocks(unet)
        return cls(
            unet=unet,
            vae=nn.Module.to(load_companion_vae(files.vae.path), device, dtype),  # diffusers' own `to` warns of nothing
            audio_encoder=audio_encoder.to(device),
            resolution=metadata["resolution"],
            num_frames=metadata["num_frames"],
            device=device,
            dtype=dtype,
            defaults=defaults,
            tiny_vae=companion_tiny_vae(unet_path, device, dtype),
            distilled="distilled" in metadata,
            alignment=metadata["alignment"],
        )


def configured_unet(path: Path | str, config_path: Path | str | None) -> tuple[UNet3DConditionModel, dict[str, Any]]:
    """A U-Net and its facts, among them `resolution` (px) and `num_frames`, from the file or from its configuration."""
    config, expected = configured(config_path)
    unet, metadata = load_unet(path, config, expected)
    return unet, {**expected, **metadata}


def check_settings(settings: InferenceSettings, distilled: bool, has_tiny_vae: bool) -> None:
    """ValueError where the settings ask for what weights of this kind cannot do."""
    if settings.needs_distilled_weights and not distilled:
        raise ValueError(
            f"the solver {settings.solver} (preset turbo) needs weights that were distilled for it, and these were not: choose"
            " the preset fast, or distil them (docs/performance.md)."
        )
    if distilled and not settings.needs_distilled_weights:
        raise ValueError(
            f"these weights were distilled for few steps and do not go with the solver {settings.solver}: choose the preset"
            " turbo, or the weights that they were made from."
        )
    if settings.vae == "tiny" and not has_tiny_vae:
        raise ValueError(
            f"vae is tiny, but there is no {TINY_VAE} beside the U-Net: leave it out, or train one with"
            " `python -m scripts.train_tiny_vae`."
        )


def recommended(metadata: Mapping[str, Any]) -> InferenceSettings:
    """The settings that a checkpoint recommends, over the public ones."""
    return InferenceSettings().changed(metadata.get("inference", {}))


def load_companion_vae(path: Path) -> "AutoencoderKL":
    """The auto-encoder of a file or folder (see `vae_path`), frozen, in evaluation mode."""
    if path.is_file():
        return load_vae(path)
    return load_public_vae(path).eval().requires_grad_(False).to(memory_format=torch.channels_last)


def companion_tiny_vae(unet_path: Path | str, device: torch.device, dtype: torch.dtype) -> "AutoencoderTiny | None":
    """The small decoder beside a U-Net, if there is one."""
    path = folders(unet_path)[0] / TINY_VAE
    return nn.Module.to(load_tiny_vae(path), device, dtype) if path.is_file() else None


def distilled_companion(unet_path: Path | str) -> Path:
    """The distilled form of a U-Net: `NAME_turbo.safetensors` beside it where that is there, else the path itself."""
    path = Path(unet_path)
    companion = path.with_name(f"{path.stem}_turbo.safetensors")
    return companion if companion.is_file() else path


def check_width(audio_encoder: AudioEncoder, unet: UNet3DConditionModel) -> None:
    """Raise CheckpointError unless the U-Net hears what the speech encoder says."""
    problem = width_problem(audio_encoder.positional_embedding.shape[1], unet.config.cross_attention_dim)
    if problem:
        raise CheckpointError(f"{problem}.")
