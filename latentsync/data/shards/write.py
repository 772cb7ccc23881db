"""Writing clips, and later their features, into shards. An interrupted writing goes on after the last complete shard.

The clips of a set are shuffled once, so that neighbours in a shard are not of one film.
"""

import json
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from latentsync.data.clips import TrainingClip, clip_facts, known_mouth
from latentsync.data.features import CachedFeature
from latentsync.data.shards.cache import hash_of
from latentsync.data.shards.catalog import (
    CATALOG,
    CLIPS,
    PART,
    PackedClip,
    ShardError,
    ShardFile,
    catalog_bytes,
    named_errors,
    part_bytes,
    read_catalog,
    tar_name,
)
from latentsync.data.storage import Folder
from latentsync.data.store import content_key, digest_of
from latentsync.media.container import MediaError
from latentsync.weights import write_tensors

Item = TypeVar("Item")
Progress = Callable[[Sequence[Item]], Iterable[Item]]
MEGABYTE = 10**6
WORKERS = 4  # shards that are written at once


@dataclass(frozen=True)
class Written:
    """What a shard has: its file, its clips, and those that are left out, each with a reason."""

    file: ShardFile
    clips: list[PackedClip]
    left_out: list[tuple[str, str]]


def write_shards(
    source: Folder, names: Iterable[str], target: Folder, shard_mb: float, progress: Progress[int] = iter
) -> tuple[int, int, list[tuple[str, str]]]:
    """Write the clips `names` of a folder into shards of about `shard_mb` MB; a .json beside a clip goes with it.

    Returns the numbers of shards and clips, and (name, reason) of clips that training cannot use, which are left out. Where the
    target has the same shards already, they are not written again.

    Raises:
        ValueError: there are no clips, the target has other shards, or it cannot be written.
    """
    sizes = source.files()
    groups = _groups({name: sizes[name] for name in names if name in sizes}, shard_mb)
    if not groups:
        raise ValueError(f"{source.address} has no clips to write into shards.")
    plan = digest_of(json.dumps([[(name, sizes[name]) for name in group] for group in groups]))
    _check_target(target, plan)

    def write(shard: int) -> Written:
        return _recorded(target, plan, shard) or _write_clips(source, sizes, groups[shard], target, plan, shard)

    with ThreadPoolExecutor(WORKERS) as pool:
        numbers = range(len(groups))
        written = [each for _, each in zip(progress(numbers), pool.map(write, numbers), strict=True)]
    left_out = [each for shard in written for each in shard.left_out]
    content = catalog_bytes(plan, [each.clips for each in written], [each.file for each in written], left_out)
    with named_errors(target.address):
        target.write(CATALOG, content)
    return len(written), sum(len(each.clips) for each in written), left_out


def write_feature(
    feature: CachedFeature, clips: Sequence[TrainingClip], target: Folder, progress: Progress[int] = iter
) -> list[tuple[str, str]]:
    """Compute a feature of all clips of a set of shards, and write it into shards of its own; what is there is left.

    Several processes and machines may do this at the same time: each takes the shards in an order of its own. Returns
    (name, reason) of clips that cannot be read.

    Raises:
        ValueError: the target cannot be written.
    """
    catalog, name = read_catalog(target.address), feature.folder.name
    if name in catalog.parts:
        return []
    of_shard: dict[int, list[TrainingClip]] = {}
    for clip in clips:
        of_shard.setdefault(-1 if clip.shard is None else clip.shard, []).append(clip)
    missing = [n for n in range(len(catalog.clips)) if not target.exists(f"{name}/{n:05d}.json")]
    unread: list[tuple[str, str]] = []
    for number in progress(random.SystemRandom().sample(missing, len(missing))):
        record = f"{name}/{number:05d}.json"
        if not target.exists(record):
            unread += _write_feature(feature, of_shard.get(number, []), target, f"{name}/{tar_name(number)}", record)
    records = [json.loads(target.read(f"{name}/{n:05d}.json")) for n in range(len(catalog.clips))]
    target.write(f"{name}/{PART}", part_bytes(catalog.plan, feature.settings, [ShardFile(*each) for each in records]))
    return unread


def _groups(sizes: Mapping[str, int], shard_mb: float) -> list[list[str]]:
    """The clips of each shard, in an order that depends on their names alone."""
    groups: list[list[str]] = []
    filled = float("inf")
    for name in sorted(sizes, key=digest_of):
        if filled + sizes[name] > shard_mb * MEGABYTE:
            groups.append([])
            filled = 0.0
        groups[-1].append(name)
        filled += sizes[name]
    return groups


def _check_target(target: Folder, plan: str) -> None:
    with named_errors(target.address):
        if target.exists(CATALOG) and json.loads(target.read(CATALOG))["plan"] != plan:
            raise ShardError(f"{target.address} has shards of other clips: move them away, or choose another folder.")


def _recorded(target: Folder, plan: str, shard: int) -> Written | None:
    """What an earlier call has written as this shard of the same plan."""
    try:
        stored = json.loads(target.read(f"{CLIPS}/{shard:05d}.json"))
    except (FileNotFoundError, ValueError):
        return None
    if stored["plan"] != plan:
        return None
    clips = [PackedClip(*row) for row in stored["clips"]]
    return Written(ShardFile(*stored["file"]), clips, [(name, reason) for name, reason in stored["left_out"]])


def _write_clips(
    source: Folder, sizes: Mapping[str, int], names: Sequence[str], target: Folder, plan: str, shard: int
) -> Written:
    clips: list[PackedClip] = []
    left_out: list[tuple[str, str]] = []
    with _archive(target, f"{CLIPS}/{tar_name(shard)}") as (archive, folder, files):
        for name in names:
            with named_errors(f"{source.address}/{name}"):
                path = source.fetch(name, folder)
                truth = PurePosixPath(name).with_suffix(".json").as_posix()
                beside = source.fetch(truth, folder) if truth in sizes else None
            facts = clip_facts(path, "av")
            if "reason" in facts:
                left_out.append((name, facts["reason"].replace(str(path), name)))
            else:
                has_mouth = beside is not None and known_mouth(beside, facts["frames"]) is not None
                clips.append(PackedClip(name, content_key(path), facts["frames"], facts["size_px"], has_mouth))
                for file, called in ((path, name), (beside, truth)):
                    if file is not None:
                        _add(archive, file, called)
            for file in (path, beside):
                if file is not None and file.is_relative_to(folder):  # a copy
                    file.unlink()
    written = Written(files[0], clips, left_out)
    record = {"plan": plan, **asdict(written), "clips": [list(asdict(clip).values()) for clip in clips]}
    target.write(f"{CLIPS}/{shard:05d}.json", json.dumps({**record, "file": list(asdict(files[0]).values())}).encode())
    return written


def _write_feature(
    feature: CachedFeature, clips: Sequence[TrainingClip], target: Folder, name: str, record: str
) -> list[tuple[str, str]]:
    unread = []
    with _archive(target, name) as (archive, folder, files):
        for clip in clips:
            file = folder / f"{clip.key}.safetensors"
            try:
                write_tensors(file, feature.tensors(clip))
            except MediaError as error:
                unread.append((str(clip.path), str(error)))
                continue
            _add(archive, file, file.name)
            file.unlink()
    target.write(record, json.dumps(list(asdict(files[0]).values())).encode())
    return unread


@contextmanager
def _archive(target: Folder, name: str) -> Iterator[tuple[tarfile.TarFile, Path, list[ShardFile]]]:
    """An archive to fill, a folder for temporary files, and a list that has its size and hash once it is in the target."""
    with tempfile.TemporaryDirectory(prefix="latentsync-shards-") as text:
        folder, files = Path(text), list[ShardFile]()
        tar = folder / "shard.tar"
        with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
            yield archive, folder, files
        files.append(ShardFile(os.path.getsize(tar), hash_of(tar)))
        with named_errors(f"{target.address}/{name}"):
            target.publish(tar, name, folder / "published")


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file without its times and owner: the same clips give the same shard."""
    member = tarfile.TarInfo(name)
    member.size = path.stat().st_size
    with path.open("rb") as file:
        archive.addfile(member, file)
