"""Which clips are trained on, what is cut from them, and where what was computed from them is kept."""

from dataclasses import dataclass
from typing import cast

from latentsync.weights.table import DEFAULT_ALIGNMENT, Alignment

MEGABYTE = 1 << 20
WINDOWS_AN_ITEM = 4  # of the SyncNet's data: two of each of two clips
MIN_SHIFT = (
    5  # frames between lips and sound from which a pair of one clip counts as wrong, unless a training says otherwise
)


@dataclass
class ClipDataConfig:
    """The data section of a training configuration.

    Clips are aligned faces as the data pipeline leaves them: square .mp4 files, 25 fps, with their sound.
    """

    train_data_dir: str = ""  # folder of clips, searched through all of its folders
    train_fileslist: str = ""  # or a text file with one path a line, which then counts alone
    val_data_dir: str = ""
    val_fileslist: str = ""
    cache_dir: str = "data/cache"  # what was computed from clips, by their content
    latents_precision: str = "fp32"  # in which the auto-encoder computes them: fp32, bf16 or fp16
    resolution: int = 256  # px of the face that the network sees
    num_frames: int = 16  # frames of a window
    alignment: str = ""  # of the clips' faces: nose_tip, or whole_nose for those of release 1.0; empty: nose_tip
    batch_size: int = 8  # windows a step, over all processes
    num_workers: int = 0  # processes that read ahead, beside each training process
    memory_mb: int = 1024  # decoded faces kept in memory, a training process, its readers included
    reader: str = "auto"  # auto, av or decord (see `latentsync.media.video.clip_reader`)

    @property
    def aligned_by(self) -> Alignment:
        """By which points the clips' faces are aligned."""
        return cast(Alignment, self.alignment) if self.alignment else DEFAULT_ALIGNMENT

    @property
    def memory_bytes(self) -> int:
        """Bytes of decoded faces that one process may keep: the readers share them."""
        return self.memory_mb * MEGABYTE // max(1, self.num_workers)
