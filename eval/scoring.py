"""All scores of one result of a report, and what each of them is called."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.clip_sets import SILENT, EvalClip
from latentsync.face.detection.detector import FaceDetector
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.lips.face_series import FaceSeries, face_series
from latentsync.metrics.lips.leakage import silent_mouth
from latentsync.metrics.lips.scores import at_frames, bounced, check_lengths, lip_scores, openings
from latentsync.metrics.pictures.compare import PerceptualMap, compare_pictures
from latentsync.metrics.sync.judge import SyncJudge, sync_score


@dataclass(frozen=True)
class Metric:
    """How a score is shown."""

    name: str
    label: str
    better: str  # higher, lower, or "" where neither is better by itself
    digits: int = 2
    tasks: tuple[str, ...] = ("reconstruction", "cross")


METRICS = (
    Metric("sync_confidence", "sync confidence", "higher"),
    Metric("sync_distance", "sync distance", "lower"),
    Metric("sync_distance_as_heard", "sync distance as heard", "lower"),
    Metric("sync_offset", "offset, frames", "", 1),
    Metric("aperture_correlation", "lip opening against truth", "higher"),
    Metric("source_correlation", "lip opening against source", "", 2, ("cross",)),
    Metric("landmark_distance", "landmark distance", "lower", 3),
    Metric("silent_movement_kept", "movement kept", "lower", 2, (SILENT,)),
    Metric("silent_opening", "opening, % of face", "lower", 2, (SILENT,)),
    Metric("psnr_inside", "PSNR in mask, dB", "higher", 1, ("reconstruction", "cross", SILENT)),
    Metric("psnr_ring", "PSNR on ring, dB", "higher", 1, ("reconstruction", "cross", SILENT)),
    Metric("psnr_outside", "PSNR outside, dB", "higher", 1, ("reconstruction", "cross", SILENT)),
    Metric("ssim_inside", "SSIM in mask", "higher", 3, ("reconstruction", "cross", SILENT)),
    Metric("lpips_inside", "LPIPS in mask", "lower", 3, ("reconstruction", "cross", SILENT)),
    Metric("jitter", "jitter, ‰ of face", "", 2, ("reconstruction", "cross", SILENT)),
    Metric("seam_jump", "seam jump", "", 2, ("reconstruction", "cross", SILENT)),
)


def metrics_of(task: str) -> Iterator[Metric]:
    """What a task is judged by."""
    return (metric for metric in METRICS if task in metric.tasks)


class Scorer:
    """Scores one result after the other."""

    def __init__(
        self, judge: SyncJudge, detector: FaceDetector, cache: FeatureCache, perceptual: PerceptualMap | None = None
    ) -> None:
        self.judge, self.detector, self.cache, self.perceptual = judge, detector, cache, perceptual

    def __call__(self, clip: EvalClip, result: Path) -> dict[str, Any]:
        """Numbers by name; UnscorableError or MediaError where there are none."""
        series = face_series(result, self.detector, self.cache)
        check_lengths(len(series), clip.frame_count)
        scores = self.silent(clip, series) if clip.task == SILENT else self.sync(result)
        if result == clip.speaker:  # another person: lips and pictures have nothing to be compared with
            return scores
        scores |= self.lips(clip, series)
        if clip.truth is not None and result != clip.truth:
            truth = face_series(clip.truth, self.detector, self.cache)
            scores |= compare_pictures(result, clip.truth, truth.matrices, self.perceptual)
        return scores

    def sync(self, result: Path) -> dict[str, Any]:
        found = sync_score(self.judge, result, self.cache)
        return {
            "sync_confidence": found.confidence,
            "sync_distance": found.distance,
            "sync_distance_as_heard": found.distance_as_heard,
            "sync_offset": found.offset_frames,
        }

    def silent(self, clip: EvalClip, series: FaceSeries) -> dict[str, Any]:
        found = silent_mouth(openings(series), openings(self.source(clip, len(series)))).to_dict()
        found["opening"] *= 100
        return {f"silent_{name}": value for name, value in found.items()}

    def lips(self, clip: EvalClip, series: FaceSeries) -> dict[str, Any]:
        truth = None if clip.truth is None else face_series(clip.truth, self.detector, self.cache)
        found = lip_scores(series, truth, self.source(clip, len(series)), clip.true_openings)
        if clip.task == SILENT:  # nothing moves in the truth, so there is no correlation
            found = {name: value for name, value in found.items() if not name.endswith("correlation")}
        return found | {name: 1000 * found[name] for name in ("jitter", "jitter_truth") if name in found}

    def source(self, clip: EvalClip, count: int) -> FaceSeries:
        """The input's face at the moments that the result shows."""
        series = face_series(clip.video, self.detector, self.cache)
        return at_frames(series, bounced(len(series), count))
