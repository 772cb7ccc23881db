"""Print packages, devices, encoders and weights of this machine, and run a short part of the demo.

The exit status is 1 if the demo fails.
"""

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.inference.model_files import DEMO_UNET, find_model_files
from latentsync.inference.settings import JobOptions
from latentsync.media.video.encode import ENCODERS, is_installed
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO
from latentsync.weights import CHECKPOINTS, PUBLIC_FILES

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "av",
    "decord",
    "opencv-python",
    "openai-whisper",
    "face-alignment",
)
SMOKE_SEC = 0.2
CODE_LICENCE = "Apache-2.0"
WIDTH_OF_LICENCES = 150  # characters of a line if the output is not a terminal
Line = tuple[str, str]  # name and state


def packages() -> Iterator[Line]:
    """Versions of Python and the main packages."""
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "[yellow]not installed[/]"


def devices() -> Iterator[Line]:
    """Available devices, and the GPU architectures that PyTorch is built for."""
    import torch

    from latentsync.device import AVAILABLE, pick_device, pick_dtype, unused_gpu

    for kind, is_available in AVAILABLE.items():
        yield kind, "available" if is_available() else "none"
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        built = ", ".join(torch.cuda.get_arch_list())
        yield torch.cuda.get_device_name(index), f"architecture {major}.{minor}; PyTorch is built for {built}"
    device = pick_device()
    yield "chosen", f"{device}, {str(pick_dtype(device)).removeprefix('torch.')}, {torch.get_num_threads()} threads"
    if problem := unused_gpu():
        yield "[yellow]unused[/]", escape(problem)


def encoders() -> Iterator[Line]:
    """The encoders of the installed PyAV for each codec; the first one is used."""
    for codec, known in ENCODERS.items():
        names = [encoder.name for encoder in known if is_installed(encoder.name)]
        yield codec, ", ".join(names) or "[yellow]no encoder[/]: choose another --codec"


def weights() -> Iterator[Line]:
    """State of the official weights, and the command that downloads those that are missing or damaged."""
    files = find_model_files(detector="face_alignment")
    for file in files.all:
        inside = file.path.is_relative_to(CHECKPOINTS)
        name = f"{file.role}: {file.path.relative_to(CHECKPOINTS) if inside else file.path}"
        yield name, f"[yellow]{escape(file.problem)}[/]" if file.problem else "installed"
    if files.way_out:
        yield "", escape(files.way_out)


def smoke_test() -> str:
    """Run the first `SMOKE_SEC` seconds of the demo; returns the report's summary."""
    from latentsync.inference.pipeline import LipsyncPipeline

    pipeline = LipsyncPipeline.from_pretrained(DEMO_UNET, detector=DEFAULT_DETECTOR)
    with tempfile.TemporaryDirectory() as folder:
        return pipeline(
            DEMO_VIDEO, DEMO_AUDIO, Path(folder) / "smoke.mp4", options=JobOptions(limit_sec=SMOKE_SEC)
        ).summary()


def show(console: Console, title: str, lines: Iterable[Line]) -> None:
    table = Table(title=title, title_justify="left", show_header=False, min_width=60)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def licences(console: Console) -> None:
    """Print the licences of the code and of all weights, with their training data, and whether commercial use is allowed."""
    show(console, "Code", [("latentsync", CODE_LICENCE), *((name, package_licence(name)) for name in PACKAGES)])
    table = Table(title="Weights", title_justify="left")
    table.add_column("file", no_wrap=True)
    for name in ("licence", "trained on", "commercial use"):
        table.add_column(name)
    for row in licence_rows():
        table.add_row(*row)
    console.print(table)


def licence_rows() -> Iterator[tuple[str, str, str, str]]:
    """File, licence, training data and "yes" or "no" for the demo models and each public file, also in LICENSES.md."""
    yield "demo/", CODE_LICENCE, "drawn heads of this project", "yes"
    for file in dict.fromkeys((file.path, file.licence, file.data) for file in PUBLIC_FILES):
        yield file[0], file[1], file[2].name, "yes" if file[2].commercial else "no"


def package_licence(name: str) -> str:
    """The licence that an installed package states."""
    try:
        stated = metadata(name)
    except PackageNotFoundError:
        return "not installed"
    classified = [
        text.rpartition(" :: ")[2] for text in stated.get_all("Classifier", []) if text.startswith("License ::")
    ]
    texts = stated.get_all("License-Expression") or classified or stated.get_all("License") or ["not stated"]
    return ", ".join(texts).splitlines()[0]


def main(argv: Sequence[str] | None = None, prog: str = "python -m scripts.doctor") -> int:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument(
        "--licences", action="store_true", help="only print the licences of the code and of all weights"
    )
    args = parser.parse_args(argv)
    console = Console()
    if args.licences:
        licences(console if console.is_terminal else Console(width=WIDTH_OF_LICENCES))
        return 0
    for section in (packages, devices, encoders, weights):
        show(console, section.__name__.capitalize(), section())
    try:
        console.print(f"Demo: {smoke_test()}")
    except (ValueError, OSError, RuntimeError) as error:
        console.print(f"[red]The demo failed:[/] {error}", soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
