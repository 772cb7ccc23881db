"""What a wheel holds beside the library: the commands, configurations and demo of the repository, see `latentsync/places.py`.

Everything else about the package is in `pyproject.toml`.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = (
    "scripts/*.py",
    "web/**/*",
    "gradio_app.py",
    "configs/**/*",
    "assets/*",
    "checkpoints/demo/*",
    "checkpoints/face/*",  # face detectors under free licences, where `scripts.download_checkpoints faces` fetched them
)


def shipped_files() -> list[Path]:
    """Paths, from the repository's folder, of the files that go into `latentsync/shipped/`."""
    found = {path for pattern in SHIPPED for path in Path().glob(pattern)}
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


class BuildWithShipped(build_py):
    """Builds the library, and copies the shipped files into it; an editable installation finds them in the repository."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in shipped_files():
                target = Path(self.build_lib, "latentsync/shipped", path)
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, shipped_files())]


setup(cmdclass={"build_py": BuildWithShipped})
