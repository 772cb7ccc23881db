"""The log of a run: JSON lines, and a tracker (see `trackers`). Errors in logging never stop the training."""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from latentsync.files import atomic_write
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.trackers import Tracker, check_tracker, open_tracker

log = logging.getLogger(__name__)
DIGITS = 6


class RunLog:
    """`log.jsonl` (losses) and `validation.jsonl` in the run folder, and a tracker; only the first process writes."""

    def __init__(self, folder: Path, enabled: bool, tracker: str = "tensorboard"):
        """ValueError if the tracker's package is missing."""
        check_tracker(tracker)
        self.folder, self.enabled, self.tracker_name = folder, enabled, tracker
        self._tracker: Tracker | None = None

    def open(self, step: int, settings: Mapping[str, Any]) -> None:
        """Start the log of a run with these settings, or continue it at `step`."""
        if not self.enabled:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cut(step)
        self.guarded(f"opening {self.tracker_name}", lambda: self._open_tracker(settings))

    def cut(self, step: int) -> None:
        """Remove rows after `step`; a resumed or rolled back run writes them again."""
        for name in ("log.jsonl", "validation.jsonl"):
            self.guarded(f"reading {name}", lambda name=name: cut_rows(self.folder / name, step))  # type: ignore[misc]

    def close(self) -> None:
        if self._tracker is not None:
            self.guarded(f"closing {self.tracker_name}", self._tracker.close)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row of losses."""
        self._append("log.jsonl", row, "train")

    def write_validation(self, row: Mapping[str, Any]) -> None:
        """Append a row of validation measures; the tracker shows its videos too."""
        self._append("validation.jsonl", row, "validation")
        for path in sorted(validation_videos(self.folder, row["step"]).glob("*.mp4")) if self._tracker else ():
            self.guarded(f"showing {path.name}", lambda path=path: self._show(path, row["step"]))  # type: ignore[misc]

    def has_validation(self, step: int) -> bool:
        """Whether the validation of a step is recorded."""
        path = self.folder / "validation.jsonl"
        return path.exists() and any(row_step(line) == step for line in path.read_text(encoding="utf-8").splitlines())

    def guarded(self, what: str, act: Callable[[], Any]) -> None:
        """Call `act` on the first process; its exceptions are logged, not raised."""
        if self.enabled:
            try:
                act()
            except Exception as error:
                log.warning("%s failed: %s", what, error)

    def _append(self, name: str, row: Mapping[str, Any], group: str) -> None:
        def append() -> None:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps({key: rounded(value) for key, value in row.items()}) + "\n")
            if self._tracker is not None:
                self._tracker.log({f"{group}/{key}": row[key] for key in row if key != "step"}, row["step"])

        self.guarded(f"writing {name}", append)

    def _open_tracker(self, settings: Mapping[str, Any]) -> None:
        self._tracker = open_tracker(self.tracker_name, self.folder, settings)

    def _show(self, path: Path, step: int) -> None:
        assert self._tracker is not None
        self._tracker.log_video(f"validation/{path.stem}", path, step)


def validation_videos(folder: Path, step: int) -> Path:
    """The folder of the videos of a validation, in that of its run."""
    return folder / "validation" / f"step-{step:08d}"


def rounded(value: Any) -> Any:
    """A float rounded to six significant digits, None if it is not finite, which JSON cannot express; other values unchanged."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def cut_rows(path: Path, step: int) -> None:
    """Keep the complete rows of a JSON-lines file up to `step`."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if row_step(line) is not None and row_step(line) <= step]  # type: ignore[operator]
    if kept != lines:
        with atomic_write(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def row_step(line: str) -> int | None:
    """The step of a row; None for an incomplete row, left by a killed process."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


class Meter:
    """Mean losses over steps and processes, and seconds per step, since the last log row."""

    def __init__(self, processes: Processes, step: int):
        self.processes = processes
        self.reset(step)

    def reset(self, step: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.since, self.started = step, time.monotonic()

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss.detach().float()

    def means(self, step: int) -> dict[str, float]:
        """Means by name and `seconds_per_step`; resets the meter. All processes call it."""
        done = max(1, step - self.since)
        means = {name: float(value) / done for name, value in self.processes.mean(self.sums).items()}
        rate = (time.monotonic() - self.started) / done
        self.reset(step)
        return {**means, "seconds_per_step": rate}
