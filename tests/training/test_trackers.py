"""What a tracker gets of a run: losses, measures and validation videos."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from latentsync.config.common import TrainConfig
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.training.engine.log import RunLog, validation_videos
from latentsync.training.engine.loop import Hooks, Trainer
from tests.training.test_training import Numbers, Regression, settings


def write_video(folder: Path, frames: int = 3) -> Path:
    folder.mkdir(parents=True)
    with VideoWriter(folder / "00_clip.mp4", VideoFormat.constant(48, 16, 25)) as writer:
        for level in range(frames):
            writer.write(np.full((16, 48, 3), 60 * level, np.uint8))
    return folder / "00_clip.mp4"


def validating(folder: Path) -> Hooks:
    def validate(step: int) -> dict[str, float]:
        write_video(validation_videos(folder, step))
        return {"score": 0.5}

    return Hooks(validate=validate)


def train(folder: Path, **changes: Any) -> None:
    Trainer(Regression(), Numbers(), 4, settings(**changes), folder, hooks=validating(folder)).train()


def test_tensorboard_gets_losses_measures_and_moving_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, max_steps=2, validation_steps=2, log_steps=1)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    shown = [(event.step, event.value) for event in events.Scalars("train/learning_rate")]
    assert shown == [(row["step"], pytest.approx(row["learning_rate"])) for row in rows]
    assert [event.value for event in events.Scalars("validation/score")] == [0.5]
    [picture] = events.Images("validation/00_clip")
    assert picture.step == 2 and (picture.width, picture.height) == (48, 16)
    assert picture.encoded_image_string.startswith(b"GIF89a")


class FakeRun:
    """Stands for Weights & Biases: keeps what it gets."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.logged.append((-1, {}))


def test_weights_and_biases_gets_them_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb, run, begun = ModuleType("wandb"), FakeRun(), []
    wandb.__spec__ = ModuleSpec("wandb", None)
    wandb.init = lambda **given: begun.append(given) or run  # type: ignore[attr-defined]
    wandb.config = SimpleNamespace(update=lambda values, allow_val_change: None)  # type: ignore[attr-defined]
    wandb.Video = lambda path, format: Path(path).name  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for steps in (2, 4):
        train(tmp_path, max_steps=steps, validation_steps=2, log_steps=1, tracker="wandb")
    names = {name for _, values in run.logged for name in values}
    assert {"train/learning_rate", "validation/score", "validation/00_clip"} <= names
    assert [step for step, values in run.logged if "validation/00_clip" in values] == [2, 4]
    assert begun[0]["project"] == "latentsync" and begun[0]["id"] == begun[1]["id"] and begun[0]["resume"] == "allow"
    assert run.logged[-1] == (-1, {}) and not (tmp_path / "tensorboard").exists()


def test_none_and_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, max_steps=1, tracker="none")
    assert (tmp_path / "log.jsonl").exists() and not (tmp_path / "tensorboard").exists()
    monkeypatch.setattr("latentsync.training.engine.trackers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="train.tracker=wandb needs the package wandb"):
        RunLog(tmp_path, True, "wandb")
    with pytest.raises(ValueError, match="train.tracker is 'board': choose"):
        TrainConfig(tracker="board").check()
