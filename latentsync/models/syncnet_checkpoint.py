"""A StableSyncNet from its checkpoint."""

from pathlib import Path
from typing import Any

from latentsync.models.syncnet import StableSyncNet, SyncNetConfig
from latentsync.weights import check_agreement, load_strict, read_checkpoint


def load_syncnet(path: Path | str, config: SyncNetConfig | None = None) -> tuple[StableSyncNet, dict[str, Any]]:
    """The network, frozen and in evaluation mode, and its file's metadata; a public file needs its `config`.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or shape, contradicts `config`, or carries no
            configuration and none is given.
    """
    checkpoint = read_checkpoint(path)
    checkpoint.require_kind("syncnet")
    if config is None or "model" in checkpoint.metadata:
        stored = SyncNetConfig.from_dict(checkpoint.section("model"))
        check_agreement(stored.to_dict(), config.to_dict() if config else {}, path)
        config = stored
    net = StableSyncNet(config)
    load_strict(net, checkpoint.tensors, path)
    return net.eval().requires_grad_(False), checkpoint.metadata
