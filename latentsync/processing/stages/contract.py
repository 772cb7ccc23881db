"""What a stage is, what decides about a clip, and what a step is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from latentsync.processing.clip import Clip, Dropped, Kept, Reason, Scores, StageOutcome

Folders = Mapping[str, Path | None]  # by the stage's name
Writes = Literal["never", "optional", "always"]


class Rule(Protocol):
    """The thresholds of one stage: plain numbers, so that they can be applied to a manifest again without networks."""

    def decide(self, scores: Scores) -> Reason | None:
        """Why a clip with these scores is dropped, or None; a pure function. Scores that are absent drop nothing."""

    def explain(self, reason: Reason, scores: Scores) -> str:
        """The reason as a sentence with the measured numbers."""


class Stage(Protocol):
    """One stage; its thresholds are arguments of the constructor."""

    @property
    def name(self) -> str:
        """Of the stage and of its folder."""

    @property
    def writes(self) -> Writes:
        """Whether it writes files: "never" ignores the folder, "optional" may be called with None, "always" not."""

    @property
    def needs_gpu(self) -> bool:
        """Whether it runs a network."""

    @property
    def rule(self) -> Rule: ...

    def __call__(self, clip: Clip, folder: Path | None) -> list[StageOutcome]:
        """Kept clips or reasons, never empty; each with everything measured so far in its scores.

        Raises MediaError or OSError only for what is no fault of the clip, such as a full disk.
        """


class Step(Protocol):
    """One or more consecutive stages that run in one go."""

    @property
    def name(self) -> str: ...

    @property
    def stages(self) -> Sequence[Stage]: ...

    @property
    def needs_gpu(self) -> bool: ...

    def __call__(self, clip: Clip, folders: Folders) -> list[tuple[str, StageOutcome]]:
        """(stage name, outcome) of every clip at every stage that it reached, in the order of the stages.

        `folders` gives each stage's folder or None. What the last stage keeps goes on to the next step.
        """


# The verdict of a stage about a measured clip.
def judge(clip: Clip, rule: Rule) -> StageOutcome:
    """What a rule makes of a clip's scores."""
    reason = rule.decide(clip.scores)
    return Kept(clip) if reason is None else Dropped(clip, reason, rule.explain(reason, clip.scores))
