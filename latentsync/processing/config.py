"""The configuration of a data-processing run: the settings of all stages, and how the machine is used."""

from dataclasses import dataclass, field

from latentsync.processing.stages.order import STAGES

_ALL_TYPES = tuple(dict.fromkeys(stage.settings_type for stage in STAGES))
# Without base classes of other entries, which would conflict in the method resolution order below.
SETTINGS_TYPES = tuple(kind for kind in _ALL_TYPES if not any(kind in other.__mro__[1:] for other in _ALL_TYPES))


@dataclass
class StageSettings(*reversed(SETTINGS_TYPES)):  # type: ignore[misc]  # the bases follow from the list of stages
    """The settings of all stages in one object; the thresholds are those of the published data preparation where it has them.

    It is an instance of every stage's settings class, so a stage uses it as its own.
    """

    def check(self) -> None:
        """Raises ValueError for invalid settings of any stage; its message is one sentence with a remedy."""
        for settings in SETTINGS_TYPES:
            settings.check(self)


def needs_new_run() -> tuple[str, ...]:
    """Names of the settings that --reapply cannot change, because the scores or the clips themselves depend on them."""
    return tuple(dict.fromkeys(name for settings in SETTINGS_TYPES for name in settings.needs_new_run))


@dataclass
class RunSettings:
    """How a run uses the machine or the cluster."""

    keep_stages: bool = False  # keep every stage's files, not only the last stage's
    ray_address: str = ""  # of a running Ray cluster; empty: Ray is started on this machine for the run
    cores: int | None = None  # of this machine; None: all
    gpus: int | None = None
    workers_per_gpu: int = 4

    def check(self) -> None:
        """Raises ValueError for invalid numbers."""
        if self.workers_per_gpu < 1:
            raise ValueError(f"run.workers_per_gpu is {self.workers_per_gpu}: a GPU needs at least one worker.")
        if self.cores is not None and self.cores < 1:
            raise ValueError(f"run.cores is {self.cores}: give at least 1, or leave it out to use all.")
        if self.ray_address and (self.cores is not None or self.gpus is not None):
            raise ValueError("run.cores and run.gpus describe this machine: leave them out when a cluster is used.")


@dataclass
class ProcessingConfig:
    """A configuration file of `configs/processing`."""

    stages: StageSettings = field(default_factory=StageSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def check(self) -> None:
        """Raises ValueError for entries that contradict each other."""
        self.stages.check()
        self.run.check()
