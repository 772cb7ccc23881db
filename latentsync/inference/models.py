"""The networks of inference, loaded together: U-Net, image auto-encoder and speech encoder."""

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
from latentsync.inference.model_files import TINY_VAE, ModelFiles, configured, find_model_files, folders, width_problem
from latentsync.inference.settings import InferenceSettings, precision_of
from latentsync.models.unet.checkpoint import load_unet
from latentsync.models.unet.network import UNet3DConditionModel, compile_blocks
from latentsync.models.vae import load_tiny_vae, load_vae
from latentsync.weights import DEFAULT_ALIGNMENT, DEMO, PUBLIC_UNET, Alignment, CheckpointError, load_public_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny  # its import takes seconds

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
    defaults: InferenceSettings = field(default_factory=InferenceSettings)  # recommended by the checkpoint
    tiny_vae: "AutoencoderTiny | None" = None  # a small decoder, if its file exists
    distilled: bool = False  # the U-Net was distilled for few steps without guidance
    alignment: Alignment = DEFAULT_ALIGNMENT  # of the faces that the U-Net was trained on

    def check(self, settings: InferenceSettings) -> None:
        """ValueError for settings that these weights do not support."""
        check_settings(settings, self.distilled, self.tiny_vae is not None)

    def check_detector(self, detector: FaceDetector) -> None:
        """ValueError for a detector whose alignment is not that of the faces the U-Net was trained on."""
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
        """Load a U-Net and the networks that belong to it; `load(DEMO_UNET)` returns the demo models.

        The resolution of a U-Net that this project trained or fetched, or of release 1.0, is known; a file of unknown origin
        needs `unet_config_path`, a YAML file with the sections `model` and `data`. The auto-encoder is `vae.safetensors` or the
        folder `vae` beside the U-Net, else the one that it was trained with, else in `checkpoints`, else in the hub's cache;
        the speech encoder, in the same order, `whisper.pt` or `whisper/tiny.pt`; a small decoder is `tiny_vae.safetensors`
        beside the U-Net. `precision` `auto` is that of the recommended preset; with `compiled` the U-Net's blocks are
        compiled at their first use.

        Raises:
            CheckpointError: files are missing or damaged (all of them are listed before any is read), do not fit together, or
                contradict the configuration.
            ValueError: the configuration is missing or wrong, or the device cannot compute in `precision` or compile.
        """
        device = device or pick_device()
        pick_dtype(device, precision)  # raises before anything is read
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
            vae=nn.Module.to(
                load_companion_vae(files.vae.path), device, dtype
            ),  # diffusers' `to` logs needless warnings
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
    """A U-Net and its metadata, with `resolution` (px) and `num_frames`, from the file or from its configuration."""
    config, expected = configured(config_path)
    unet, metadata = load_unet(path, config, expected)
    return unet, {**expected, **metadata}


def check_settings(settings: InferenceSettings, distilled: bool, has_tiny_vae: bool) -> None:
    """ValueError for settings that weights of this kind do not support."""
    if settings.needs_distilled_weights and not distilled:
        raise ValueError(
            f"the solver {settings.solver} (preset turbo) needs weights that were distilled for it, and these were not: choose"
            " the preset fast, or distil them (docs/performance.md)."
        )
    if distilled and not settings.needs_distilled_weights:
        raise ValueError(
            f"these weights were distilled for few steps and do not support the solver {settings.solver}: choose the preset"
            " turbo, or the weights that they were made from."
        )
    if distilled and settings.guidance_scale != 1:
        raise ValueError(
            f"guidance_scale is {settings.guidance_scale:g}, but these weights were distilled without guidance: choose 1, or"
            " another preset than turbo."
        )
    if settings.vae == "tiny" and not has_tiny_vae:
        raise ValueError(
            f"vae is tiny, but there is no {TINY_VAE} beside the U-Net: leave it out, or train one with"
            " `python -m scripts.train_tiny_vae`."
        )


def settings_for(files: ModelFiles, entries: Mapping[str, Any]) -> InferenceSettings:
    """The settings that `entries` give to the weights of `files`; ValueError if these weights do not support them."""
    settings = recommended(files.facts).changed(entries)
    check_settings(settings, "distilled" in files.facts, (files.unet.path.parent / TINY_VAE).is_file())
    return settings


def recommended(metadata: Mapping[str, Any]) -> InferenceSettings:
    """The settings that a checkpoint recommends, with defaults for all others."""
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
    """The distilled version of a U-Net: `NAME_turbo.safetensors` beside it if that exists, else the path itself."""
    path = Path(unet_path)
    companion = path.with_name(f"{path.stem}_turbo.safetensors")
    return companion if companion.is_file() else path


def check_width(audio_encoder: AudioEncoder, unet: UNet3DConditionModel) -> None:
    """Raise CheckpointError unless the audio width of the U-Net is that of the speech encoder."""
    problem = width_problem(audio_encoder.positional_embedding.shape[1], unet.config.cross_attention_dim)
    if problem:
        raise CheckpointError(f"{problem}.")
