"""The networks of inference, loaded together: U-Net, image auto-encoder and speech encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from latentsync.audio.whisper_features import AudioEncoder
from latentsync.audio.whisper_model import load_audio_encoder
from latentsync.device import Precision, check_compiler, pick_device, pick_dtype
from latentsync.face.detection.detector import FaceDetector
from latentsync.files import network_hash
from latentsync.inference.model_files import (
    check_settings,
    configured,
    find_model_files,
    recommended,
    syncnet_path,
    tiny_vae_path,
    unet_file,
    width_problem,
)
from latentsync.inference.settings import InferenceSettings, precision_of
from latentsync.models.auto_encoder import AutoEncoder, TinyDecoder
from latentsync.models.unet.adapter import Adapter, base_fingerprint, with_adapters
from latentsync.models.unet.checkpoint import load_unet
from latentsync.models.unet.compiled import compile_blocks
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import load_any_vae, load_tiny_vae
from latentsync.weights import DEFAULT_ALIGNMENT, PUBLIC_UNET, Alignment, CheckpointError

HASHED_VALUES = 16  # of every tensor of a network


@dataclass(frozen=True)
class LipsyncModels:
    """Frozen networks on one device, in evaluation mode; the speech encoder is in float32, the others in `dtype`."""

    unet: UNet3DConditionModel
    vae: AutoEncoder
    audio_encoder: AudioEncoder
    resolution: int  # px, of the aligned face
    num_frames: int  # frames sampled together
    device: torch.device
    dtype: torch.dtype
    defaults: InferenceSettings = field(default_factory=InferenceSettings)  # recommended by the checkpoint
    tiny_vae: TinyDecoder | None = None  # a small decoder, if its file exists
    distilled: bool = False  # the U-Net was distilled for few steps without guidance
    alignment: Alignment = DEFAULT_ALIGNMENT  # of the faces that the U-Net was trained on
    facts: Mapping[str, Any] = field(default_factory=dict)  # the metadata of the U-Net's file
    syncnet: Path | None = None  # that finds who speaks; it is loaded when it is needed
    unet_fingerprint: str = ""  # of the U-Net's weights as its file has them; empty: as they are here

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

    def adapted(self, adapters: Sequence[tuple[Path, float]]) -> "LipsyncModels":
        """The models with these adapters, files and factors; the weights that they do not change are shared.

        Raises:
            CheckpointError: a file is missing, damaged, no adapter, or was trained on another U-Net.
        """
        if not adapters:
            return self
        chosen = [Adapter(path, scale) for path, scale in adapters]
        unet = with_adapters(self.unet, chosen, self.unet_fingerprint or base_fingerprint(self.unet))
        if self.unet.has_compiled_blocks:
            compile_blocks(unet)
        return replace(self, unet=unet)

    @classmethod
    def load(
        cls,
        unet_path: Path | str = PUBLIC_UNET,
        unet_config_path: Path | str | None = None,
        device: torch.device | None = None,
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> "LipsyncModels":
        """Load a U-Net and the networks that belong to it, or those of a folder that `LipsyncPipeline.save_pretrained` wrote;
        `load(DEMO_UNET)` returns the demo models.

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
        unet_path = unet_file(unet_path)
        files = find_model_files(unet_path, unet_config_path).check()
        unet, metadata = configured_unet(unet_path, unet_config_path)
        defaults = recommended(metadata)
        dtype = pick_dtype(device, precision_of(defaults.preset) if precision == "auto" else precision)
        audio_encoder = load_audio_encoder(files.audio_encoder.path)
        check_width(audio_encoder, unet)
        fingerprint = base_fingerprint(unet)
        unet = unet.to(device, dtype)
        if compiled:
            compile_blocks(unet)
        return cls(
            unet=unet,
            vae=load_any_vae(files.vae.path).to(device, dtype).to(memory_format=torch.channels_last),
            audio_encoder=audio_encoder.to(device),
            resolution=metadata["resolution"],
            num_frames=metadata["num_frames"],
            device=device,
            dtype=dtype,
            defaults=defaults,
            tiny_vae=companion_tiny_vae(unet_path, device, dtype),
            distilled="distilled" in metadata,
            alignment=metadata["alignment"],
            facts=metadata,
            syncnet=syncnet_path(unet_path),
            unet_fingerprint=fingerprint,
        )


def configured_unet(path: Path | str, config_path: Path | str | None) -> tuple[UNet3DConditionModel, dict[str, Any]]:
    """A U-Net and its metadata, with `resolution` (px) and `num_frames`, from the file or from its configuration."""
    config, expected = configured(config_path)
    unet, metadata = load_unet(path, config, expected)
    return unet, {**expected, **metadata}


def companion_tiny_vae(unet_path: Path | str, device: torch.device, dtype: torch.dtype) -> TinyDecoder | None:
    """The small decoder beside a U-Net, if there is one."""
    path = tiny_vae_path(unet_path)
    return load_tiny_vae(path).to(device, dtype) if path.is_file() else None


def check_width(audio_encoder: AudioEncoder, unet: UNet3DConditionModel) -> None:
    """Raise CheckpointError unless the audio width of the U-Net is that of the speech encoder."""
    problem = width_problem(audio_encoder.positional_embedding.shape[1], unet.config.cross_attention_dim)
    if problem:
        raise CheckpointError(f"{problem}.")
