"""The progress of a run: unfinished attempts, and the counts of each stage.

One `LocalTracker` runs beside the workers (with Ray, in an actor) and outlives each of them, so it counts how many workers
died on a clip. It holds counts only, so its memory does not grow with the number of clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class Tally:
    """The counts of a stage in this run."""

    kept: int = 0
    dropped: int = 0
    failed: int = 0
    clips_in: int = 0
    video_sec: float = 0.0  # of all its outcomes

    def plus(self, other: "Tally") -> "Tally":
        names = ("kept", "dropped", "failed", "clips_in", "video_sec")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class StageProgress:
    """The progress of a stage in this run."""

    stage: str
    done: Tally
    expected_in: float  # estimate of its input clips in the whole run, from the share that earlier stages keep


def progress_of(stages: Sequence[str], tallies: Mapping[str, Tally], waiting: Mapping[str, int]) -> list[StageProgress]:
    """Each stage's progress; `waiting` are the clips that waited for it when the run began."""
    progress: list[StageProgress] = []
    coming = 0.0
    for stage in stages:
        done = tallies.get(stage, Tally())
        expected = max(coming + waiting.get(stage, 0), float(done.clips_in))
        progress.append(StageProgress(stage, done, expected))
        coming = expected * done.kept / done.clips_in if done.clips_in else 0.0
    return progress


class Tracker(Protocol):
    """Receives the attempts that workers report."""

    def begin(self, step: str, clip: str) -> int:
        """Report the start of an attempt; returns the number of earlier attempts on this clip that never ended."""

    def end(self, step: str, clip: str, tallies: Mapping[str, Tally]) -> None:
        """Report that the clip is done at this step."""


class LocalTracker:
    """A `Tracker` in this process."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, str], int] = {}
        self.tallies: dict[str, Tally] = {}

    def begin(self, step: str, clip: str) -> int:
        before = self.open.get((step, clip), 0)
        self.open[step, clip] = before + 1
        return before

    def end(self, step: str, clip: str, tallies: Mapping[str, Tally]) -> None:
        self.open.pop((step, clip), None)
        for stage, tally in tallies.items():
            self.tallies[stage] = self.tallies.get(stage, Tally()).plus(tally)

    def snapshot(self) -> dict[str, Tally]:
        return dict(self.tallies)
