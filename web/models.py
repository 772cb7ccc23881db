"""Models that a user can choose, and which of their files are installed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.inference.model_files import (
    DEMO_UNET,
    distilled_companion,
    find_model_files,
    looks_complete,
    settings_for,
)
from latentsync.inference.settings import needs_distilled, precision_of
from latentsync.precision import Precision
from latentsync.weights import PUBLIC_UNET, files_of
from latentsync.weights.hub import FileState, file_state
from web import texts
from web.errors import WebError

if TYPE_CHECKING:
    from latentsync.inference.pipeline import LipsyncPipeline  # imports PyTorch, which the app does when a job needs it


@dataclass(frozen=True)
class ModelChoice:
    """A U-Net with its configuration, precision and face detector."""

    name: str
    unet: Path
    detector: str
    unet_config: Path | None = None
    precision: Precision = "auto"

    def made_for(self, settings: Mapping[str, Any]) -> "ModelChoice":
        """The choice for fields of `InferenceSettings`: in the precision of their preset, and with distilled weights if they need
        them and they are installed."""
        from latentsync.device import pick_device, pick_dtype

        precision, device = precision_of(settings.get("preset")), pick_device()
        differs = pick_dtype(device, precision) != pick_dtype(device)
        return replace(self, unet=self.unet_for(settings), precision=precision if differs else "auto")

    def unet_for(self, settings: Mapping[str, Any]) -> Path:
        """The weights for fields of `InferenceSettings`: the distilled ones if they need them and they are installed."""
        return distilled_companion(self.unet) if needs_distilled(settings) else self.unet

    @property
    def title(self) -> str:
        title = texts.MODEL_TITLES[self.name]
        return f"{title}: {self.unet.name}" if self.name == "own" else title

    @property
    def is_installed(self) -> bool:
        return self.unet.is_file()

    def check(self, settings: Mapping[str, Any]) -> None:
        """WebError that names each missing or damaged file, or a setting that these weights do not support; no tensor is read."""
        try:
            files = find_model_files(self.unet_for(settings), self.unet_config, self.detector)
            settings_for(files.check(), settings)
        except ValueError as error:
            raise WebError(texts.MISSING_MODEL.format(title=self.title, reason=error)) from error

    def load(self) -> "LipsyncPipeline":
        """Load the pipeline; CheckpointError or ValueError if a file is missing."""
        from latentsync.inference.pipeline import LipsyncPipeline

        return LipsyncPipeline.from_pretrained(self.unet, self.unet_config, self.detector, precision=self.precision)


class Models:
    """The models that a user can choose, by name; tests replace `load`."""

    def __init__(
        self, choices: Mapping[str, ModelChoice], load: "Callable[[ModelChoice], LipsyncPipeline] | None" = None
    ):
        self.choices, self._load = dict(choices), load or ModelChoice.load
        self._has_files = load is None

    @classmethod
    def standard(cls, own: Path | None = None, own_config: Path | None = None, detector: str | None = None) -> "Models":
        """The demo and the official models, and the user's own U-Net if it is given; WebError if that file does not exist."""
        if own is not None and not own.is_file():
            raise WebError(texts.NO_CHECKPOINT.format(path=own))
        found = [
            ModelChoice("official", PUBLIC_UNET, detector or "face_alignment"),
            ModelChoice("demo", DEMO_UNET, detector or DEFAULT_DETECTOR),
        ]
        if own is not None:
            found.insert(0, ModelChoice("own", own, detector or "face_alignment", own_config))
        return cls({choice.name: choice for choice in found})

    @property
    def default(self) -> str:
        """Name of the first installed model, or of the first if none is."""
        return next((name for name, choice in self.choices.items() if choice.is_installed), next(iter(self.choices)))

    def check(self, name: str, settings: Mapping[str, Any] = MappingProxyType({})) -> ModelChoice:
        """The model called `name` (or the default for ""); WebError if it is unknown, a file is not installed, or it does not
        support the settings, fields of `InferenceSettings`."""
        choice = self.choices.get(name or self.default)
        if choice is None:
            raise WebError(texts.UNKNOWN_MODEL.format(name=name, known=", ".join(self.choices)))
        if self._has_files:
            choice.check(settings)
        return choice

    def check_at_start(self) -> None:
        """WebError that names each missing or damaged file of the default model.

        Shipped models whose files are whole are not opened: that takes PyTorch, and each request for a job does it.
        """
        choice = self.choices[self.default]
        if choice.name == "own" or not looks_complete(choice.unet, choice.detector):
            self.check("")

    def load(self, choice: ModelChoice) -> "LipsyncPipeline":
        return self._load(choice)

    @property
    def has_distilled(self) -> bool:
        """Whether an installed model has weights that were distilled to few steps."""
        return any(each.is_installed and distilled_companion(each.unet) != each.unet for each in self.choices.values())


def official_files() -> list[FileState]:
    """States of the official weight files on disk."""
    return [file_state(file) for file in files_of("inference")]
