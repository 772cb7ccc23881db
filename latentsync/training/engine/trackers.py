"""Where a run is watched besides its folder: TensorBoard, Weights & Biases, or nowhere. Both by accelerate's trackers."""

import io
import secrets
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from latentsync.media.video.read import read_frames
from latentsync.timebase import MODEL_FPS

BOARD_FOLDER, WANDB_ID, PROJECT = "tensorboard", "wandb.id", "latentsync"


class Tracker(Protocol):
    """Shows the rows of a log and videos."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name."""

    def log_video(self, name: str, path: Path, step: int) -> None:
        """A short video."""

    def close(self) -> None: ...


class BoardTracker:
    """TensorBoard's files in the run's folder; videos are moving pictures (GIF) there."""

    def __init__(self, folder: Path):
        from accelerate.tracking import TensorBoardTracker

        self.inner = started(TensorBoardTracker(BOARD_FOLDER, folder))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.inner.log(dict(values), step)

    def log_video(self, name: str, path: Path, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        content, (width, height) = gif_of(path)
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        self.inner.tracker.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        self.inner.finish()


class WandbTracker:
    """Weights & Biases, project `latentsync`; a resumed run goes on under the id that its folder keeps."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        from accelerate.tracking import WandBTracker

        kept = folder / WANDB_ID
        if not kept.is_file():
            kept.write_text(secrets.token_hex(8), encoding="utf-8")
        run_id = kept.read_text(encoding="utf-8").strip()
        names = {"name": folder.resolve().name, "dir": str(folder), "id": run_id}
        self.inner = started(WandBTracker(PROJECT, **names, resume="allow"))
        self.inner.store_init_configuration(dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.inner.log(dict(values), step)

    def log_video(self, name: str, path: Path, step: int) -> None:
        self.inner.log({name: import_module("wandb").Video(str(path), format="mp4")}, step)

    def close(self) -> None:
        self.inner.finish()


def started(tracker: Any) -> Any:
    """A tracker of accelerate, started; in earlier versions of accelerate it starts when it is made."""
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker


def check_tracker(name: str) -> None:
    """ValueError for a tracker whose package is missing; TensorBoard, the default, is left out without its own."""
    if name == "wandb" and find_spec("wandb") is None:
        raise ValueError(
            "train.tracker=wandb needs the package wandb: run `pip install wandb`, or set train.tracker=tensorboard."
        )


def open_tracker(name: str, folder: Path, settings: Mapping[str, Any]) -> Tracker | None:
    """The tracker of `train.tracker` for a run in `folder` with these settings; None for none."""
    if name == "wandb":
        return WandbTracker(folder, settings)
    return BoardTracker(folder) if name == "tensorboard" and find_spec("tensorboard") else None


def gif_of(path: Path) -> tuple[bytes, tuple[int, int]]:
    """A video as GIF, and its width and height in px. Raises MediaError if it cannot be read."""
    pictures = [Image.fromarray(shown.frame) for shown in read_frames(path)]
    content = io.BytesIO()
    frame_ms = round(1000 / MODEL_FPS)
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=frame_ms, loop=0)
    return content.getvalue(), pictures[0].size
