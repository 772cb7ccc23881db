"""Where the checkpoints on the disk came from: noted by `fetch`, so that a released model knows its release."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from latentsync.files import atomic_write
from latentsync.weights.table import CHECKPOINTS, PUBLIC_FILES, PublicFile

SOURCES = "sources.json"  # beside the checkpoints


@dataclass(frozen=True)
class Source:
    """Where a checkpoint on the disk came from."""

    origin: str  # hub repository, server, or mirror folder
    release: str
    size: int
    digest: str  # of the hub or the table: SHA-256, or git's SHA-1; empty if neither knew one


def sources(folder: Path = CHECKPOINTS) -> dict[str, Source]:
    """Where the files of a folder came from, by path; files that others put there are not in it."""
    try:
        stored = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
        return {path: Source(**entry) for path, entry in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember(file: PublicFile, folder: Path, source: Source) -> None:
    """Note where a file of `folder` came from."""
    known = {path: asdict(entry) for path, entry in (sources(folder) | {file.path: source}).items()}
    with atomic_write(folder / SOURCES) as partial:
        partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def release_of(path: Path | str) -> PublicFile | None:
    """The table's entry of a released model on the disk, if `fetch` put it there and nothing changed it since."""
    path = Path(path).absolute()
    for file in PUBLIC_FILES:
        if file.release and path.as_posix().endswith(f"/{file.path}"):
            folder = path.parents[file.path.count("/")]
            source = sources(folder).get(file.path)
            if source and source.release == file.release and path.is_file() and source.size == path.stat().st_size:
                return file
    return None
