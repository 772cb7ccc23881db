"""Systems of a report: this project's pipeline, any program, folders of finished results, truth and copy of the input."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eval.clip_sets import EvalClip
from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.files import file_hash, network_hash
from latentsync.inference.model_files import DEMO_UNET
from latentsync.media.process import run_program
from latentsync.metrics.statistics import NO_OUTPUT, NO_TRUTH, UnscorableError
from latentsync.system import peak_resident_mb, split_command

if TYPE_CHECKING:
    from latentsync.inference.pipeline import LipsyncPipeline

FIELDS = ("{video}", "{audio}", "{out}")


@dataclass(frozen=True)
class Made:
    """Cost of one result; None if it was not measured."""

    seconds: float | None = None
    peak_mb: float | None = None


class System(Protocol):
    """Something that lip-syncs a video."""

    name: str

    def facts(self) -> dict[str, Any]:
        """The facts needed to reproduce the results."""

    def make(self, clip: EvalClip, out: Path) -> tuple[Path, Made]:
        """The result of a clip, written to `out` or already elsewhere; UnscorableError or another ValueError without one."""


class Truth:
    """The true videos."""

    name = "ground truth"

    def facts(self) -> dict[str, Any]:
        return {"what": "the true video"}

    def make(self, clip: EvalClip, out: Path) -> tuple[Path, Made]:
        if clip.truth is None:
            raise UnscorableError(NO_TRUTH, f"{clip.name} has no true video for this audio.")
        return clip.truth, Made()


class Copy:
    """The input with the new audio: the baseline without lip-sync."""

    name = "copy of input"

    def facts(self) -> dict[str, Any]:
        return {"what": "the input's frames with the new audio"}

    def make(self, clip: EvalClip, out: Path) -> tuple[Path, Made]:
        clip.write_copy(out)
        return out, Made()


class Ours:
    """This project's pipeline with the demo models or a checkpoint, loaded once."""

    def __init__(self, name: str, checkpoint: Path, detector: str, device: str | None) -> None:
        self.name, self.checkpoint, self.detector = name, checkpoint, detector
        from latentsync.device import pick_device

        self.device = pick_device(device)
        if not checkpoint.is_file():
            raise ValueError(f"The checkpoint {checkpoint} does not exist: check --ours.")

    @cached_property
    def pipeline(self) -> "LipsyncPipeline":
        from latentsync.inference.pipeline import LipsyncPipeline

        return LipsyncPipeline.from_pretrained(self.checkpoint, None, self.detector, self.device)

    def facts(self) -> dict[str, Any]:
        models = self.pipeline.models
        return {
            "what": "this project's pipeline",
            "checkpoint": self.checkpoint.name,
            "fingerprint": network_hash(models.unet),
            "detector": self.detector,
            "device": str(models.device),
            "settings": asdict(models.defaults),
        }

    def make(self, clip: EvalClip, out: Path) -> tuple[Path, Made]:
        import torch

        from latentsync.device import GPU

        pipeline = self.pipeline
        if self.device.type == GPU:
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        pipeline(clip.video, clip.audio, out)
        seconds = time.perf_counter() - start
        on_gpu = self.device.type == GPU
        return out, Made(seconds, torch.cuda.max_memory_allocated(self.device) / 1e6 if on_gpu else peak_resident_mb())


class Command:
    """Any program with {video}, {audio} and {out} in its arguments; it is started once per clip, without a shell."""

    def __init__(self, name: str, template: str) -> None:
        self.name, self.arguments = name, split_command(template)
        missing = [field for field in FIELDS if not any(field in argument for argument in self.arguments)]
        if missing:
            raise ValueError(f"The command of {name} lacks {', '.join(missing)}: got `{template}`.")

    def facts(self) -> dict[str, Any]:
        return {"what": "a program; its time includes start and loading", "command": " ".join(self.arguments)}

    def make(self, clip: EvalClip, out: Path) -> tuple[Path, Made]:
        files = dict(zip(FIELDS, map(str, (clip.video, clip.audio, out)), strict=True))
        done = run_program([_filled(argument, files) for argument in self.arguments])
        if done.status != 0:
            raise UnscorableError("program failed", f"{self.name} exited with status {done.status}: {done.output}")
        if not out.is_file():
            raise UnscorableError(NO_OUTPUT, f"{self.name} wrote nothing to {out.name}: {done.output}")
        return out, Made(done.seconds, done.peak_mb)


class Results:
    """A folder of finished results: NAME_TASK.mp4, or TASK/NAME.mp4."""

    def __init__(self, name: str, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"The folder {folder} of the results of {name} does not exist.")
        self.name, self.folder = name, folder

    def facts(self) -> dict[str, Any]:
        return {"what": "finished results", "folder": self.folder.name}

    def make(self, clip: EvalClip, out: Path) -> tuple[Path, Made]:
        places = [self.folder / f"{clip.name}_{clip.task}.mp4", self.folder / clip.task / f"{clip.name}.mp4"]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UnscorableError(
                NO_OUTPUT, f"{self.name} has neither {places[0].name} nor {clip.task}/{places[1].name}."
            )
        return found, Made()


def ours(text: str, device: str | None) -> Ours:
    """The system of an `--ours` argument: `demo`, or the path of a checkpoint."""
    if text == "demo":
        return Ours("demo model", DEMO_UNET, DEFAULT_DETECTOR, device)
    return Ours(Path(text).stem, Path(text), "face_alignment", device)


def named(text: str, make: Callable[[str, str], System]) -> System:
    """A system from the text NAME=VALUE; ValueError for another form."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ValueError(f"{text!r} is not a system: write NAME=VALUE.")
    return make(name.strip(), value.strip())


def kept(system: System, clip: EvalClip, folder: Path) -> tuple[Path, Made]:
    """`system.make`, or the result of an earlier run in `folder` if clip and system are the same."""
    out = folder / f"{clip.name}_{clip.task}.mp4"
    note = out.with_suffix(".json")
    key = {"clip": clip.fingerprint, "system": system.facts()}
    try:
        stored = json.loads(note.read_text(encoding="utf-8"))
        if stored["key"] == json.loads(json.dumps(key)) and stored["content"] == file_hash(out):
            return out, Made(**stored["made"])
    except (OSError, ValueError, KeyError, TypeError):  # absent or incomplete
        pass
    folder.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    path, made = system.make(clip, out)
    if path == out:
        written = {"key": key, "made": asdict(made), "content": file_hash(out)}
        note.write_text(json.dumps(written), encoding="utf-8")
    return path, made


def _filled(argument: str, files: dict[str, str]) -> str:
    for field, value in files.items():
        argument = argument.replace(field, value)
    return argument
