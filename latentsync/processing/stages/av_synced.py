"""Stage 7: clips with low sync confidence or a large offset are dropped; in the others the sound is shifted to offset 0."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from latentsync.files import atomic_write
from latentsync.media.sound.read import FULL_SCALE, Samples
from latentsync.media.video.join import join
from latentsync.metrics import statistics
from latentsync.metrics.statistics import UnscorableError
from latentsync.processing.clip import Clip, Dropped, Kept, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import (
    FETCH_TRAINING,
    NO_FACE,
    TOO_SHORT,
    Measure,
    NetworkSettings,
    Stage,
    check_choice,
)
from latentsync.processing.stages.span import clip_sound, sound_file
from latentsync.weights import DEMO

# Networks are imported where they run: commands that only need the names and rules of the stages start without PyTorch.
if TYPE_CHECKING:
    from latentsync.metrics.sync.judge import SyncJudge, SyncScore

MAX_LEFT_FRAMES = 1  # largest offset after the sound was shifted
# Reasons
LOW_SYNC_CONFIDENCE = "low_sync_confidence"
LARGE_OFFSET = "large_offset"
SYNC_NOT_REPAIRED = "sync_not_repaired"  # an offset remains after the sound was shifted


# The threshold of each judge. SyncNet v2's is the published one. The demo network's embeddings have length 1, so its
# confidence is between 0 and 2 and cannot be compared with the other's; its threshold is above the confidence that
# it measures on training clips of 5 s with another clip's sound.
MIN_CONFIDENCE: Final = {"syncnet_v2": 3.0, "demo": 0.45}
SYNC_MODELS = tuple(MIN_CONFIDENCE)
SYNCNET_V2_FILES = ("syncnet_v2.model", "sfd_face.pth")
DEMO_FILE = DEMO / "syncnet.safetensors"


@dataclass
class SyncSettings(NetworkSettings):
    """The network that measures sync, and its thresholds."""

    needs_new_run: ClassVar[tuple[str, ...]] = ("sync_model",)
    sync_model: str = "syncnet_v2"
    min_sync_confidence: float | None = None  # None: the network's own
    max_offset_frames: int = 6

    def check(self) -> None:
        check_choice("sync_model", self.sync_model, SYNC_MODELS)


@dataclass(frozen=True)
class SyncRule:
    """The confidence must be high enough, and the offset small enough."""

    min_confidence: float
    max_offset_frames: int = 6

    def decide(self, scores: Scores) -> Reason | None:
        if scores.get("sync_confidence", self.min_confidence) < self.min_confidence:
            return LOW_SYNC_CONFIDENCE
        return LARGE_OFFSET if abs(scores.get("offset_frames", 0)) > self.max_offset_frames else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        if reason is LOW_SYNC_CONFIDENCE:
            return f"The confidence is {scores['sync_confidence']:.2f}; {self.min_confidence:g} is needed."
        offset = int(scores["offset_frames"])
        from latentsync.metrics.sync.offset import offset_in_words

        return f"The sound is {offset_in_words(offset)}; {self.max_offset_frames} are allowed."


class AvSyncedStage(Stage[SyncSettings]):
    """Measure the offset of the sound, shift the samples by it, and measure the written file again.

    Scores: `sync_confidence` and `sync_distance` at the best offset, on the judge's own scale; `offset_frames` in the input
    (above 0: the sound is early) and `offset_left_frames` in the file that was written.
    """

    name = "av_synced"
    keeps = "sound moved until its offset is 0, and measured again"
    reasons = (LOW_SYNC_CONFIDENCE, LARGE_OFFSET, SYNC_NOT_REPAIRED, NO_FACE, TOO_SHORT)
    settings_type = SyncSettings
    writes = "always"
    needs_gpu = True

    def __init__(self, settings: SyncSettings) -> None:
        super().__init__(settings)
        self.judge_of_sync = make_judge(settings)

    @classmethod
    def make_rule(cls, settings: SyncSettings) -> SyncRule:
        own = MIN_CONFIDENCE[settings.sync_model]
        least = own if settings.min_sync_confidence is None else settings.min_sync_confidence
        return SyncRule(least, settings.max_offset_frames)

    @classmethod
    def measures(cls, settings: SyncSettings) -> list[Measure]:
        rule = cls.make_rule(settings)
        most = rule.max_offset_frames
        return [
            Measure("sync_confidence", cls.name, "Sync confidence", "", at_least=rule.min_confidence),
            Measure("offset_frames", cls.name, "Offset of the sound, as found", "frames of 1/25 s", -most, most),
        ]

    @classmethod
    def networks(cls, settings: SyncSettings) -> str:
        return f"sync {settings.sync_model}"

    @classmethod
    def check_installed(cls, settings: SyncSettings) -> None:
        from latentsync.device import pick_device

        pick_device(settings.device)
        check_weights(settings)

    def __call__(self, clip: Clip, folder: Path | None) -> list[StageOutcome]:
        assert folder is not None, "synchronised clips are written"
        sound = clip_sound(clip)
        try:
            found = self.measure(clip.path, sound)
        except UnscorableError as error:
            reason = NO_FACE if error.reason == statistics.NO_FACE else TOO_SHORT
            return [Dropped(clip, reason, str(error).replace(str(clip.path), clip.relative))]
        scored = clip.scored(
            sync_confidence=round(found.confidence, 4),
            sync_distance=round(found.distance, 4),
            offset_frames=found.offset_frames,
        )
        outcome = self.judge(scored)
        if isinstance(outcome, Dropped):
            return [outcome]
        return [self.repaired(scored, sound, found.offset_frames, folder)]

    def measure(self, video: Path, sound: Samples) -> "SyncScore":
        """Raises UnscorableError if the video is too short or the judge finds no face in it."""
        from latentsync.metrics.sync.judge import score_pairs

        pairs = list(self.judge_of_sync.pairs(video, sound.astype(np.float32) / FULL_SCALE))
        if not pairs:
            raise UnscorableError(statistics.NO_FACE, f"{video} has no face track that is long and large enough.")
        return score_pairs(pairs)

    def repaired(self, clip: Clip, sound: Samples, offset_frames: int, folder: Path) -> StageOutcome:
        """The clip with its sound shifted, measured again; its video stream is copied."""
        path = folder / clip.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        if offset_frames == 0:
            with atomic_write(path) as partial:
                shutil.copyfile(clip.path, partial)
            return Kept(clip.scored(offset_left_frames=0).moved(path))
        from latentsync.metrics.sync.offset import delayed

        moved = delayed(sound, offset_frames)
        with sound_file(path, [moved]) as source:
            join([clip.path], path, source)
        written = clip.moved(path)
        left = self.measure(path, clip_sound(written)).offset_frames
        scored = written.scored(offset_left_frames=left)
        if abs(left) <= MAX_LEFT_FRAMES:
            return Kept(scored)
        path.unlink()
        detail = f"The offset was {offset_frames} frames and is {left} after the sound was moved."
        return Dropped(scored.moved(clip.path), SYNC_NOT_REPAIRED, detail)


def check_weights(settings: SyncSettings) -> None:
    """Raises ValueError, naming the files and a remedy, if the network's weights are missing."""
    folder = settings.weights_folder
    missing = [name for name in SYNCNET_V2_FILES if not (folder / name).is_file()]
    if settings.sync_model == "syncnet_v2" and missing:
        raise ValueError(
            f"The sync stage needs {' and '.join(missing)} in {folder}: fetch with `{FETCH_TRAINING}`, or choose the "
            "stand-in for drawn heads with --sync_model demo."
        )


def make_judge(settings: SyncSettings) -> "SyncJudge":
    """The network that the settings name; it expects aligned faces. Raises ValueError if its weights are missing or damaged."""
    from latentsync.device import pick_device
    from latentsync.metrics.sync.box_detectors import S3FDBoxes
    from latentsync.metrics.sync.judge import ExpertJudge, StableJudge
    from latentsync.models.s3fd import load_s3fd
    from latentsync.models.syncnet import load_syncnet
    from latentsync.models.syncnet_v2 import load_syncnet_v2

    check_weights(settings)
    device = pick_device(settings.device)
    if settings.sync_model == "syncnet_v2":
        syncnet, boxes = (settings.weights_folder / name for name in SYNCNET_V2_FILES)
        return ExpertJudge(load_syncnet_v2(syncnet).to(device), S3FDBoxes(load_s3fd(boxes).to(device)))
    net, metadata = load_syncnet(DEMO_FILE)
    return StableJudge(net.to(device), metadata["resolution"], metadata["num_frames"], None)
