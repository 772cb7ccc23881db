"""Stand-ins for the modules of ComfyUI that the node pack imports, with the interface of its V3 schema (comfy_api 0.0.2)."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


@dataclass
class Entry:
    """An input or output of a node."""

    type: str
    id: str
    options: dict[str, Any] = field(default_factory=dict)


class Kind:
    """A type of ComfyUI: `Input` and `Output` make entries of it."""

    def __init__(self, type: str):
        self.type = type

    def Input(self, id: str, **options: Any) -> Entry:
        return Entry(self.type, id, options)

    def Output(self, id: str = "", **options: Any) -> Entry:
        return Entry(self.type, id, options)


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list[Entry]
    outputs: list[Entry]

    def validate(self) -> None:
        """What ComfyUI checks when it loads a node; the first versions of the schema refuse an input and an output of one name."""
        ids = [entry.id for entry in (*self.inputs, *self.outputs)]
        if len({*ids}) < len(ids):
            raise ValueError(f"ids of inputs and outputs must differ: {ids}")


class NodeOutput:
    def __init__(self, *values: Any):
        self.result = values


class Interrupted(BaseException):
    """Raised by ComfyUI when the user interrupts a workflow."""


@dataclass
class VideoFromFile:
    """A VIDEO of a file; `window` is the part of it that is meant, start and duration in seconds."""

    path: str
    window: tuple[float, float] = (0.0, 0.0)
    saved: list[str] = field(default_factory=list)

    def get_stream_source(self) -> str:
        return self.path

    def get_active_trim_window(self) -> tuple[float, float]:
        return self.window

    def save_to(self, path: str) -> None:
        self.saved.append(path)
        Path(path).write_bytes(Path(self.path).read_bytes())


class Bar:
    """ComfyUI's progress bar; keeps what it was set to."""

    all: list["Bar"] = []

    def __init__(self, total: int):
        self.total, self.values = total, [0]
        Bar.all.append(self)

    def update_absolute(self, value: int, total: int) -> None:
        self.total = total
        self.values.append(value)


class Comfy:
    """The state that the stand-ins share: the folders, and after how many looks the user interrupts."""

    def __init__(self, folder: Path):
        self.folder, self.interrupt_after, self.looks = folder, -1, 0
        self.unloaded = 0

    def look(self) -> None:
        self.looks += 1
        if self.looks == self.interrupt_after:
            raise Interrupted

    def unload(self) -> None:
        self.unloaded += 1


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Comfy:
    """Put the stand-ins among the imported modules."""
    comfy = Comfy(folder)
    kinds = {
        name: Kind(name.upper()) for name in ("Combo", "Int", "Float", "String", "Video", "Audio", "Image", "Mask")
    }
    io = SimpleNamespace(**kinds, Custom=Kind, ComfyNode=object, Schema=Schema, NodeOutput=NodeOutput)
    models: dict[str, list[Path]] = {}

    def full_path(kind: str, name: str) -> str:
        found = next((each / name for each in models[kind] if (each / name).exists()), None)
        if found is None:
            raise FileNotFoundError(name)
        return str(found)

    def names(kind: str) -> list[str]:
        return sorted(path.name for each in models[kind] if each.is_dir() for path in each.iterdir())

    functions: dict[str, dict[str, Any]] = {
        "comfy_api": {},
        "comfy_api.latest": {
            "io": io,
            "ComfyExtension": object,
            "InputImpl": SimpleNamespace(VideoFromFile=VideoFromFile),
        },
        "comfy": {},
        "comfy.utils": {"ProgressBar": Bar},
        "comfy.model_management": {
            "throw_exception_if_processing_interrupted": comfy.look,
            "unload_all_models": comfy.unload,
            "get_torch_device": lambda: torch.device("cpu"),
        },
        "folder_paths": {
            "models_dir": str(folder / "models"),
            "add_model_folder_path": lambda kind, path: models.setdefault(kind, []).append(Path(path)),
            "get_filename_list": names,
            "get_full_path_or_raise": full_path,
            "get_temp_directory": lambda: str(folder / "temp"),
        },
    }
    Bar.all = []
    for name, contents in functions.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    return comfy
