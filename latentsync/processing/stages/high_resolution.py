"""Stage 5: segments without a face, with several, or with a face smaller than the models are trained on are dropped."""

from dataclasses import dataclass
from pathlib import Path

from latentsync.face.detection.detector import FaceDetector
from latentsync.processing.clip import Clip, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import NO_FACE, Measure, Stage
from latentsync.processing.stages.followed_face import FaceMeter, FaceSettings, check_detector, detector_of

# Reasons
SEVERAL_FACES = "several_faces"
SMALL_FACE = "small_face"

MIN_FACE_SHARE = 0.5  # fraction of the frames that must show a face, or the clip is dropped as NO_FACE


@dataclass
class FaceSizeSettings(FaceSettings):
    """The least size of the face, and how often another one may appear."""

    min_face_px: int = 256
    max_other_faces: float = 0.02  # share of the frames that may show another face


@dataclass(frozen=True)
class FaceRule:
    """One face, large enough. Its size is the shorter side of the box from brows to chin, in pixels of the source."""

    min_face_px: int
    max_other_faces: float  # share of frames that may show a further face

    def decide(self, scores: Scores) -> Reason | None:
        if scores.get("face_share", 1.0) < MIN_FACE_SHARE:
            return NO_FACE
        if scores.get("other_faces_share", 0.0) > self.max_other_faces or scores.get("persons", 1) > 1:
            return SEVERAL_FACES
        return SMALL_FACE if scores.get("face_px", self.min_face_px) < self.min_face_px else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        if reason == NO_FACE:
            return f"{scores['face_share']:.0%} of the frames show a face."
        if reason == SMALL_FACE:
            return f"The face is {scores['face_px']:.0f} px large; {self.min_face_px} px are needed."
        if scores["persons"] > 1:
            return f"{scores['persons']:.0f} persons appear one after the other without a detected cut."
        return f"{scores['other_faces_share']:.0%} of the frames show another face."


class HighResolutionStage(Stage[FaceSizeSettings]):
    """Measure the faces of every frame.

    Scores: `face_px`, the size that all but the smallest 5 % of the frames reach; `face_share` of the frames with a
    face and `other_faces_share` with more than one; `persons` who were followed one after the other; `bridged_frames` in which
    the detector missed the face briefly; `faceless_frames` without a face, and `faceless_sec` of the first of them.
    """

    name = "high_resolution"
    keeps = "one face, large enough"
    reasons = (NO_FACE, SEVERAL_FACES, SMALL_FACE)
    settings_type = FaceSizeSettings
    needs_gpu = True

    def __init__(self, settings: FaceSizeSettings, detector: FaceDetector | None = None) -> None:
        """`detector` replaces the one that the settings name, so that two stages can share it."""
        super().__init__(settings)
        self.detector = detector or detector_of(settings)

    @classmethod
    def make_rule(cls, settings: FaceSizeSettings) -> FaceRule:
        return FaceRule(settings.min_face_px, settings.max_other_faces)

    @classmethod
    def measures(cls, settings: FaceSizeSettings) -> list[Measure]:
        return [Measure("face_px", cls.name, "Face size", "px", at_least=settings.min_face_px)]

    @classmethod
    def networks(cls, settings: FaceSizeSettings) -> str:
        return f"faces {settings.detector}"

    @classmethod
    def check_installed(cls, settings: FaceSizeSettings) -> None:
        check_detector(settings)

    def __call__(self, clip: Clip, folder: Path | None = None) -> list[StageOutcome]:
        meter = FaceMeter()
        for _ in meter.follow(clip, self.detector):
            pass
        return [self.outcome(clip, meter)]

    def outcome(self, clip: Clip, meter: FaceMeter) -> StageOutcome:
        return self.judge(clip.scored(**meter.scores))
