"""All metrics of a finished video: what each computes, what it needs, and how a report shows it.

`METRICS` holds scores of one video, `SET_METRICS` distances between two sets of videos. A new one is added in this file
alone (docs/evaluation.md, "Add a metric"). The commands' help lists them, so what imports PyTorch is imported where it is computed.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from eval.clip_sets import CROSS, RECONSTRUCTION, SILENT, TASKS, EvalClip
from eval.networks import HYPER_IQA, lpips_map
from latentsync.face.detection.detector import FaceDetector
from latentsync.files import file_hash, network_hash
from latentsync.media.probe import probe
from latentsync.media.video.read import read_frames
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.lips.face_series import FaceSeries, face_series, warped_faces
from latentsync.metrics.lips.leakage import silent_mouth
from latentsync.metrics.lips.scores import at_frames, bounced, check_lengths, lip_scores, openings
from latentsync.metrics.pictures.compare import compare_pictures
from latentsync.metrics.pictures.set_distances import cmmd, feature_statistics, frechet_distance
from latentsync.metrics.pictures.visible import MEASURES, visible_scores
from latentsync.weights import VGG_FILE, load_torchscript

if TYPE_CHECKING:
    import torch

    from latentsync.metrics.sync.judge import SyncJudge
    from latentsync.models.hyper_iqa import HyperIQA

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Weights:
    """The file of a metric's network."""

    load: Callable[[Path, "torch.device"], Any]
    default: Path | None = None
    option: str = ""  # of eval_quality, where the file can be chosen
    what: str = ""  # the option's help

    def path(self, args: argparse.Namespace) -> Path:
        """The file to load; ValueError if none was given."""
        path = getattr(args, self.option, None) or self.default
        if path is None:
            raise ValueError(f"no --{self.option} was given ({self.what})")
        return path


@dataclass(frozen=True)
class LoadedNetwork:
    """A metric's network and a hash of its weights."""

    network: Any
    fingerprint: str


def load_network(weights: Weights, args: argparse.Namespace, device: "torch.device") -> LoadedNetwork:
    """Raises ValueError (CheckpointError among them) if the file is missing or does not fit."""
    import torch
    from torch import nn

    path = weights.path(args)
    network = weights.load(path, device)
    is_plain = isinstance(network, nn.Module) and not isinstance(network, torch.jit.ScriptModule)
    return LoadedNetwork(network, network_hash(network) if is_plain else file_hash(path))


@dataclass(frozen=True)
class Tools:
    """Detector, cache and networks of the metrics; a metric whose network is not in `networks` is left out of a report."""

    detector: FaceDetector
    cache: FeatureCache
    judge: "SyncJudge | None" = None
    networks: Mapping[str, LoadedNetwork] = field(default_factory=dict)  # by the metric's name

    def network(self, name: str) -> Any:
        return self.networks[name].network if name in self.networks else None


@dataclass(frozen=True)
class Sample:
    """A video to score, with its truth and source. Features that several metrics use are computed once."""

    tools: Tools
    video: Path
    truth: Path | None = None  # the true video
    source: Path | None = None  # the input that it was made from
    task: str = RECONSTRUCTION
    true_openings: NDArray[np.float64] | None = None  # [t], where they are known exactly

    def has(self, need: str) -> bool:
        """Whether the sample has what a metric needs; the true video is not compared with itself."""
        return {"": True, "source": self.source is not None, "truth": self.truth not in (None, self.video)}[need]

    @cached_property
    def face(self) -> FaceSeries:
        return face_series(self.video, self.tools.detector, self.tools.cache)

    @cached_property
    def true_face(self) -> FaceSeries | None:
        return face_series(self.truth, self.tools.detector, self.tools.cache) if self.truth else None

    @cached_property
    def source_frames(self) -> NDArray[np.int64]:
        """The frame of the input that each frame of the result shows: a short input is played back and forth."""
        return bounced(len(self.whole_source_face), len(self.face))

    @cached_property
    def whole_source_face(self) -> FaceSeries:
        assert self.source is not None
        return face_series(self.source, self.tools.detector, self.tools.cache)

    @cached_property
    def source_face(self) -> FaceSeries:
        """The face of the input at the frames that the result shows."""
        return at_frames(self.whole_source_face, self.source_frames)

    @cached_property
    def lips(self) -> dict[str, Any]:
        return lip_scores(self.face, self.true_face, self.source_face, self.true_openings)

    @cached_property
    def pictures(self) -> dict[str, float]:
        assert self.truth is not None and self.true_face is not None
        return compare_pictures(self.video, self.truth, self.true_face.matrices, self.tools.network("lpips"))

    @cached_property
    def visible(self) -> dict[str, float]:
        """What the eye finds beside the true video, or else the input; nothing for another frame size."""
        assert self.source is not None
        known, has_truth = self.source_face.matrices, self.has("truth")
        reference = self.truth if has_truth and self.truth else self.source
        if probe(self.video).square_size != probe(reference).square_size:
            return {}
        output = warped_faces(self.video, known)
        if has_truth:
            wanted = warped_faces(reference, known)
        else:
            whole = warped_faces(reference, self.whole_source_face.matrices[: self.source_frames.max() + 1])
            wanted = [whole[frame] for frame in self.source_frames]
        pairs = [(a, b) for a, b in zip(output, wanted, strict=False) if a is not None and b is not None]
        if not pairs:
            return {}
        return visible_scores(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]), has_truth)


@dataclass(frozen=True)
class Column:
    """A score in a report's tables."""

    name: str  # key in `report.json`
    label: str
    better: Literal["higher", "lower", ""] = ""  # empty if neither direction is better
    digits: int = 2
    chart: bool = False
    tasks: tuple[str, ...] = ()  # only in these; empty: wherever its metric is computed
    note: str = ""  # an explanation below the report's tables, one sentence without full stop


@dataclass(frozen=True)
class Metric:
    """Scores of one video."""

    name: str
    compute: Callable[[Sample], Scores]
    columns: tuple[Column, ...] = ()  # in a report; without any the metric is not computed there
    needs: Literal["", "source", "truth"] = ""
    tasks: tuple[str, ...] = TASKS  # of a report's clips
    weights: Weights | None = None
    in_quality: bool = False  # whether eval_quality computes it too, which has no source and no sync judge


def sync(sample: Sample) -> Scores:
    from latentsync.metrics.sync.judge import sync_score

    assert sample.tools.judge is not None
    found = sync_score(sample.tools.judge, sample.video, sample.tools.cache)
    return {
        "sync_confidence": found.confidence,
        "sync_distance": found.distance,
        "sync_distance_as_heard": found.distance_as_heard,
        "sync_offset": found.offset_frames,
    }


def lips(sample: Sample) -> Scores:
    """Similarity to the true lips and to those of the source; no correlation under silence, where the true lips do not move."""
    names = ("aperture_correlation", "source_correlation", "landmark_distance")
    kept = names[2:] if sample.task == SILENT else names
    return {name: sample.lips[name] for name in kept if name in sample.lips}


def silence(sample: Sample) -> Scores:
    """The mouth under silence, its opening in percent of the face's height."""
    found = silent_mouth(openings(sample.face), openings(sample.source_face)).to_dict()
    found["opening"] *= 100
    return {f"silent_{name}": value for name, value in found.items()}


def steadiness(sample: Sample) -> Scores:
    """Jitter in thousandths of the face's height, jump at window borders, share of frames with a face."""
    found = {name: sample.lips[name] for name in ("face_share", "seam_jump") if name in sample.lips}
    return found | {name: 1000 * sample.lips[name] for name in ("jitter", "jitter_truth") if name in sample.lips}


def psnr_ssim(sample: Sample) -> Scores:
    return {name: value for name, value in sample.pictures.items() if not name.startswith("lpips")}


def lpips(sample: Sample) -> Scores:
    return {name: value for name, value in sample.pictures.items() if name.startswith("lpips")}


def visible(sample: Sample) -> Scores:
    """What the eye finds at the border of the repainted region and in it."""
    return sample.visible


def hyper_iqa(sample: Sample) -> Scores:
    """Mean quality of the first, the middle and the last frame."""
    loaded = sample.tools.networks["hyper_iqa"]
    key = ("hyper_iqa", file_hash(sample.video), loaded.fingerprint)
    stored = sample.tools.cache.get(key, lambda: {"scores": quality_scores(loaded.network, sample.video)})
    return {"hyper_iqa": float(stored["scores"].mean())}


def load_quality(path: Path, device: "torch.device") -> "HyperIQA":
    from latentsync.models.hyper_iqa import load_hyper_iqa

    return load_hyper_iqa(path).to(device)


def quality_scores(network: "HyperIQA", video: Path) -> np.ndarray:
    """HyperIQA [3] of three frames, one at a time."""
    import torch

    from latentsync.models.hyper_iqa import quality_frames, quality_inputs

    wanted = quality_frames(sum(1 for _ in read_frames(video)))
    chosen = {index: shown.frame for index, shown in enumerate(read_frames(video)) if index in wanted}
    parameter = next(network.parameters())
    inputs = quality_inputs(torch.from_numpy(np.stack([chosen[index] for index in wanted]))).to(parameter)
    with torch.no_grad():
        return torch.cat([network(each[None]) for each in inputs]).cpu().numpy()


METRICS: tuple[Metric, ...] = (
    Metric(
        "sync",
        sync,
        tasks=(RECONSTRUCTION, CROSS),
        columns=(
            Column("sync_confidence", "sync confidence", "higher", chart=True),
            Column("sync_distance", "sync distance", "lower"),
            Column("sync_distance_as_heard", "sync distance as heard", "lower", chart=True),
            Column("sync_offset", "offset, frames", "", 1),
        ),
    ),
    Metric(
        "lips",
        lips,
        needs="source",
        columns=(
            Column("aperture_correlation", "lip opening against truth", "higher", chart=True),
            Column("source_correlation", "lip opening against source", chart=True, tasks=(CROSS,)),
            Column("landmark_distance", "landmark distance", "lower", 3, tasks=(RECONSTRUCTION, CROSS)),
        ),
    ),
    Metric(
        "silence",
        silence,
        needs="source",
        tasks=(SILENT,),
        columns=(
            Column("silent_movement_kept", "movement kept", "lower", chart=True),
            Column("silent_opening", "opening, % of face", "lower"),
        ),
    ),
    Metric(
        "psnr_ssim",
        psnr_ssim,
        needs="truth",
        in_quality=True,
        columns=(
            Column("psnr_inside", "PSNR in mask, dB", "higher", 1, chart=True),
            Column("psnr_ring", "PSNR on ring, dB", "higher", 1),
            Column("psnr_outside", "PSNR outside, dB", "higher", 1),
            Column("ssim_inside", "SSIM in mask", "higher", 3, chart=True),
        ),
    ),
    Metric(
        "lpips",
        lpips,
        needs="truth",
        in_quality=True,
        weights=Weights(lambda path, device: lpips_map(device), VGG_FILE),
        columns=(Column("lpips_inside", "LPIPS in mask", "lower", 3),),
    ),
    Metric(
        "visible",
        visible,
        needs="source",
        columns=tuple(
            Column(each.name, each.label, "" if each.low else "lower", each.digits, note=each.note) for each in MEASURES
        ),
    ),
    Metric(
        "steadiness",
        steadiness,
        needs="source",
        columns=(Column("jitter", "jitter, ‰ of face"), Column("seam_jump", "seam jump", chart=True)),
    ),
    Metric(
        "hyper_iqa",
        hyper_iqa,
        in_quality=True,
        weights=Weights(load_quality, HYPER_IQA, "hyper_iqa", "HyperIQA's weights"),
    ),
)


def report_metrics() -> list[Metric]:
    """The metrics of a report, in the order of its columns."""
    return [metric for metric in METRICS if metric.columns]


def quality_metrics() -> dict[str, "Metric | SetMetric"]:
    """The metrics of eval_quality by name."""
    of_videos = {metric.name: metric for metric in METRICS if metric.in_quality}
    return {**of_videos, **{metric.name: metric for metric in SET_METRICS}}


def columns_of(task: str) -> Iterator[Column]:
    """The columns of a task's table, in order."""
    for metric in METRICS:
        if task in metric.tasks:
            yield from (column for column in metric.columns if not column.tasks or task in column.tasks)


def larger_is_better(column_name: str) -> bool:
    """The direction of a score that has a column."""
    return next(c.better == "higher" for metric in METRICS for c in metric.columns if c.name == column_name)


def score_clip(clip: EvalClip, video: Path, tools: Tools) -> dict[str, float]:
    """All scores of a report for one result.

    For `cross` clips of real people the result can be the video of the audio's speaker, in place of a true video. It shows another
    person, so only metrics that need neither truth nor source are computed.

    Raises:
        UnscorableError: the result has another length than the truth, or shows no face.
        MediaError: it cannot be read.
    """
    sample = Sample(tools, video, task=clip.task)
    if video != clip.speaker:
        sample = Sample(tools, video, clip.truth, clip.video, clip.task, clip.true_openings)
    check_lengths(len(sample.face), clip.frame_count)
    scores: dict[str, float] = {}
    for metric in report_metrics():
        is_loaded = metric.weights is None or metric.name in tools.networks
        if clip.task in metric.tasks and sample.has(metric.needs) and is_loaded:
            scores |= metric.compute(sample)
    return scores


@dataclass(frozen=True)
class SetMetric:
    """A distance between the pictures of all results and those of all true videos, computed by eval_quality."""

    name: str
    features: Callable[[Any, NDArray[np.uint8]], NDArray[np.float64]]  # (network, frames [b, h, w, 3]) -> [b, d]
    distance: Callable[[NDArray[np.float64], NDArray[np.float64]], float]
    weights: Weights
    few_pictures: int = 0  # below which a note is added
    needs: Literal["truth"] = "truth"


def fid_features(network: Any, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    from latentsync.metrics.pictures.set_features import inception_features

    return inception_features(network, frames)


def cmmd_features(network: Any, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    from latentsync.metrics.pictures.set_features import clip_features

    return clip_features(network, frames)


SET_METRICS: tuple[SetMetric, ...] = (
    SetMetric(
        "fid",
        fid_features,
        lambda first, second: frechet_distance(feature_statistics(first), feature_statistics(second)),
        Weights(
            lambda path, _: load_torchscript(path),
            option="inception",
            what="a TorchScript Inception for FID, such as inception-2015-12-05.pt",
        ),
        few_pictures=2048,
    ),
    SetMetric(
        "cmmd",
        cmmd_features,
        cmmd,
        Weights(
            lambda path, _: load_torchscript(path),
            option="clip",
            what="a TorchScript CLIP image encoder for CMMD, see docs/evaluation.md",
        ),
    ),
)


def set_distances(
    metrics: Iterable[SetMetric], tools: Tools, videos: Sequence[Path], truth: Sequence[Path]
) -> dict[str, Any]:
    """Distances between two sets of videos, and how many pictures each set has."""
    found: dict[str, Any] = {}
    for metric in metrics:
        groups = [np.concatenate([_features(metric, tools, v) for v in group]) for group in (videos, truth)]
        found[metric.name] = metric.distance(*groups)
        found[f"{metric.name}_pictures"] = [len(each) for each in groups]
        if min(found[f"{metric.name}_pictures"]) < metric.few_pictures:
            found["note"] = (
                f"{metric.name.upper()} of fewer than {metric.few_pictures} pictures depends mostly on their number."
            )
    return found


def _features(metric: SetMetric, tools: Tools, video: Path) -> NDArray[np.float64]:
    from latentsync.metrics.pictures.set_features import spread_frames

    loaded = tools.networks[metric.name]
    key = (metric.name, loaded.fingerprint, file_hash(video))
    return np.asarray(
        tools.cache.get(key, lambda: {"features": metric.features(loaded.network, spread_frames(video))})["features"]
    )
