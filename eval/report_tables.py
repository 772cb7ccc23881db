"""The numbers of a report besides its scores: success, speed, memory, and checks of the order of systems."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.metrics import larger_is_better
from eval.report_outcomes import SystemOutcome
from eval.rows import failures
from latentsync.timebase import MODEL_FPS

TRUTH, COPY = "ground truth", "copy of input"
RANKED = {
    "sync_distance_as_heard": "sync distance",
    "aperture_correlation": "lip opening",
}  # score -> its label
TOO_GOOD = {"sync_confidence": "sync confidence", "sync_distance": "sync distance"}


def totals(outcomes: Sequence[SystemOutcome]) -> dict[str, Any]:
    """Totals of one system over all tasks."""
    timed = [outcome for outcome in outcomes if outcome.made.seconds is not None]
    seconds = sum(outcome.made.seconds or 0 for outcome in timed)
    video_sec = sum(outcome.clip.frame_count for outcome in timed) / MODEL_FPS
    memory = [outcome.made.peak_mb for outcome in outcomes if outcome.made.peak_mb is not None]
    return {
        "clips": len(outcomes),
        "scored": sum(not outcome.row.reason for outcome in outcomes),
        "failures": failures([outcome.row for outcome in outcomes]),
        "seconds_per_second": seconds / video_sec if timed else None,
        "peak_mb": float(np.max(memory)) if memory else None,
    }


def checks(cross: Mapping[str, Any], systems: Sequence[str]) -> list[dict[str, Any]]:
    """Whether under other audio the truth beats each system, and each system beats the copy of the input."""
    found = []
    for name in systems:
        for better, worse in ((TRUTH, name), (name, COPY)):
            for metric, label in RANKED.items():
                values = [cross.get(each, {}).get("scores", {}).get(metric) for each in (better, worse)]
                if None in values:
                    continue
                first, second = (value["mean"] for value in values)
                holds = first > second if larger_is_better(metric) else first < second
                what = f"{better.capitalize()} beats {worse} under other audio, {label}: {first:.2f} and {second:.2f}"
                found.append({"what": what, "holds": bool(holds)})
    return found


def warnings(results: Mapping[str, Mapping[str, Any]], systems: Sequence[str]) -> list[str]:
    """Warnings about scores that are better than those of real videos."""
    found = []
    for task, rows in results.items():
        for name in [each for each in systems if each not in (TRUTH, COPY)]:
            for metric, label in TOO_GOOD.items():
                values = [rows.get(each, {}).get("scores", {}).get(metric) for each in (name, TRUTH)]
                if None in values:
                    continue
                score, real = (value["mean"] for value in values)
                if score > real if larger_is_better(metric) else score < real:
                    text = f"{name}, {task}: {label} {score:.2f} is better than that of true videos, {real:.2f}:"
                    found.append(f"{text} the lips are exaggerated, or were trained against this judge.")
    return found
