"""The interface of a stage: its settings, rule, measures, and the processing of one clip. `order.py` lists the stages.

A stage turns one clip into kept clips or a reason. It writes a kept clip into its folder as `clip.file_name`, all or
nothing. Where files are optional and the folder is None, nothing is written and the clip remains a span of its
file: the spans are the same, and frames are encoded only once, as aligned faces. A stage does not change its input, and the
same clip gives the same bytes.

A step is the unit that a runner schedules: one stage, or several that share one decode. It returns the outcome at each of its
stages, so that manifests do not depend on which stages share a decode.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from latentsync.processing.clip import Clip, Dropped, Kept, Reason, Scores, StageOutcome
from latentsync.weights import CHECKPOINTS
from latentsync.weights.table import FETCH

Folders = Mapping[str, Path | None]  # by the stage's name
StepOutcomes = list[tuple[str, StageOutcome]]  # the stage's name, and the outcome of a clip there
Writes = Literal["never", "optional", "always"]
FETCH_TRAINING, FETCH_FACES = f"{FETCH} training", f"{FETCH} faces"
DURATION = "duration_sec"  # a measure that is not a score: the length of the clip

# Reasons that several stages use; the others are defined in the file of their stage.
TOO_SHORT = "too_short"
NO_FACE = "no_face"  # in hardly any frame


@dataclass
class Settings:
    """Base of a stage's settings. Each field is an entry `stages.FIELD` of the configuration and needs a default."""

    needs_new_run: ClassVar[tuple[str, ...]] = ()  # fields that --reapply cannot change: the videos must be read again

    def check(self) -> None:
        """Raises ValueError for invalid values; its message is one sentence with a remedy."""


@dataclass
class NetworkSettings(Settings):
    """Base of the settings of stages that run a network."""

    weights_dir: Path | None = None  # None: checkpoints/auxiliary
    device: str | None = None  # None: the best available

    @property
    def weights_folder(self) -> Path:
        return self.weights_dir or CHECKPOINTS / "auxiliary"


S = TypeVar("S", bound=Settings)


def check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError if a setting is none of its choices."""
    if value not in choices:
        raise ValueError(f"{field} is {value!r}: choose one of {', '.join(choices)}.")


class Rule(Protocol):
    """The thresholds of one stage: plain numbers, so that they can be applied to a manifest again without networks."""

    def decide(self, scores: Scores) -> Reason | None:
        """Why a clip with these scores is dropped, or None; a pure function. A missing score drops nothing."""

    def explain(self, reason: Reason, scores: Scores) -> str:
        """The reason as a sentence with the measured numbers."""


class KeepAll:
    """The rule of stages that drop nothing by a score."""

    def decide(self, scores: Scores) -> Reason | None:
        return None

    def explain(self, reason: Reason, scores: Scores) -> str:
        raise AssertionError("a stage without a threshold has nothing to explain")


@dataclass(frozen=True)
class Measure:
    """A score that the report shows as a histogram, with the bounds that clips must meet."""

    name: str  # of the score, or DURATION
    stage: str
    title: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None


class Stage(ABC, Generic[S]):
    """One stage. A new one defines `name` and `__call__`, and overrides the defaults below where needed."""

    name: ClassVar[str]  # of the stage, its folder and its manifest
    keeps: ClassVar[str] = ""  # what it keeps, for the table in docs/data.md
    reasons: ClassVar[tuple[Reason, ...]] = ()  # every code that it drops clips for
    settings_type: ClassVar[type[Settings]] = Settings
    writes: ClassVar[Writes] = "never"  # "never" ignores the folder, "optional" accepts None, "always" needs a folder
    needs_gpu: ClassVar[bool] = False  # whether it runs a network
    cuts: ClassVar[bool] = False  # whether it returns several clips for one

    def __init__(self, settings: S) -> None:
        """Load what the stage needs. Raises ValueError if weights or a library are missing or damaged."""
        self.settings = settings
        self.rule = self.make_rule(settings)

    @abstractmethod
    def __call__(self, clip: Clip, folder: Path | None) -> list[StageOutcome]:
        """Kept and dropped clips, at least one, each with all scores measured so far.

        Raises MediaError or OSError only for problems that the clip did not cause, such as a full disk.
        """

    @classmethod
    def make_rule(cls, settings: S) -> Rule:
        """The thresholds; needs no weights."""
        return KeepAll()

    @classmethod
    def measures(cls, settings: S) -> list[Measure]:
        """The scores that the report shows."""
        return []

    @classmethod
    def networks(cls, settings: S) -> str:
        """The network that is used, as in "sync demo", for the head of the report; empty if there is none."""
        return ""

    @classmethod
    def check_installed(cls, settings: S) -> None:
        """Raises ValueError, naming the files and a remedy, if weights or a library are missing."""

    def judge(self, clip: Clip) -> StageOutcome:
        """The outcome that the rule gives for a clip's scores."""
        reason = self.rule.decide(clip.scores)
        return Kept(clip) if reason is None else Dropped(clip, reason, self.rule.explain(reason, clip.scores))


class Step(Protocol):
    """One or more consecutive stages that run together."""

    @property
    def name(self) -> str: ...

    @property
    def stages(self) -> Sequence[Stage]: ...

    @property
    def needs_gpu(self) -> bool: ...

    def __call__(self, clip: Clip, folders: Folders) -> StepOutcomes:
        """The outcome of every clip at every stage that it reached, in the order of the stages.

        `folders` gives each stage's folder or None. Clips that the last stage keeps are the input of the next step.
        """
