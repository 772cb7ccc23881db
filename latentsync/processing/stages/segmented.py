"""Stage 4: scenes are split into segments of 5 to 10 seconds, exactly at frames; shorter scenes are dropped."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from latentsync.processing.clip import Clip, Dropped, Kept, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import Writes
from latentsync.processing.stages.span import write_clip
from latentsync.timebase import MODEL_FPS


@dataclass(frozen=True)
class SegmentRule:
    """A scene must last long enough for one segment."""

    min_sec: float = 5.0

    def decide(self, scores: Scores) -> Reason | None:
        return Reason.TOO_SHORT if scores.get("scene_sec", self.min_sec) < self.min_sec else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        return f"The scene lasts {scores['scene_sec']:.2f} s, a segment {self.min_sec:g} s at least."


class SegmentedStage:
    """Split a scene evenly into as few segments as the longest allows. Score: `scene_sec` of the whole scene.

    Even parts waste nothing: a scene of 10.5 s gives two of 5.25 s rather than one of 10 s and a rest.
    """

    name: Final = "segmented"
    writes: Final[Writes] = "optional"
    needs_gpu: Final = False

    def __init__(self, min_sec: float = 5.0, max_sec: float = 10.0) -> None:
        """Raises ValueError if `max_sec` is less than twice `min_sec`, so that some scenes could not be split."""
        if not 0 < min_sec <= max_sec / 2:
            raise ValueError(f"segments of {min_sec:g} to {max_sec:g} s: the longest must last twice the shortest.")
        self.rule = SegmentRule(min_sec)
        self.max_frames = math.floor(max_sec * MODEL_FPS)

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        scored = clip.scored(scene_sec=clip.duration_sec)
        reason = self.rule.decide(scored.scores)
        if reason:
            return [Dropped(scored, reason, self.rule.explain(reason, scored.scores))]
        parts = [scored.cut(a, b) for a, b in split_evenly(clip.frame_count, self.max_frames)]
        return [Kept(part if folder is None else write_clip(part, folder)) for part in parts]


def split_evenly(frames: int, max_frames: int) -> list[tuple[int, int]]:
    """Spans (first, last + 1) of as few parts as possible of at most `max_frames`, whose lengths differ by one at most."""
    parts = math.ceil(frames / max_frames)
    borders = [round(frames * part / parts) for part in range(parts + 1)]
    return list(zip(borders, borders[1:], strict=False))
