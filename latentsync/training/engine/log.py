"""What a run writes down while it trains: JSON lines and, where the package is there, TensorBoard. None of it may end the run."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from latentsync.files import atomic_write
from latentsync.training.engine.distributed import Processes

log = logging.getLogger("latentsync.training")
DIGITS = 6


class RunLog:
    """`log.jsonl` (losses), `validation.jsonl` and `tensorboard/` in the run's folder, written by the first process only."""

    def __init__(self, folder: Path, enabled: bool):
        self.folder, self.enabled = folder, enabled
        self._board: Any = None

    def open(self, step: int) -> None:
        """Begin or go on at `step`."""
        if not self.enabled:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cut(step)
        self.guarded("opening TensorBoard", self._open_board)

    def cut(self, step: int) -> None:
        """Take out the rows after `step`, which a run that was stopped or rolled back will write again."""
        for name in ("log.jsonl", "validation.jsonl"):
            self.guarded(f"reading {name}", lambda name=name: cut_rows(self.folder / name, step))  # type: ignore[misc]

    def close(self) -> None:
        if self._board is not None:
            self.guarded("closing TensorBoard", self._board.close)

    def write(self, row: Mapping[str, Any]) -> None:
        """A row of losses."""
        self._append("log.jsonl", row, "train")

    def write_validation(self, row: Mapping[str, Any]) -> None:
        """A row of the validation."""
        self._append("validation.jsonl", row, "validation")

    def warn(self, message: str) -> None:
        """Tell a person."""
        if self.enabled:
            log.warning(message)

    def guarded(self, what: str, do: Callable[[], Any]) -> None:
        """Do something that must not end the training."""
        if self.enabled:
            try:
                do()
            except Exception as error:
                log.warning("%s failed and was left out: %s", what, error)

    def _append(self, name: str, row: Mapping[str, Any], group: str) -> None:
        def append() -> None:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps({key: rounded(value) for key, value in row.items()}) + "\n")
            for key, value in row.items() if self._board else ():
                if key != "step":
                    self._board.add_scalar(f"{group}/{key}", value, row["step"])

        self.guarded(f"writing {name}", append)

    def _open_board(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional
        except ImportError:
            return
        self._board = SummaryWriter(str(self.folder / "tensorboard"))


def rounded(value: Any) -> Any:
    """A number with six significant digits."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def cut_rows(path: Path, step: int) -> None:
    """Keep the whole rows of a JSON-lines file up to `step`."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if row_step(line) is not None and row_step(line) <= step]  # type: ignore[operator]
    if kept != lines:
        with atomic_write(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def row_step(line: str) -> int | None:
    """The step of a row, or None for half a row, as a kill leaves it."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


# Means of what a run's steps say, between two rows of its log.
class Meter:
    """Means of the losses since the last row, over steps and processes, and the seconds a step took."""

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
        """Means by name, and `seconds_per_step`; then it starts anew. All processes call it."""
        done = max(1, step - self.since)
        means = {name: float(value) / done for name, value in self.processes.mean(self.sums).items()}
        rate = (time.monotonic() - self.started) / done
        self.reset(step)
        return {**means, "seconds_per_step": rate}
