"""What is known while a run goes on: which attempts have begun and not ended, and how much each stage has done.

One `LocalTracker` lives beside the workers (on Ray: in an actor of its own) and outlives any of them, so a clip on which worker
after worker dies is seen. It holds numbers only, whose size does not grow with the corpus.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class Tally:
    """A stage's work in this run."""

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
    """How far a stage is in this run."""

    stage: str
    done: Tally
    expected_in: float  # clips that it will have been given at the end, as the stages before let expect


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
    """What a worker tells."""

    def begin(self, step: str, clip: str) -> int:
        """Announce an attempt; returns how many attempts on this clip began before it and were never ended."""

    def end(self, step: str, clip: str, tallies: Mapping[str, Tally]) -> None:
        """Announce that the clip is done at this step."""


class LocalTracker:
    """The memory behind a `Tracker`, by itself enough for one process."""

    def __init__(self) -> None:
        self.started_at = time.time()
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
