"""The origin of downloaded checkpoints, recorded by `fetch` so that the release of a public model is known."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from latentsync.files import atomic_write
from latentsync.weights.table import CHECKPOINTS, PUBLIC_FILES, PublicFile

SOURCES = "sources.json"  # beside the checkpoints


@dataclass(frozen=True)
class Source:
    """The origin of a checkpoint on disk."""

    origin: str  # hub repository, server, or mirror folder
    release: str
    size: int
    digest: str  # from the hub or the table: SHA-256, or git's SHA-1; empty if unknown


def stored_sources(folder: Path = CHECKPOINTS) -> dict[str, Source]:
    """The origins of the downloaded files of a folder, by path."""
    try:
        stored = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
        return {path: Source(**entry) for path, entry in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def record_source(file: PublicFile, folder: Path, source: Source) -> None:
    """Record the origin of a file of `folder`."""
    known = {path: asdict(entry) for path, entry in (stored_sources(folder) | {file.path: source}).items()}
    with atomic_write(folder / SOURCES) as partial:
        partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def release_of(path: Path | str) -> PublicFile | None:
    """The table's entry of a public model on disk, if `fetch` downloaded it and its size has not changed."""
    path = Path(path).absolute()
    for file in PUBLIC_FILES:
        if file.release and path.as_posix().endswith(f"/{file.path}"):
            folder = path.parents[file.path.count("/")]
            source = stored_sources(folder).get(file.path)
            if source and source.release == file.release and path.is_file() and source.size == path.stat().st_size:
                return file
    return None
