"""Stage 7: clips whose lips do not fit their sound are dropped; of the others the sound is moved to where it fits."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from latentsync.files import atomic_write
from latentsync.media.sound.mono import Samples
from latentsync.media.sound.read import FULL_SCALE
from latentsync.media.video.join import join
from latentsync.metrics.statistics import NO_FACE, UnscorableError
from latentsync.metrics.sync.judge import SyncJudge, SyncScore, score_pairs
from latentsync.metrics.sync.offset import offset_in_words
from latentsync.processing.clip import Clip, Dropped, Kept, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import Writes
from latentsync.processing.stages.span import clip_sound, sound_file
from latentsync.timebase import samples_of_frames

MAX_LEFT_FRAMES = 1  # of offset that may be measured after the sound was moved
OTHER_REASONS = {NO_FACE: Reason.NO_FACE}


@dataclass(frozen=True)
class SyncRule:
    """Sure enough, and not too far off."""

    min_confidence: float
    max_offset_frames: int = 6

    def decide(self, scores: Scores) -> Reason | None:
        if scores.get("sync_confidence", self.min_confidence) < self.min_confidence:
            return Reason.LOW_SYNC_CONFIDENCE
        return Reason.LARGE_OFFSET if abs(scores.get("offset_frames", 0)) > self.max_offset_frames else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        if reason is Reason.LOW_SYNC_CONFIDENCE:
            return f"The confidence is {scores['sync_confidence']:.2f}, {self.min_confidence:g} is needed."
        offset = int(scores["offset_frames"])
        return f"The sound is {offset_in_words(offset)}, {self.max_offset_frames} are allowed."


class AvSyncedStage:
    """Measure the offset of the sound and move its samples until it is 0; measure again what was written.

    Scores: `sync_confidence` and `sync_distance` at the best offset, on the judge's own scale; `offset_frames` as found
    (above 0: the sound is early) and `offset_left_frames` in the file that was written.
    """

    name: Final = "av_synced"
    writes: Final[Writes] = "always"
    needs_gpu: Final = True

    def __init__(self, judge: SyncJudge, min_confidence: float, max_offset_frames: int = 6) -> None:
        self.judge = judge
        self.rule = SyncRule(min_confidence, max_offset_frames)

    def __call__(self, clip: Clip, folder: Path | None) -> list[StageOutcome]:
        assert folder is not None, "synchronised clips are written"
        sound = clip_sound(clip)
        try:
            found = self.measure(clip.path, sound)
        except UnscorableError as error:
            reason = OTHER_REASONS.get(error.reason, Reason.TOO_SHORT)
            return [Dropped(clip, reason, str(error).replace(str(clip.path), clip.relative))]
        scored = clip.scored(
            sync_confidence=round(found.confidence, 4),
            sync_distance=round(found.distance, 4),
            offset_frames=found.offset_frames,
        )
        reason_against = self.rule.decide(scored.scores)
        if reason_against:
            return [Dropped(scored, reason_against, self.rule.explain(reason_against, scored.scores))]
        return [self.repaired(scored, sound, found.offset_frames, folder)]

    def measure(self, video: Path, sound: Samples) -> SyncScore:
        """Raises UnscorableError if the video is too short or the judge finds no face in it."""
        pairs = list(self.judge.pairs(video, sound.astype(np.float32) / FULL_SCALE))
        if not pairs:
            raise UnscorableError(NO_FACE, f"{video} has no face track that is long and large enough.")
        return score_pairs(pairs)

    def repaired(self, clip: Clip, sound: Samples, offset_frames: int, folder: Path) -> StageOutcome:
        """The clip with its sound moved, measured again; its pictures are copied."""
        path = folder / clip.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        if offset_frames == 0:
            with atomic_write(path) as partial:
                shutil.copyfile(clip.path, partial)
            return Kept(clip.scored(offset_left_frames=0).moved(path))
        moved = move_sound(sound, offset_frames)
        with sound_file(path, [moved]) as source:
            join([clip.path], path, source)
        written = clip.moved(path)
        left = self.measure(path, clip_sound(written)).offset_frames
        scored = written.scored(offset_left_frames=left)
        if abs(left) <= MAX_LEFT_FRAMES:
            return Kept(scored)
        path.unlink()
        detail = f"The offset was {offset_frames} frames and is {left} after the sound was moved."
        return Dropped(scored.moved(clip.path), Reason.SYNC_NOT_REPAIRED, detail)


def move_sound(sound: Samples, offset_frames: int) -> Samples:
    """Sound, int16 [n], later by `offset_frames` video frames (below 0: earlier), as long as before; silence fills up."""
    shift = samples_of_frames(abs(offset_frames))
    silence = np.zeros(min(shift, len(sound)), np.int16)
    kept = sound[: len(sound) - len(silence)] if offset_frames > 0 else sound[len(silence) :]
    return np.concatenate([silence, kept] if offset_frames > 0 else [kept, silence])
