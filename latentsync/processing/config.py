"""The configuration of a data-processing run: what the stages decide by, and how the machine is used."""

from dataclasses import dataclass, field
from pathlib import Path

from latentsync.face.detection.detector import BACKENDS
from latentsync.weights.table import ALIGNMENTS, DEFAULT_ALIGNMENT

# What the data-processing stages may be told: thresholds and which networks judge.
SYNC_MODELS = ("syncnet_v2", "demo")
QUALITY_METRICS = ("hyper_iqa", "sharpness")


@dataclass
class StageSettings:
    """Thresholds of all stages; the published data preparation's where it has them.

    `min_sync_confidence` and `min_quality` depend on the network that judges: None takes its own.
    """

    min_loudness_db: float = -60.0  # of the loudest tenth of a second, relative to full scale
    scene_threshold: float = 2.0  # change over the average of its neighbours that makes a cut
    min_scene_change: float = 15.0  # mean change of hue, saturation and value (0-255) that a cut has at least
    min_segment_sec: float = 5.0
    max_segment_sec: float = 10.0
    detector: str = "face_alignment"
    min_face_px: int = 256
    max_other_faces: float = 0.02  # share of frames that may show a further face
    resolution: int = 256  # px of the aligned faces
    alignment: str = DEFAULT_ALIGNMENT  # by which points: nose_tip, or whole_nose for release 1.0
    sync_model: str = "syncnet_v2"
    min_sync_confidence: float | None = None
    max_offset_frames: int = 6
    quality_metric: str = "hyper_iqa"
    min_quality: float | None = None
    weights_dir: Path | None = None  # None: checkpoints/auxiliary
    device: str | None = None  # None: the best of the machine

    def check(self) -> None:
        """Raises ValueError for settings that contradict each other or name what does not exist."""
        for name, choices in (
            ("detector", tuple(BACKENDS)),
            ("alignment", ALIGNMENTS),
            ("sync_model", SYNC_MODELS),
            ("quality_metric", QUALITY_METRICS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(choices)}.")
        if not 0 < self.min_segment_sec <= self.max_segment_sec / 2:
            raise ValueError(
                f"min_segment_sec is {self.min_segment_sec:g} and max_segment_sec {self.max_segment_sec:g}: the longest "
                "segment must last twice as long as the shortest, or a scene in between cannot be split."
            )
        if self.resolution < 64 or self.resolution % 2:
            raise ValueError(f"resolution is {self.resolution}: aligned faces need an even size of 64 at least.")


@dataclass
class RunSettings:
    """How a run uses the machine or the cluster."""

    keep_stages: bool = False  # keep every stage's files, not only the last stage's
    ray_address: str = ""  # of a running Ray cluster; empty: Ray is started on this machine for the run
    cores: int | None = None  # of this machine; None: all
    gpus: int | None = None
    workers_per_gpu: int = 4

    def check(self) -> None:
        """Raises ValueError for numbers that no machine has."""
        if self.workers_per_gpu < 1:
            raise ValueError(f"run.workers_per_gpu is {self.workers_per_gpu}: a GPU needs one worker at least.")
        if self.cores is not None and self.cores < 1:
            raise ValueError(f"run.cores is {self.cores}: give 1 at least, or leave it out for all.")
        if self.ray_address and (self.cores is not None or self.gpus is not None):
            raise ValueError("run.cores and run.gpus are this machine's: a cluster brings its own, leave them out.")


@dataclass
class ProcessingConfig:
    """A configuration file of `configs/processing`."""

    stages: StageSettings = field(default_factory=StageSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def check(self) -> None:
        """Raises ValueError for entries that contradict each other."""
        self.stages.check()
        self.run.check()
