"""Stage 8: clips of low image quality are dropped; the others are the training set."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from latentsync.files import atomic_write
from latentsync.media.video.read import frames_between
from latentsync.metrics.pictures.sharpness import sharpness
from latentsync.processing.clip import Clip, Kept, Reason, Scores, StageOutcome
from latentsync.processing.stages.contract import FETCH_TRAINING, Measure, NetworkSettings, Stage, check_choice
from latentsync.timebase import MODEL_FPS

LOW_QUALITY = "low_quality"
HYPER_IQA_FILE = "koniq_pretrained.pkl"
QUALITY_METRICS = ("hyper_iqa", "sharpness")
# The threshold of each metric: HyperIQA's is the published one; for the stand-in see `metrics.pictures.sharpness`.
MIN_QUALITY: Final = {"hyper_iqa": 40.0, "sharpness": 40.0}

Frames = NDArray[np.uint8]
QualityMetric = Callable[[Frames], float]  # frames [b, h, w, 3], uint8, of one video -> its score


@dataclass
class QualitySettings(NetworkSettings):
    """The metric of image quality, and its threshold."""

    needs_new_run: ClassVar[tuple[str, ...]] = ("quality_metric",)
    quality_metric: str = "hyper_iqa"
    min_quality: float | None = None  # None: the metric's own

    def check(self) -> None:
        check_choice("quality_metric", self.quality_metric, QUALITY_METRICS)


@dataclass(frozen=True)
class QualityRule:
    """The score must be high enough."""

    min_quality: float

    def decide(self, scores: Scores) -> Reason | None:
        return LOW_QUALITY if scores.get("quality", self.min_quality) < self.min_quality else None

    def explain(self, reason: Reason, scores: Scores) -> str:
        return f"The image quality is {scores['quality']:.1f}; {self.min_quality:g} is needed."


class HighVisualQualityStage(Stage[QualitySettings]):
    """Score the first, middle and last frame and copy the file. Score: `quality`, the mean of the three."""

    name = "high_visual_quality"
    keeps = "pictures good enough"
    reasons = (LOW_QUALITY,)
    settings_type = QualitySettings
    writes = "always"
    needs_gpu = True

    def __init__(self, settings: QualitySettings) -> None:
        super().__init__(settings)
        self.metric = make_metric(settings)

    @classmethod
    def make_rule(cls, settings: QualitySettings) -> QualityRule:
        own = MIN_QUALITY[settings.quality_metric]
        return QualityRule(own if settings.min_quality is None else settings.min_quality)

    @classmethod
    def measures(cls, settings: QualitySettings) -> list[Measure]:
        bound = cls.make_rule(settings).min_quality
        return [Measure("quality", cls.name, "Image quality", "", at_least=bound)]

    @classmethod
    def networks(cls, settings: QualitySettings) -> str:
        return f"quality {settings.quality_metric}"

    @classmethod
    def check_installed(cls, settings: QualitySettings) -> None:
        from latentsync.device import pick_device

        pick_device(settings.device)
        check_weights(settings)

    def __call__(self, clip: Clip, folder: Path | None) -> list[StageOutcome]:
        assert folder is not None, "the training clips are written"
        scored = clip.scored(quality=round(self.metric(frames_of(clip)), 3))
        outcome = self.judge(scored)
        if not isinstance(outcome, Kept):
            return [outcome]
        path = folder / clip.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            shutil.copyfile(clip.path, partial)
        return [Kept(scored.moved(path))]


def frames_of(clip: Clip) -> Frames:
    """The frames of a clip that are scored, [3, h, w, 3]."""
    from latentsync.models.hyper_iqa import quality_frames  # imports PyTorch, as below

    first = clip.path_frames[0]
    wanted = [first + index for index in quality_frames(clip.frame_count)]
    return np.stack([next(frames_between(clip.path, MODEL_FPS, each, each + 1)).frame for each in wanted])


def check_weights(settings: QualitySettings) -> None:
    """Raises ValueError, naming the file and a remedy, if the metric's weights are missing."""
    if settings.quality_metric == "hyper_iqa" and not (settings.weights_folder / HYPER_IQA_FILE).is_file():
        raise ValueError(
            f"The quality stage needs {HYPER_IQA_FILE} in {settings.weights_folder}: fetch it with `{FETCH_TRAINING}`, or "
            "choose the stand-in without a network with --quality_metric sharpness."
        )


def make_metric(settings: QualitySettings) -> QualityMetric:
    """The metric of the settings. Raises ValueError if its weights are missing or damaged."""
    check_weights(settings)
    if settings.quality_metric == "sharpness":
        return lambda frames: float(np.mean([sharpness(frame) for frame in frames]))
    import torch

    from latentsync.device import pick_device
    from latentsync.models.hyper_iqa import load_hyper_iqa, quality_inputs

    device = pick_device(settings.device)
    net = load_hyper_iqa(settings.weights_folder / HYPER_IQA_FILE).to(device)

    @torch.no_grad()
    def score(frames: Frames) -> float:
        return float(net(quality_inputs(torch.from_numpy(frames)).to(device)).mean())

    return score
