"""Stage 4: scenes are split into segments of 5 to 10 seconds with frame accuracy; shorter scenes are dropped."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from latentsync.processing.clip import Clip, Dropped, Kept, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import DURATION, TOO_SHORT, Measure, Settings, Stage
from latentsync.processing.stages.span import write_clip
from latentsync.timebase import MODEL_FPS


@dataclass
class SegmentedSettings(Settings):
    """The least and largest length of a segment."""

    needs_new_run: ClassVar[tuple[str, ...]] = ("min_segment_sec", "max_segment_sec")
    min_segment_sec: float = 5.0
    max_segment_sec: float = 10.0

    def check(self) -> None:
        if not 0 < self.min_segment_sec <= self.max_segment_sec / 2:
            raise ValueError(
                f"min_segment_sec is {self.min_segment_sec:g} and max_segment_sec {self.max_segment_sec:g}: the longest "
                "segment must last at least twice as long as the shortest, or some scenes cannot be split."
            )


@dataclass(frozen=True)
class SegmentRule:
    """A scene must last long enough for one segment."""

    min_sec: float = 5.0

    def decide(self, scores: Scores) -> Reason | None:
        return TOO_SHORT if scores.get("scene_sec", self.min_sec) < self.min_sec else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        return f"The scene lasts {scores['scene_sec']:.2f} s; a segment needs {self.min_sec:g} s."


class SegmentedStage(Stage[SegmentedSettings]):
    """Split a scene evenly into as few segments as the longest allows. Score: `scene_sec`, the length of the whole scene.

    So no part is too short: a scene of 10.5 s gives two of 5.25 s, not one of 10 s and one of 0.5 s.
    """

    name = "segmented"
    keeps = "even parts of 5 to 10 s, cut at the frame"
    reasons = (TOO_SHORT,)
    settings_type = SegmentedSettings
    writes = "optional"
    cuts = True

    @classmethod
    def make_rule(cls, settings: SegmentedSettings) -> SegmentRule:
        return SegmentRule(settings.min_segment_sec)

    @classmethod
    def measures(cls, settings: SegmentedSettings) -> list[Measure]:
        return [Measure(DURATION, cls.name, "Length of segments", "s", at_least=settings.min_segment_sec)]

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        scored = clip.scored(scene_sec=clip.duration_sec)
        outcome = self.judge(scored)
        if isinstance(outcome, Dropped):
            return [outcome]
        max_frames = math.floor(self.settings.max_segment_sec * MODEL_FPS)
        parts = [scored.cut(a, b) for a, b in split_evenly(clip.frame_count, max_frames)]
        return [Kept(part if folder is None else write_clip(part, folder)) for part in parts]


def split_evenly(frames: int, max_frames: int) -> list[tuple[int, int]]:
    """Spans (first, last + 1) of the fewest parts of at most `max_frames` each; their lengths differ by at most one."""
    parts = math.ceil(frames / max_frames)
    borders = [round(frames * part / parts) for part in range(parts + 1)]
    return list(zip(borders, borders[1:], strict=False))
