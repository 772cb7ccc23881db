"""Shards on a machine's own disk: fetched when a clip of theirs is needed, checked, unpacked, and removed when space is short.

All processes of a machine share the folder: one fetches a shard, the others wait for it. A shard that is used is not locked; where
it is removed between a reader's look and its read, the reader asks again (see `clips.ShardClip`).
"""

import hashlib
import logging
import os
import tarfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from latentsync.data.shards.catalog import Part, ShardError, named_errors, tar_name
from latentsync.data.storage import Folder, remove_tree
from latentsync.data.store import KEY_BYTES, digest_of
from latentsync.files import BLOCK_BYTES, PARTIAL, file_hash
from latentsync.system import replace_file

GONE = ".gone"  # ending of a folder that is being removed
MAX_PREFETCHES = 2  # shards fetched ahead at once by one process
LEFTOVER_SEC = 3600.0  # an unfinished folder that nothing was written into for so long is of a killed process
log = logging.getLogger(__name__)


class ShardCache:
    """The local copies of a set's shards, up to `limit_bytes`, the least recently used of which are removed first.

    The shard that is being fetched is kept in any case, so a limit below its size is exceeded by that one.
    """

    def __init__(self, address: str, parts: dict[str, Part], cache_dir: Path | str, limit_bytes: int):
        self.address, self.parts, self.limit_bytes = address, parts, limit_bytes
        self.root = Path(cache_dir) / "shards" / digest_of(address)[:12]
        self._used: set[str] = set()  # names of the parts that this process has needed
        self._pending: set[tuple[str, int]] = set()
        self._folder: tuple[int, Folder] | None = None

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[str, dict[str, Part], Path, int]]:
        return ShardCache, (self.address, self.parts, self.root.parent.parent, self.limit_bytes)

    def place(self, part: str, shard: int) -> Path:
        """The folder of an unpacked shard, whether it is there or not."""
        return self.root / part / Path(tar_name(shard)).stem

    def hold(self, part: str, shard: int) -> Path:
        """The folder of an unpacked shard, which is fetched if it is not there.

        Raises:
            ShardError: it is missing, damaged or out of reach, or the disk cannot take it.
        """
        place = self.place(part, shard)
        self._used.add(part)
        if _touch(place):
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not _touch(place):
                self._make_room(self.parts[part].files[shard].size)
                self._fetch(part, shard, place)
        return place

    def prefetch(self, shard: int) -> None:
        """Fetch, in another thread, what this process will need of a shard; an error shows when the shard is needed."""
        for part in tuple(self._used):
            wanted = part, shard
            if wanted in self._pending or len(self._pending) >= MAX_PREFETCHES or self.place(part, shard).exists():
                continue
            self._pending.add(wanted)
            threading.Thread(target=self._prefetch, args=wanted, daemon=True).start()

    def _prefetch(self, part: str, shard: int) -> None:
        try:
            self.hold(part, shard)
        except ShardError as error:
            log.info("%s", error)
        finally:
            self._pending.discard((part, shard))

    def _fetch(self, part: str, shard: int, place: Path) -> None:
        file, name = self.parts[part].files[shard], self.parts[part].file_name(shard)
        address, partial = f"{self.address}/{name}", place.with_name(place.name + PARTIAL)
        remove_tree(partial)
        partial.mkdir()
        folder = self._connected()
        staging = self.root / "fetched"
        with named_errors(address):
            tar = folder.fetch(name, staging)
            try:
                _check(address, tar, file.size, file.hash)
                _unpack(tar, partial)
            finally:
                if not folder.is_local:
                    tar.unlink(missing_ok=True)
            replace_file(partial, place)

    def _connected(self) -> Folder:
        """The set's folder; connections to an object store do not survive a fork."""
        if self._folder is None or self._folder[0] != os.getpid():
            self._folder = os.getpid(), Folder(self.address)
        return self._folder[1]

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used shards until `needed` bytes fit, and what killed processes have left."""
        with FileLock(self.root / "room.lock"):
            there = sorted(self._there())
            spare = self.limit_bytes - needed - sum(size for _, size, _ in there)
            for _, size, place in there:
                if spare >= 0:
                    break
                with suppress(OSError):  # on Windows, while a file of it is open
                    gone = place.with_name(f"{place.name}{GONE}")
                    replace_file(place, gone)  # at once, so that a reader finds all of it or nothing
                    remove_tree(gone)
                    spare += size

    def _there(self) -> Iterable[tuple[float, int, Path]]:
        """(time of the last use, bytes, folder) of the shards that are here."""
        for part in self.parts.values():
            for place in self.root.joinpath(part.name).glob("*"):
                with suppress(OSError):
                    used_at = place.stat().st_mtime
                    if place.name.isdecimal() and int(place.name) < len(part.files):
                        yield used_at, part.files[int(place.name)].size, place
                    elif place.suffix in (PARTIAL, GONE) and time.time() - used_at > LEFTOVER_SEC:
                        remove_tree(place)


def _touch(place: Path) -> bool:
    """Note that a folder is used now; whether it exists."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


def _check(address: str, tar: Path, size: int, expected: str) -> None:
    found = tar.stat().st_size
    if found != size:
        raise ShardError(f"{address} has {found:,} bytes instead of {size:,}: copy it again.")
    if hash_of(tar) != expected:
        raise ShardError(f"{address} is damaged (its bytes are not those that were written): copy it again.")


def hash_of(path: Path) -> str:
    """Hash of a shard's bytes, 32 hexadecimal digits."""
    return file_hash(path, hashlib.blake2b(digest_size=KEY_BYTES))


def _unpack(tar: Path, folder: Path) -> None:
    """Write the plain files of an archive into a folder; other entries, and names that lead elsewhere, are ignored."""
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            path = folder / member.name
            source = archive.extractfile(member) if member.isreg() else None
            if source is None or not path.resolve().is_relative_to(folder.resolve()):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.open("wb") as file:
                while block := source.read(BLOCK_BYTES):
                    file.write(block)
