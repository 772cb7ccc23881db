"""Checkpoints: the table of public ones, downloading, reading, strict loading and saving."""

from latentsync.weights.damage import check_file, without_remedy
from latentsync.weights.delta import delta_of
from latentsync.weights.files import (
    Checkpoint,
    file_problem,
    load_torchscript,
    public_vae_problem,
    read_checkpoint,
    read_header,
    read_public_vae,
    read_state,
    save_checkpoint,
    save_state,
)
from latentsync.weights.fit import check_agreement, load_partly, load_strict, network_of
from latentsync.weights.metadata import describe, mask_checksum
from latentsync.weights.sources import release_of
from latentsync.weights.table import (
    ALIGNMENTS,
    CHECKPOINTS,
    DEFAULT_ALIGNMENT,
    DEMO,
    FETCH_INFERENCE,
    LATENT_CHANNELS,
    LATENT_STRIDE,
    PUBLIC_FILES,
    PUBLIC_UNET,
    PUBLIC_VAE,
    Alignment,
    CheckpointError,
    PublicFile,
    UnreachableError,
    files_of,
)

__all__ = [
    "ALIGNMENTS",
    "CHECKPOINTS",
    "DEFAULT_ALIGNMENT",
    "DEMO",
    "FETCH_INFERENCE",
    "LATENT_CHANNELS",
    "LATENT_STRIDE",
    "PUBLIC_FILES",
    "PUBLIC_UNET",
    "PUBLIC_VAE",
    "Alignment",
    "Checkpoint",
    "CheckpointError",
    "PublicFile",
    "UnreachableError",
    "check_agreement",
    "check_file",
    "delta_of",
    "describe",
    "file_problem",
    "files_of",
    "load_partly",
    "load_strict",
    "load_torchscript",
    "mask_checksum",
    "network_of",
    "public_vae_problem",
    "read_checkpoint",
    "read_header",
    "read_public_vae",
    "read_state",
    "release_of",
    "save_checkpoint",
    "save_state",
    "without_remedy",
]
