"""The steps of a report: every system processes every clip, the results are scored, and some are shown as pictures."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.clip_sets import EvalClip
from eval.metrics import Tools, score_clip
from eval.report_media import shot_frames, side_by_side, strip
from eval.rows import ScoreRow, make_row
from eval.systems import Made, System, kept
from latentsync.face.detection.detector import FaceDetector
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.lips.face_series import face_series
from latentsync.metrics.lips.scores import openings
from latentsync.metrics.statistics import reason_of
from latentsync.timebase import MODEL_FPS


@dataclass
class SystemOutcome:
    """The result of one system for one clip."""

    system: str
    clip: EvalClip
    result: Path | None = None
    made: Made = field(default_factory=Made)
    row: ScoreRow = field(default_factory=lambda: ScoreRow(""))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        row = self.row.to_dict()
        row.pop("video")
        row.pop("detail", None)  # contains paths of this machine
        work = {"seconds": self.made.seconds, "frames": self.clip.frame_count}
        return {"clip": self.clip.name, "task": self.clip.task, "system": self.system, **work, **_rounded(row)}


def run_all(systems: Sequence[System], clips: Sequence[EvalClip], work: Path) -> list[SystemOutcome]:
    """Run every system on every clip; a failure is recorded as an outcome, and the next clip follows."""
    outcomes = []
    for index, system in enumerate(systems):
        for clip in clips:
            outcome = SystemOutcome(system.name, clip)
            try:
                outcome.result, outcome.made = kept(system, clip, work / f"{index:02d}_{_plain(system.name)}")
            except (ValueError, OSError) as error:
                outcome.row = ScoreRow(clip.name, reason=reason_of(error), detail=str(error))
                print(f"{system.name}, {clip.name}, {clip.task}: {error}", file=sys.stderr)
            outcomes.append(outcome)
            print(f"{system.name}: {clip.name}, {clip.task}", file=sys.stderr, flush=True)
    return outcomes


def score_all(outcomes: Sequence[SystemOutcome], tools: Tools) -> None:
    """Score all outcomes that have a result."""
    for outcome in outcomes:
        result, clip = outcome.result, outcome.clip
        if result is not None:
            outcome.row = make_row(clip.name, lambda result=result, clip=clip: score_clip(clip, result, tools))  # type: ignore[misc]
            if outcome.row.reason:
                print(f"{outcome.system}, {clip.name}, {clip.task}: {outcome.row.detail}", file=sys.stderr)


def add_pictures(
    outcomes: Sequence[SystemOutcome], detector: FaceDetector, cache: FeatureCache, out: Path, shown: int
) -> dict[str, Any]:
    """Strips, curves and videos of the first `shown` clips per task; videos are written under `out`."""
    (out / "videos").mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Any] = {}
    for task in dict.fromkeys(outcome.clip.task for outcome in outcomes):
        of_task = [outcome for outcome in outcomes if outcome.clip.task == task]
        for name in list(dict.fromkeys(outcome.clip.name for outcome in of_task))[:shown]:
            good = {o.system: o for o in of_task if o.clip.name == name and o.result is not None and not o.row.reason}
            if good:
                _show(pictures.setdefault(task, {}), name, good, detector, cache, out)
    return pictures


def _show(
    place: dict[str, Any],
    name: str,
    good: dict[str, SystemOutcome],
    detector: FaceDetector,
    cache: FeatureCache,
    out: Path,
) -> None:
    """Add the pictures of one clip to those of its task."""
    results = {system: outcome.result for system, outcome in good.items() if outcome.result is not None}
    series = {system: face_series(result, detector, cache) for system, result in results.items()}
    clip = next(iter(good.values())).clip
    shots = shot_frames(min(len(each) for each in series.values()))
    strips = {system: strip(results[system], series[system], shots) for system in results}
    moments = ", ".join(f"{shot / MODEL_FPS:.2f}" for shot in shots)
    place.setdefault("strips", {})[f"{name} at {moments} s"] = strips
    video = f"videos/{clip.task}_{name}.mp4"
    side_by_side(results, clip, out / video)
    place.setdefault("videos", []).append(video)
    if "curves" not in place and clip.task != "silent":
        place |= {"curves": {s: _unit_range(openings(each)) for s, each in series.items()}, "curves_of": name}


def _unit_range(values: NDArray[np.floating]) -> NDArray[np.floating]:
    low, high = np.nanmin(values), np.nanmax(values)
    return (values - low) / max(high - low, 1e-6)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
