"""The SyncNet that finds who speaks: its file, and embeddings of lips and sound; loaded when it is first used."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.metrics.sync.stable import embed_sound
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig, load_syncnet
from latentsync.places import SHIPPED
from latentsync.weights import CheckpointError

# Of the releases 1.5 and 1.6, whose file has none
PUBLIC_CONFIG = SHIPPED / "configs/syncnet/syncnet_16_pixel_attn.yaml"


@dataclass(frozen=True)
class VoiceNetwork:
    """A StableSyncNet for the lower halves of faces at `resolution` px, in windows of `num_frames` frames at 25 fps."""

    net: StableSyncNet
    resolution: int
    num_frames: int

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "VoiceNetwork":
        """Load the network of a file. Raises CheckpointError if it is missing, damaged, or works on latents or whole faces."""
        config, facts = described(path)
        net, metadata = load_syncnet(path, config)
        facts = {**facts, **metadata}
        if facts.get("latent_space", False) or not facts.get("lower_half", True):
            raise CheckpointError(
                f"{path} is for latents or whole faces: put a SyncNet for lower halves of faces there."
            )
        return cls(net.to(device), facts["resolution"], facts["num_frames"])

    def sound(self, waveform: NDArray[np.floating]) -> Tensor:
        """Embeddings [n, D] of all windows of audio, float [samples] at 16 kHz."""
        return embed_sound(self.net, waveform, self.num_frames)


def described(path: Path) -> tuple[SyncNetConfig | None, dict[str, Any]]:
    """The configuration and the input of a public file, which contains neither; nothing for a file of this project."""
    if path.suffix == ".safetensors":
        return None, {}
    from latentsync.config.loading import load  # reads YAML, which few jobs need
    from latentsync.config.syncnet_run import SyncNetRun

    run = load(PUBLIC_CONFIG, SyncNetRun)
    data = run.data
    view = {name: getattr(data, name) for name in ("num_frames", "resolution", "latent_space", "lower_half")}
    return run.net, view
