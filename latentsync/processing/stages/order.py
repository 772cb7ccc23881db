"""The stages in their order. To add one, write its file beside these and insert its class here (see docs/data.md)."""

from typing import Any

from latentsync.processing.stages.affine_transformed import AffineTransformedStage
from latentsync.processing.stages.av_synced import AvSyncedStage
from latentsync.processing.stages.contract import Stage
from latentsync.processing.stages.high_resolution import HighResolutionStage
from latentsync.processing.stages.high_visual_quality import HighVisualQualityStage
from latentsync.processing.stages.readable import ReadableStage
from latentsync.processing.stages.resampled import ResampledStage
from latentsync.processing.stages.segmented import SegmentedStage
from latentsync.processing.stages.shot import ShotStage

StageClasses = tuple[type[Stage[Any]], ...]

# Stages on one line share one decode (`fused.py`). The last stage's folder holds the training clips.
STEPS: tuple[StageClasses, ...] = (
    (ReadableStage, ResampledStage, ShotStage, SegmentedStage),
    (HighResolutionStage, AffineTransformedStage),
    (AvSyncedStage,),
    (HighVisualQualityStage,),
)
STAGES: StageClasses = tuple(stage for step in STEPS for stage in step)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
