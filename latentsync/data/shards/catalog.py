"""The catalog of a set of shards, and the list of the shards of each of its parts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from latentsync.data.storage import Folder

FORMAT = 1
CATALOG, PART, CLIPS = "shards.json", "part.json", "clips"
MAKE = "`./data_processing_pipeline.sh --output_format shards` writes shards"
READERS = 16  # threads: an object store has a long latency, but serves many requests at once


class ShardError(ValueError):
    """A shard, or the list of shards, is missing, damaged or out of reach."""


@dataclass(frozen=True)
class ShardFile:
    """One shard: its size, and the hash of its bytes (32 hexadecimal digits)."""

    size: int
    hash: str


@dataclass(frozen=True)
class PackedClip:
    """A clip in a shard, with the facts that training needs before it reads the clip (see `clips.TrainingClip`)."""

    name: str  # in the shard; relative, with /
    key: str
    frames: int
    size_px: int
    has_mouth: bool


@dataclass(frozen=True)
class Part:
    """Shards of one kind: the clips, or a feature of them; `files` by the shard's number."""

    name: str
    files: list[ShardFile]
    settings: dict[str, Any] = field(default_factory=dict)  # what a feature's values depend on

    def file_name(self, shard: int) -> str:
        """Relative to the set."""
        return f"{self.name}/{tar_name(shard)}"


@dataclass(frozen=True)
class Catalog:
    """A set of shards. `clips[n]` are those of shard n; `left_out` are (name, reason) of clips that cannot be used."""

    plan: str
    clips: list[list[PackedClip]]
    parts: dict[str, Part]
    left_out: list[tuple[str, str]]


def tar_name(shard: int) -> str:
    return f"{shard:05d}.tar"


def has_shards(address: str) -> bool:
    """Whether `address` stands for a set of shards: any remote address does, and a local folder with a catalog."""
    return "://" in address or Folder(address).exists(CATALOG)


def read_catalog(address: str) -> Catalog:
    """The catalog of a set and the parts that are complete.

    Raises:
        ShardError: there is none, it is damaged, or a shard is missing or has another size than it was written with.
        ValueError: the file system of the address is unknown, or its package is not installed.
    """
    folder = Folder(address)
    with named_errors(address):
        try:
            stored = json.loads(folder.read(CATALOG))
        except FileNotFoundError as error:
            reason = f"there is no {CATALOG}" if folder.is_folder() else str(error) or "there is no such folder"
            raise ShardError(f"{address} has no shards ({reason}): check the data section; {MAKE}.") from error
        sizes = folder.files()
        if stored["format"] != FORMAT:
            raise ShardError(f"{address} has shards of format {stored['format']}; this version reads format {FORMAT}.")
        clips = [[PackedClip(*row) for row in rows] for rows in stored["clips"]]
        files = [ShardFile(*each) for each in stored["files"]]
        parts = {CLIPS: Part(CLIPS, files), **_features(folder, sizes, stored["plan"])}
    catalog = Catalog(stored["plan"], clips, parts, [(name, reason) for name, reason in stored["left_out"]])
    _check_names(address, catalog)
    for part in parts.values():
        _check_sizes(address, part, sizes)
    return catalog


def catalog_bytes(plan: str, clips: Sequence[Sequence[PackedClip]], files: Sequence[ShardFile], left_out: Any) -> bytes:
    """The content of `shards.json`."""
    stored = {
        "format": FORMAT,
        "plan": plan,
        "files": [list(asdict(each).values()) for each in files],
        "clips": [[list(asdict(clip).values()) for clip in rows] for rows in clips],
        "left_out": left_out,
    }
    return json.dumps(stored, ensure_ascii=False).encode("utf-8")


def part_bytes(plan: str, settings: Mapping[str, Any], files: Sequence[ShardFile]) -> bytes:
    """The content of a feature's `part.json`."""
    stored = {"plan": plan, "settings": settings, "files": [list(asdict(each).values()) for each in files]}
    return json.dumps(stored).encode("utf-8")


def _features(folder: Folder, sizes: Mapping[str, int], plan: str) -> dict[str, Part]:
    names = [name.removesuffix(f"/{PART}") for name in sizes if name.endswith(f"/{PART}") and name.count("/") == 1]
    with ThreadPoolExecutor(READERS) as pool:
        stored = [json.loads(content) for content in pool.map(lambda name: folder.read(f"{name}/{PART}"), names)]
    parts = {}
    for name, part in zip(names, stored, strict=True):
        if part["plan"] != plan:
            raise ShardError(
                f"{folder.address}/{name} belongs to other clips: remove it, and run scripts.precompute again."
            )
        parts[name] = Part(name, [ShardFile(*each) for each in part["files"]], part["settings"])
    return parts


def _check_names(address: str, catalog: Catalog) -> None:
    """ShardError for a name that leads out of the folder in which a shard is unpacked."""
    for name in (clip.name for rows in catalog.clips for clip in rows):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
            raise ShardError(
                f"{address}/{CATALOG} names a clip {name!r}, which is no relative path: write the set again."
            )


def _check_sizes(address: str, part: Part, sizes: Mapping[str, int]) -> None:
    wrong = [f"{address}/{part.file_name(n)} {problem}" for n, problem in _problems(part, sizes)]
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise ShardError(f"{wrong[0]}{others}: copy it again, or remove {part.name} there and write it again.")


def _problems(part: Part, sizes: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    for number, file in enumerate(part.files):
        size = sizes.get(part.file_name(number))
        if size is None:
            yield number, "is missing"
        elif size != file.size:
            yield number, f"has {size:,} bytes instead of {file.size:,}"


@contextmanager
def named_errors(address: str) -> Iterator[None]:
    """Inside, errors of a file system, of whatever class, become ShardErrors that name the address."""
    try:
        yield
    except ShardError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ShardError(f"{address} cannot be read ({reason}): check the address and your access to it.") from error
