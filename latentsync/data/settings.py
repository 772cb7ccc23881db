"""The data section of a training configuration: clips, windows, caches and readers."""

from dataclasses import dataclass
from typing import cast

from latentsync.weights.table import DEFAULT_ALIGNMENT, Alignment

MEGABYTE = 1 << 20
GIGABYTE = 10**9  # as disks are sold
WINDOWS_AN_ITEM = 4  # windows per item of the SyncNet's data: two from each of two clips
MIN_SHIFT = 5  # default for the smallest offset, in frames, of a mismatched pair from one clip


@dataclass
class ClipDataConfig:
    """The data section of a training configuration.

    Clips are outputs of the data pipeline: square .mp4 files of aligned faces at 25 fps, with audio.
    """

    train_data_dir: str = ""  # folder of clips, searched recursively; or a set of shards, also at s3:// or the like
    train_fileslist: str = ""  # text file with one path per line; if set, train_data_dir is ignored
    val_data_dir: str = ""
    val_fileslist: str = ""
    cache_dir: str = "data/cache"  # features and probe results, by the clips' content; local copies of shards
    shard_cache_gb: float = 100.0  # of local copies of shards on each machine, for each set of shards
    latents_precision: str = "fp32"  # precision of the auto-encoder for cached latents: fp32, bf16 or fp16
    resolution: int = 256  # px, side of the network's input face
    num_frames: int = 16  # frames per window
    alignment: str = ""  # of the clips' faces: nose_tip (default), or whole_nose as in release 1.0
    batch_size: int = 8  # windows per step, over all processes
    num_workers: int = 0  # DataLoader workers of each training process
    memory_mb: int = 1024  # cache of decoded faces per training process, shared by its workers
    reader: str = "auto"  # auto, av or decord (see `latentsync.media.video.clip_reader`)

    @property
    def aligned_by(self) -> Alignment:
        """The alignment of the clips' faces, with the default applied."""
        return cast(Alignment, self.alignment) if self.alignment else DEFAULT_ALIGNMENT

    @property
    def shard_cache_bytes(self) -> int:
        return round(self.shard_cache_gb * GIGABYTE)

    @property
    def memory_bytes(self) -> int:
        """Size of the cache of decoded faces in one process, in bytes: each worker has an equal part."""
        return self.memory_mb * MEGABYTE // max(1, self.num_workers)
