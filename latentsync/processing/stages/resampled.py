"""Stage 2: 25 frames a second and 16 kHz mono, in step with each other whatever the source's rates are.

The default video and audio tracks count; cover pictures, timecode tracks and further languages do not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from latentsync.processing.clip import Clip, Kept, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import Writes
from latentsync.processing.stages.span import write_clip


@dataclass(frozen=True)
class KeepAll:
    """The rule of stages that drop nothing."""

    def decide(self, scores: Scores) -> Reason | None:
        return None

    def explain(self, reason: Reason, scores: Scores) -> str:
        raise AssertionError("a stage that drops nothing has nothing to explain")


class ResampledStage:
    """Write the clip at the rates of `latentsync.timebase`: each tick shows the frame nearest in time, sound is lossless.

    Without a folder the clip stays in its file, whose frames are then read on the same clock.
    """

    name: Final = "resampled"
    writes: Final[Writes] = "optional"
    needs_gpu: Final = False
    rule = KeepAll()

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        return [Kept(clip if folder is None else write_clip(clip, folder))]
