"""Stage 8: clips whose pictures are poor are dropped; the others are the training set."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.device import pick_device
from latentsync.files import atomic_write
from latentsync.media.video.read import frames_between
from latentsync.metrics.pictures.sharpness import sharpness
from latentsync.models.hyper_iqa import load_hyper_iqa, quality_frames, quality_inputs
from latentsync.processing.clip import Clip, Kept, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import Writes, judge
from latentsync.processing.stages.sync_judges import FETCH_TRAINING
from latentsync.timebase import MODEL_FPS
from latentsync.weights import CHECKPOINTS

HYPER_IQA_FILE = "koniq_pretrained.pkl"
# HyperIQA's is the published threshold; the stand-in's is explained in `metrics.sharpness`.
MIN_QUALITY: Final = {"hyper_iqa": 40.0, "sharpness": 40.0}

Frames = NDArray[np.uint8]
QualityMetric = Callable[[Frames], float]  # frames [b, h, w, 3] of one video -> its score


@dataclass(frozen=True)
class QualityRule:
    """The score must be high enough."""

    min_quality: float

    def decide(self, scores: Scores) -> Reason | None:
        return Reason.LOW_QUALITY if scores.get("quality", self.min_quality) < self.min_quality else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        return f"The image quality is {scores['quality']:.1f}, {self.min_quality:g} is needed."


class HighVisualQualityStage:
    """Score the first, middle and last frame, and pass the file on as it is. Score: `quality`, the mean of the three."""

    name: Final = "high_visual_quality"
    writes: Final[Writes] = "always"
    needs_gpu: Final = True

    def __init__(self, metric: QualityMetric, min_quality: float) -> None:
        self.metric = metric
        self.rule = QualityRule(min_quality)

    def __call__(self, clip: Clip, folder: Path | None) -> list[StageOutcome]:
        assert folder is not None, "the training set is written"
        scored = clip.scored(quality=round(self.metric(frames_of(clip)), 3))
        outcome = judge(scored, self.rule)
        if not isinstance(outcome, Kept):
            return [outcome]
        path = folder / clip.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            shutil.copyfile(clip.path, partial)
        return [Kept(scored.moved(path))]


def frames_of(clip: Clip) -> Frames:
    """The frames of a clip that are scored, [3, h, w, 3]."""
    first = clip.path_frames[0]
    wanted = [first + index for index in quality_frames(clip.frame_count)]
    return np.stack([next(frames_between(clip.path, MODEL_FPS, each, each + 1)).frame for each in wanted])


def check_weights(metric: str, weights_dir: Path | None = None) -> None:
    """Raises ValueError, naming the file and the way out, if a metric's weights are missing."""
    folder = weights_dir or CHECKPOINTS / "auxiliary"
    if metric == "hyper_iqa" and not (folder / HYPER_IQA_FILE).is_file():
        raise ValueError(
            f"The quality stage needs {HYPER_IQA_FILE} in {folder}: fetch it with `{FETCH_TRAINING}`, or choose the "
            "stand-in without a network with --quality_metric sharpness."
        )


def make_metric(name: str, weights_dir: Path | None = None, device: str | None = None) -> QualityMetric:
    """The metric of a name. Raises ValueError as `check_weights` and if weights are damaged."""
    check_weights(name, weights_dir)
    if name == "sharpness":
        return lambda frames: float(np.mean([sharpness(frame) for frame in frames]))
    where = pick_device(device)
    net = load_hyper_iqa((weights_dir or CHECKPOINTS / "auxiliary") / HYPER_IQA_FILE).to(where)

    @torch.no_grad()
    def score(frames: Frames) -> float:
        return float(net(quality_inputs(torch.from_numpy(frames)).to(where)).mean())

    return score
