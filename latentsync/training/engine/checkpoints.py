"""Checkpoints on disk: one folder each, written atomically; the last few and the best one are kept.

step-NNNNNNNN/state.pt              the state; that of a sharded training is in `parts/`, a file of each process, but for counters
step-NNNNNNNN/weights.safetensors   the weights for inference
"""

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from latentsync.files import PARTIAL, atomic_write, partial_path
from latentsync.system import remove_file, replace_file
from latentsync.training.engine.sharded import PARTS, files_of
from latentsync.weights import CheckpointError, read_state, save_state

STATE, WEIGHTS, BEST = "state.pt", "weights.safetensors", "best.json"
NAME = re.compile(r"step-(\d{8,})")
OWN_FILES = (STATE, WEIGHTS)  # only these and their `.partial` forms are ever deleted
BESIDES = 2  # checkpoints on disk besides those that are kept: the best, and the one being written
GIB = 1 << 30
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
        state = read_state(path / STATE)
        if files_of(path / PARTS) != state.get("parts", {}):
            raise CheckpointError(f"{path / PARTS} is incomplete: files are missing, or shorter than they were.")
        return state

    def begin(self, step: int) -> Path:
        """Make a folder for the parts of a checkpoint, which `save` then completes.

        Raises:
            CannotSaveError: the folder cannot be written.
        """
        partial = partial_path(self.path(step))
        discard(partial)
        try:
            (partial / PARTS).mkdir(parents=True)
        except OSError as error:
            raise self.cannot_save(step, error) from error
        return partial / PARTS

    def cannot_save(self, step: int, error: Exception) -> CannotSaveError:
        """The error of a checkpoint that cannot be written; what is there of it is deleted."""
        discard(partial_path(self.path(step)))
        return CannotSaveError(
            f"The checkpoint {self.path(step)} cannot be written ({' '.join(str(error).split())[:160]}); the previous one"
            " is kept. Free some space or choose another data.train_output_dir."
        )

    def save(self, step: int, state: Mapping[str, Any], export: Callable[[Path], None] | None) -> Path:
        """Write a checkpoint, or complete the one that was begun, then delete old ones; `export` writes the weights for inference.

        Raises:
            CannotSaveError: the disk is full or the folder cannot be written; the incomplete checkpoint is deleted.
        """
        partial, path = partial_path(self.path(step)), self.path(step)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            parts = files_of(partial / PARTS)
            save_state(partial / STATE, {**state, "parts": parts} if parts else state)
            if export is not None:
                export(partial / WEIGHTS)
            if path.exists():
                discard(path)
            replace_file(partial, path)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
            raise self.cannot_save(step, error) from error
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
    for name in files_of(folder / PARTS):
        remove_file(folder / PARTS / name)
    with suppress(OSError):  # there is none, or it has other files
        (folder / PARTS).rmdir()
    for name in OWN_FILES:
        remove_file(folder / name)
        remove_file(partial_path(folder / name))
    try:
        folder.rmdir()
    except OSError:
        log.info("%s contains other files and is kept", folder)


def checkpoint_bytes(weights: int, optimizer: int, average: int) -> int:
    """Bytes of a checkpoint: the state to resume from, and the weights for inference in float32."""
    return 2 * weights + optimizer + average


def disk_need(size: int, keep: int) -> str:
    """The disk that a run needs which keeps `keep` checkpoints of `size` bytes, in words."""
    return (
        f"about {(keep + BESIDES) * size / GIB:.1f} GiB: {keep + BESIDES} checkpoints of {size / GIB:.2f}"
        f" (train.keep_checkpoints={keep}, the best, and the one being written)"
    )
