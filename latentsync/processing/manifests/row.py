"""A row of a manifest: the outcome of a clip at a stage; conversion of outcomes to rows and of rows to clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from latentsync.processing.clip import Clip, Dropped, Score, StageOutcome

Verdict = Literal["kept", "dropped", "failed"]
SAME_TIME_SEC = 1e-6


@dataclass(frozen=True)
class ManifestRow:
    """The outcome of a clip at a stage; a stage has one row for each clip that it kept or dropped."""

    clip: str  # the kept or dropped clip's id
    parent: str  # the input clip of the stage; for a whole source its relative path
    source: str  # the raw video it comes from: its path relative to the input folder
    source_id: str = ""
    start_sec: float = 0.0  # span in the source
    end_sec: float = 0.0
    verdict: Verdict = "kept"
    reason: str = ""  # the code of a reason, or the kind of error of a failure
    detail: str = ""  # one sentence that explains it
    file: str = ""  # path of a kept clip, relative to the output folder; empty: in the source
    file_start_sec: float = 0.0  # where in that file the clip begins
    scores: Mapping[str, Score] = field(default_factory=dict)
    work_sec: float = 0.0  # of the whole step, in the first row that it wrote; else 0
    finished_at: float = 0.0  # seconds since 1970

    def clip_in(self, path: Path, source: str) -> Clip:
        """The kept clip as input of the next stage; `path` is the local copy of `file`, `source` the source's address."""
        return Clip(
            clip_id=self.clip,
            source=source,
            relative=self.source,
            path=path,
            source_id=self.source_id,
            start_sec=self.start_sec,
            end_sec=self.end_sec,
            path_start_sec=self.file_start_sec,
            scores=dict(self.scores),
        )


def row_of(outcome: StageOutcome, parent: str, file: str) -> ManifestRow:
    """The row of one outcome; `file` is the path of a kept clip, relative to the output folder."""
    clip = outcome.clip
    dropped = isinstance(outcome, Dropped)
    return ManifestRow(
        clip=clip.clip_id,
        parent=parent,
        source=clip.relative,
        source_id=clip.source_id,
        start_sec=clip.start_sec,
        end_sec=clip.end_sec,
        verdict="dropped" if dropped else "kept",
        reason=outcome.reason if isinstance(outcome, Dropped) else "",
        detail=outcome.detail if isinstance(outcome, Dropped) else "",
        file="" if dropped else file,
        file_start_sec=0.0 if dropped else clip.path_start_sec,
        scores=dict(clip.scores),
    )


def parent_of(clip: Clip, given: Sequence[Clip]) -> Clip:
    """The input clip of a stage whose span contains an output clip (spans of one source do not overlap)."""
    if len(given) == 1:
        return given[0]
    around = [
        each
        for each in given
        if each.start_sec <= clip.start_sec + SAME_TIME_SEC and clip.end_sec <= each.end_sec + SAME_TIME_SEC
    ]
    assert around, "an output clip is within the span of an input clip"
    return around[0]
