"""Which models can be chosen, what of them is installed, and how to get the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latentsync.inference.models import DEMO_UNET
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.weights import FETCH_INFERENCE, PUBLIC_UNET, files_of
from latentsync.weights.hub import FileState, look
from web import texts
from web.errors import WebError


@dataclass(frozen=True)
class ModelChoice:
    """A U-Net with what belongs to it, and the face detector that suits it."""

    name: str
    unet: Path
    detector: str
    unet_config: Path | None = None

    @property
    def title(self) -> str:
        title = texts.MODEL_TITLES[self.name]
        return f"{title}: {self.unet.name}" if self.name == "own" else title

    @property
    def is_installed(self) -> bool:
        return self.unet.is_file()

    def load(self) -> LipsyncPipeline:
        """Load it; CheckpointError or ValueError where a part of it is missing."""
        return LipsyncPipeline.from_pretrained(self.unet, self.unet_config, self.detector)


class Models:
    """The models that can be chosen, by name; `load` may be replaced, as tests do."""

    def __init__(
        self, choices: Mapping[str, ModelChoice], load: Callable[[ModelChoice], LipsyncPipeline] | None = None
    ):
        self.choices, self._load = dict(choices), load or ModelChoice.load

    @classmethod
    def standard(cls, own: Path | None = None, own_config: Path | None = None, detector: str | None = None) -> "Models":
        """The demo and the official models, and the user's own U-Net if there is one; WebError if that is no file."""
        if own is not None and not own.is_file():
            raise WebError(texts.NO_CHECKPOINT.format(path=own))
        found = [
            ModelChoice("official", PUBLIC_UNET, detector or "face_alignment"),
            ModelChoice("demo", DEMO_UNET, detector or "cascade"),
        ]
        if own is not None:
            found.insert(0, ModelChoice("own", own, detector or "face_alignment", own_config))
        return cls({choice.name: choice for choice in found})

    @property
    def default(self) -> str:
        """The first that is installed."""
        return next((name for name, choice in self.choices.items() if choice.is_installed), next(iter(self.choices)))

    def check(self, name: str) -> ModelChoice:
        """The model called `name` (or the default for ""); WebError if it is unknown or not installed."""
        choice = self.choices.get(name or self.default)
        if choice is None:
            raise WebError(texts.UNKNOWN_MODEL.format(name=name, known=", ".join(self.choices)))
        if not choice.is_installed:
            raise WebError(texts.MISSING_MODEL.format(title=choice.title, command=FETCH_INFERENCE))
        return choice

    def load(self, name: str) -> LipsyncPipeline:
        return self._load(self.check(name))


def official_files() -> list[FileState]:
    """What is there of the official weights; looks at the disk only."""
    return [look(file) for file in files_of("inference")]
