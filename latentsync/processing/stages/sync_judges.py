"""Who judges sync in stage 7: SyncNet v2 as published, or the demo's StableSyncNet, chosen by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from latentsync.device import pick_device
from latentsync.metrics.sync.box_detectors import S3FDBoxes
from latentsync.metrics.sync.judge import ExpertJudge, StableJudge, SyncJudge
from latentsync.models.s3fd import load_s3fd
from latentsync.models.syncnet import load_syncnet
from latentsync.models.syncnet_v2 import load_syncnet_v2
from latentsync.weights import CHECKPOINTS, DEMO

EXPERT_FILES = ("syncnet_v2.model", "sfd_face.pth")
DEMO_FILE = DEMO / "syncnet.safetensors"
FETCH_TRAINING = "python -m scripts.download_checkpoints training"


@dataclass(frozen=True)
class SyncScale:
    """What a judge's confidence means: from which on the public preparation, or the stand-in, keeps a clip."""

    min_confidence: float


# SyncNet v2's threshold is the published one. The demo network's embeddings have length 1, so its confidence lies
# between 0 and 2 and cannot be compared with the other's; its threshold lies above what it gives training clips of 5 s
# with another's sound.
SCALES: Final = {"syncnet_v2": SyncScale(3.0), "demo": SyncScale(0.45)}


def check_weights(sync_model: str, weights_dir: Path | None = None) -> None:
    """Raises ValueError, naming the files and the way out, if a judge's weights are missing."""
    folder = weights_dir or CHECKPOINTS / "auxiliary"
    missing = [name for name in EXPERT_FILES if not (folder / name).is_file()] if sync_model == "syncnet_v2" else []
    if missing:
        raise ValueError(
            f"The sync stage needs {' and '.join(missing)} in {folder}: fetch with `{FETCH_TRAINING}`, or choose the "
            "stand-in for drawn heads with --sync_model demo."
        )


def make_judge(sync_model: str, weights_dir: Path | None = None, device: str | None = None) -> SyncJudge:
    """The judge of a name; faces are taken as aligned. Raises ValueError as `check_weights` and if weights are damaged."""
    check_weights(sync_model, weights_dir)
    where = pick_device(device)
    if sync_model == "syncnet_v2":
        folder = weights_dir or CHECKPOINTS / "auxiliary"
        expert, boxes = (folder / name for name in EXPERT_FILES)
        return ExpertJudge(load_syncnet_v2(expert).to(where), S3FDBoxes(load_s3fd(boxes).to(where)))
    net, metadata = load_syncnet(DEMO_FILE)
    return StableJudge(net.to(where), metadata["resolution"], metadata["num_frames"], None)
