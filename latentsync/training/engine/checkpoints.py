"""Checkpoints on disk: one folder each, written atomically; the last few and the best one are kept."""

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from latentsync.files import PARTIAL, atomic_write, partial_path
from latentsync.system import replace_file
from latentsync.weights import CheckpointError, read_state, save_state

STATE, WEIGHTS, BEST = "state.pt", "weights.safetensors", "best.json"
NAME = re.compile(r"step-(\d{8,})")
OWN_FILES = (STATE, WEIGHTS)  # only these and their `.partial` forms are ever deleted
log = logging.getLogger(__name__)


class CannotSaveError(ValueError):
    """A checkpoint could not be written; earlier ones are kept."""


class Checkpoints:
    """The folder `checkpoints` of a run; the last `keep` checkpoints and the best one are kept."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def has(self, step: int) -> bool:
        return (self.path(step) / STATE).is_file()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        names = (NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted(step for step in (int(name[1]) for name in names if name) if self.has(step))

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """(path, state) of the newest readable checkpoint, or None; damaged ones are logged and not deleted.

        Raises:
            CheckpointError: there are checkpoints, but none is readable.
        """
        damaged = None
        for step in reversed(self.steps()):
            try:
                return self.path(step), self.read(self.path(step))
            except CheckpointError as error:
                log.warning("%s", error)
                damaged = error
        if damaged is not None:
            raise CheckpointError(
                f"No checkpoint in {self.folder} can be read; move the folder away to start from step 0. {damaged}"
            )
        return None

    def read(self, path: Path) -> dict[str, Any]:
        """The training state of a checkpoint; CheckpointError if it is damaged."""
        return read_state(path / STATE)

    def save(self, step: int, state: Mapping[str, Any], export: Callable[[Path], None] | None) -> Path:
        """Write a checkpoint, then delete old ones; `export` writes the weights for inference.

        Raises:
            CannotSaveError: the disk is full or the folder cannot be written; the incomplete checkpoint is deleted.
        """
        partial, path = partial_path(self.path(step)), self.path(step)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            save_state(partial / STATE, state)
            if export is not None:
                export(partial / WEIGHTS)
            if path.exists():
                discard(path)
            replace_file(partial, path)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
            discard(partial)
            raise CannotSaveError(
                f"The checkpoint {path} cannot be written ({' '.join(str(error).split())[:160]}); the previous one"
                " is kept. Free some space or choose another data.train_output_dir."
            ) from error
        self._discard_old()
        return path

    def best(self) -> dict[str, Any] | None:
        """`step` and `score` of the best checkpoint; None if none has a score."""
        try:
            return json.loads((self.folder / BEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def record_score(self, step: int, score: float) -> None:
        """Record a checkpoint as the best one if its score is finite and not lower than the best so far."""
        best = self.best()
        if math.isfinite(score) and (best is None or score >= best["score"]):
            with atomic_write(self.folder / BEST) as partial:
                partial.write_text(json.dumps({"step": step, "score": score}) + "\n", encoding="utf-8")
            self._discard_old()

    def _discard_old(self) -> None:
        best = (self.best() or {}).get("step")
        for step in self.steps()[: -self.keep]:
            if step != best:
                discard(self.path(step))
        for path in self.folder.glob(f"step-*{PARTIAL}"):  # left by a run that was killed while saving
            discard(path)


def discard(folder: Path) -> None:
    """Delete a checkpoint's own files, and its folder unless it holds other files."""
    if not folder.is_dir():
        return
    for name in OWN_FILES:
        (folder / name).unlink(missing_ok=True)
        partial_path(folder / name).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        log.info("%s contains other files and is kept", folder)
