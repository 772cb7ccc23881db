"""A clip that the data-processing stages pass on, and the outcome of a stage.

Times are on the 25 Hz clock of `latentsync.timebase`, which starts where a player starts the file (see
`media.video.read.frames_at`): a span is exact in frames, and start_sec, end_sec are whole multiples of 1/25 s.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from latentsync.files import file_hash
from latentsync.timebase import MODEL_FPS

Score: TypeAlias = float
Scores: TypeAlias = Mapping[str, Score]
Reason: TypeAlias = str  # code of the reason for dropping a clip, written to manifests; each stage defines its own

ID_DIGITS = 16  # hexadecimal
SHORT_ID_DIGITS = 8
MAX_STEM_BYTES = 200  # file systems allow 255 bytes for a name


@dataclass(frozen=True)
class Clip:
    """A span of a source video, the input and output of stages."""

    clip_id: str  # computed from the source's content, its relative path and the span
    source: str  # path or address of the user's file, which is never changed
    relative: str  # POSIX path of the source relative to the input folder
    path: Path  # local file that holds the clip now; the source itself until a stage writes one
    source_id: str = ""  # computed from the source's content and its relative path
    start_sec: float = 0.0  # span in the source
    end_sec: float = 0.0  # 0 until stage 1 has measured it
    path_start_sec: float = 0.0  # where in `path` the clip begins
    scores: dict[str, Score] = field(default_factory=dict)  # all scores measured so far, by name

    @property
    def start_frame(self) -> int:
        """First frame of the span in the source, on the 25 Hz clock."""
        return round(self.start_sec * MODEL_FPS)

    @property
    def frame_count(self) -> int:
        """Length of the span in frames of the 25 Hz clock."""
        return round(self.end_sec * MODEL_FPS) - self.start_frame

    @property
    def duration_sec(self) -> float:
        return self.frame_count / MODEL_FPS

    @property
    def path_frames(self) -> tuple[int, int]:
        """First frame of the clip in `path`, and the one after its last, on the 25 Hz clock."""
        first = round(self.path_start_sec * MODEL_FPS)
        return first, first + self.frame_count

    @property
    def file_name(self) -> str:
        """The clip's path in every stage's folder: unique, in the same sub-folder as the source in the input folder."""
        place = PurePosixPath(self.relative)
        stem = place.stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
        is_whole = self.clip_id == self.source_id
        span = "" if is_whole else f"_{self.start_frame:06d}"
        return str(place.with_name(f"{stem}{span}_{self.clip_id[:SHORT_ID_DIGITS]}.mp4"))

    def scored(self, **scores: Score) -> "Clip":
        """The clip with these scores added."""
        return replace(self, scores={**self.scores, **scores})

    def moved(self, path: Path) -> "Clip":
        """The clip as the complete content of another file."""
        return replace(self, path=path, path_start_sec=0.0)

    def cut(self, start_frame: int, stop_frame: int) -> "Clip":
        """A part of the clip; frames of the 25 Hz clock, counted from the start of the clip."""
        assert 0 <= start_frame < stop_frame <= self.frame_count, "a part is within its clip"
        first, last = self.start_frame + start_frame, self.start_frame + stop_frame
        return replace(
            self,
            clip_id=_digest(self.source_id, str(first), str(last)),
            start_sec=first / MODEL_FPS,
            end_sec=last / MODEL_FPS,
            path_start_sec=(self.path_frames[0] + start_frame) / MODEL_FPS,
            scores=dict(self.scores),
        )


@dataclass(frozen=True)
class Kept:
    """A clip that is kept: the input of the next stage."""

    clip: Clip


@dataclass(frozen=True)
class Dropped:
    """A clip that is dropped, and why."""

    clip: Clip
    reason: Reason
    detail: str  # one sentence with the measured values and, where there is one, the time


StageOutcome: TypeAlias = Kept | Dropped


def source_clip(path: Path, source: str, relative: str) -> Clip:
    """The clip of a whole source file, not yet measured.

    `path` is its local copy (or the file itself), `source` its original path or address, `relative` its POSIX
    path in the input folder. Raises OSError if the file cannot be read.
    """
    source_id = _digest(file_hash(path, hashlib.blake2b(digest_size=32)), relative)
    return Clip(clip_id=source_id, source=source, relative=relative, path=path, source_id=source_id)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=32).hexdigest()[:ID_DIGITS]
