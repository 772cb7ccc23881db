"""How long jobs take on this machine: speeds measured on finished jobs, and what they mean for another one.

The time of a frame is modelled as a constant and a part for each call of the U-Net, of which presets make more or fewer.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from latentsync.files import atomic_write
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.timing import DETECT, GENERATE

FEWEST_FRAMES = 16  # edited frames of a job that is worth measuring
USUAL_SHARE = 0.2  # of the search for faces in a job, where nothing was measured


@dataclass(frozen=True)
class Speed:
    """Seconds of one frame: to find its faces, to generate it without the U-Net, and of each call of the U-Net."""

    detect_sec: float
    frame_sec: float
    call_sec: float

    def generate_sec(self, settings: Mapping[str, Any]) -> float:
        """Seconds to generate a frame with fields of `InferenceSettings`."""
        return self.frame_sec + self.call_sec * calls(settings)

    def detect_share(self, settings: Mapping[str, Any]) -> float:
        """The part of a job's time, 0 to 1, in which faces are searched."""
        return self.detect_sec / max(1e-9, self.detect_sec + self.generate_sec(settings))


class Speeds:
    """The newest speed of each model, kept in a file."""

    def __init__(self, path: Path):
        self.path, self._lock = path, Lock()
        self._known = read_speeds(path)

    def of(self, model: str) -> Speed | None:
        """The speed of a model on this machine; None: not measured."""
        return self._known.get(model)

    def learn(self, model: str, report: Mapping[str, Any]) -> None:
        """Measure a finished job, by its report as the app keeps it; jobs that tell nothing are passed over."""
        speed = measured(report)
        if speed is None:
            return
        with self._lock, suppress(OSError):  # the job is done all the same
            self._known[model] = speed
            with atomic_write(self.path) as partial:
                partial.write_text(json.dumps({name: asdict(each) for name, each in self._known.items()}), "utf-8")

    def estimate(self, model: str, check: Mapping[str, Any], settings: Mapping[str, Any]) -> float | None:
        """Seconds that a run would take by the report of a check of its files; None: unknown."""
        speed, edited = self.of(model), check.get("frames_to_edit")
        if speed is None or edited is None:
            return None
        detect_sec = check.get("stage_sec", {}).get(DETECT, speed.detect_sec * check["frames"])
        return float(detect_sec) + edited * speed.generate_sec(settings)


def measured(report: Mapping[str, Any]) -> Speed | None:
    """The speed of a finished job; None if it edited too few frames, went on from an earlier one, or skipped layers."""
    stages, settings, edited = report.get("stage_sec", {}), report["settings"], report.get("synced_frames", 0)
    if edited < FEWEST_FRAMES or GENERATE not in stages or DETECT not in stages or settings["deepcache_interval"] != 1:
        return None
    sample_sec = min(stages[GENERATE], report["timings_sec"].get("sample", 0.0))
    return Speed(
        stages[DETECT] / report["frames"],
        (stages[GENERATE] - sample_sec) / edited,
        sample_sec / edited / calls(settings),
    )


def calls(settings: Mapping[str, Any]) -> float:
    """Calls of the U-Net for a frame by fields of `InferenceSettings`: a step with guidance makes two."""
    chosen = InferenceSettings().changed(settings)
    start, stop = chosen.guidance_interval
    return chosen.steps * (1 + (stop - start) * (chosen.guidance_scale != 1))


def read_speeds(path: Path) -> dict[str, Speed]:
    """The speeds of a file; none if it is missing or damaged."""
    try:
        return {name: Speed(**each) for name, each in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
