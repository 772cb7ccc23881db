"""The configuration of a data-processing run: what the stages decide by, and how the machine is used."""

from dataclasses import dataclass, field

from latentsync.processing.settings import StageSettings


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
