"""Stage 2: 25 frames a second and 16 kHz mono, synchronised for all rates of the source.

The default video and audio tracks are read; cover pictures, timecode tracks and further languages are not.
"""

from pathlib import Path

from latentsync.processing.clip import Clip, Kept, StageOutcome
from latentsync.processing.stages.contract import Settings, Stage
from latentsync.processing.stages.span import write_clip


class ResampledStage(Stage[Settings]):
    """Write the clip at the rates of `latentsync.timebase`: each frame is the nearest in time, the sound is lossless.

    Without a folder the clip stays in its file, whose frames are then read on the same clock.
    """

    name = "resampled"
    keeps = "25 fps, 16 kHz mono"
    writes = "optional"

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        return [Kept(clip if folder is None else write_clip(clip, folder))]
