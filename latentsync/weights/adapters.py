"""The setting `adapter`: files of adapters (see `latentsync.models.unet.adapter`) and the factors by which they act."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from latentsync.weights.table import CheckpointError

MOST_SCALE = 2.0
SEPARATOR = ";"


def adapters_of(text: str) -> list[tuple[Path, float]]:
    """The files and factors in a text such as `anna.safetensors:0.8; german.safetensors`; without a factor it is 1.

    Raises:
        ValueError: a factor is not from 0 to 2, or a file is named twice.
    """
    found: list[tuple[Path, float]] = []
    for part in filter(None, map(str.strip, text.split(SEPARATOR))):
        path, scale = _file_and_scale(part)
        if not 0 <= scale <= MOST_SCALE:
            raise ValueError(
                f"adapter {part!r}: choose a factor from 0 (no effect) to {MOST_SCALE:g} (twice the effect)."
            )
        if any(path == other for other, _ in found):
            raise ValueError(f"adapter names {path} twice: give each file once, with its factor.")
        found.append((path, scale))
    return found


def _file_and_scale(part: str) -> tuple[Path, float]:
    name, _, factor = part.rpartition(":")
    try:
        return Path(name or part), float(factor) if name else 1.0
    except ValueError:  # a colon in the file's name
        return Path(part), 1.0


def adapter_text(adapters: Iterable[tuple[Path, float]]) -> str:
    """The setting `adapter` for files and factors."""
    return SEPARATOR.join(f"{path}:{scale:g}" for path, scale in adapters)


def joined(given: Sequence[str] | None) -> str | None:
    """The setting `adapter` for several such texts; None for none."""
    return SEPARATOR.join(given) if given else None


def beside(text: str, folder: Path) -> str:
    """The setting with file names relative to `folder`; CheckpointError if a file does not exist."""
    placed = [(folder / path, scale) for path, scale in adapters_of(text)]
    for path, _ in placed:
        if not path.is_file():
            raise CheckpointError(f"the adapter {path} does not exist: check its name.")
    return adapter_text(placed)
