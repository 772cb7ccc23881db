"""The order of the stages, and how each is made from the settings."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from latentsync.device import pick_device
from latentsync.face.detection.detector import FaceDetector, make_detector
from latentsync.face.detection.landmarks import WEIGHT_FILES, find_weights
from latentsync.processing.config import StageSettings
from latentsync.processing.stages import high_visual_quality as quality
from latentsync.processing.stages import sync_judges
from latentsync.processing.stages.affine_transformed import AffineTransformedStage, AlignedRule
from latentsync.processing.stages.av_synced import AvSyncedStage, SyncRule
from latentsync.processing.stages.contract import Rule, Stage, Step, Writes
from latentsync.processing.stages.fused import FaceStep, SingleStep, SourceStep
from latentsync.processing.stages.high_resolution import FaceRule, HighResolutionStage
from latentsync.processing.stages.readable import ReadableRule, ReadableStage
from latentsync.processing.stages.resampled import KeepAll, ResampledStage
from latentsync.processing.stages.segmented import SegmentedStage, SegmentRule
from latentsync.processing.stages.shot import ShotStage
from latentsync.weights import CHECKPOINTS, Alignment


@dataclass(frozen=True)
class StageInfo:
    """What can be said of a stage without making it."""

    name: str
    writes: Writes
    needs_gpu: bool


CLASSES = (
    ReadableStage,
    ResampledStage,
    ShotStage,
    SegmentedStage,
    HighResolutionStage,
    AffineTransformedStage,
    AvSyncedStage,
    quality.HighVisualQualityStage,
)
STAGES: tuple[StageInfo, ...] = tuple(StageInfo(kind.name, kind.writes, kind.needs_gpu) for kind in CLASSES)

# Stages that share one decode: the source's for the first four, the segment's for the face filter and the alignment.
STEPS: tuple[tuple[str, ...], ...] = (
    ("readable", "resampled", "shot", "segmented"),
    ("high_resolution", "affine_transformed"),
    ("av_synced",),
    ("high_visual_quality",),
)


def check(settings: StageSettings) -> None:
    """Raises ValueError, one sentence with the way out, for wrong settings and for absent libraries or weights."""
    settings.check()
    pick_device(settings.device)
    check_detector(settings.detector, settings.weights_dir)
    sync_judges.check_weights(settings.sync_model, settings.weights_dir)
    quality.check_weights(settings.quality_metric, settings.weights_dir)


def check_detector(name: str, weights_dir: Path | None) -> None:
    """Raises ValueError, naming the files and the way out, if a detector's library or weights are missing."""
    if name != "face_alignment":
        return
    if find_spec("face_alignment") is None:
        raise ValueError("The package face_alignment is not installed: install it, or choose --detector cascade.")
    try:
        find_weights(weights_dir)
    except ValueError as error:
        raise ValueError(
            f"The face stages need {' and '.join(WEIGHT_FILES)} in {weights_dir or CHECKPOINTS / 'auxiliary'}: fetch them "
            f"with `{sync_judges.FETCH_TRAINING}`, or choose the detector without weights with --detector cascade."
        ) from error


def make_stages(settings: StageSettings) -> list[Stage]:
    """All stages in order, each callable by itself. Raises ValueError as `check` does."""
    check(settings)
    return [_make_stage(info.name, settings) for info in STAGES]


def make_step(names: tuple[str, ...], settings: StageSettings) -> Step:
    """The step of one entry of `STEPS`, or of a single stage `(name,)`; only its own networks are loaded.

    Raises ValueError as `check` does, for these stages alone.
    """
    settings.check()
    if names == STEPS[0]:
        return SourceStep(_readable(settings), ResampledStage(), _shot(settings), _segmented(settings))
    if names == STEPS[1]:
        detector = _detector(settings)
        return FaceStep(_high_resolution(settings, detector), AffineTransformedStage(detector, settings.resolution))
    assert len(names) == 1, f"a step is one of {STEPS} or a single stage"
    return SingleStep(_make_stage(names[0], settings))


def make_rules(settings: StageSettings) -> dict[str, Rule]:
    """Each stage's rule by its name; needs no weights."""
    return {
        "readable": ReadableRule(settings.min_loudness_db),
        "resampled": KeepAll(),
        "shot": KeepAll(),
        "segmented": SegmentRule(settings.min_segment_sec),
        "high_resolution": FaceRule(settings.min_face_px, settings.max_other_faces),
        "affine_transformed": AlignedRule(),
        "av_synced": SyncRule(_min_confidence(settings), settings.max_offset_frames),
        "high_visual_quality": quality.QualityRule(_min_quality(settings)),
    }


def _make_stage(name: str, settings: StageSettings) -> Stage:
    if name == "readable":
        return _readable(settings)
    if name == "resampled":
        return ResampledStage()
    if name == "shot":
        return _shot(settings)
    if name == "segmented":
        return _segmented(settings)
    if name == "high_resolution":
        return _high_resolution(settings, _detector(settings))
    if name == "affine_transformed":
        return AffineTransformedStage(_detector(settings), settings.resolution)
    if name == "av_synced":
        judge = sync_judges.make_judge(settings.sync_model, settings.weights_dir, settings.device)
        return AvSyncedStage(judge, _min_confidence(settings), settings.max_offset_frames)
    assert name == "high_visual_quality", f"there is no stage {name!r}"
    metric = quality.make_metric(settings.quality_metric, settings.weights_dir, settings.device)
    return quality.HighVisualQualityStage(metric, _min_quality(settings))


def _readable(settings: StageSettings) -> ReadableStage:
    return ReadableStage(settings.min_loudness_db)


def _shot(settings: StageSettings) -> ShotStage:
    return ShotStage(settings.scene_threshold, settings.min_scene_change)


def _segmented(settings: StageSettings) -> SegmentedStage:
    return SegmentedStage(settings.min_segment_sec, settings.max_segment_sec)


def _high_resolution(settings: StageSettings, detector: FaceDetector) -> HighResolutionStage:
    return HighResolutionStage(detector, settings.min_face_px, settings.max_other_faces)


def _detector(settings: StageSettings) -> FaceDetector:
    check_detector(settings.detector, settings.weights_dir)
    device, alignment = str(pick_device(settings.device)), cast(Alignment, settings.alignment)
    return make_detector(settings.detector, settings.weights_dir, device, alignment)


def _min_confidence(settings: StageSettings) -> float:
    own = sync_judges.SCALES[settings.sync_model].min_confidence
    return own if settings.min_sync_confidence is None else settings.min_sync_confidence


def _min_quality(settings: StageSettings) -> float:
    return quality.MIN_QUALITY[settings.quality_metric] if settings.min_quality is None else settings.min_quality
