"""Training clips that are in shards, and the check that the shards have the features that a training needs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.data.clips import Read, RejectedClip, TrainingClip
from latentsync.data.shards.cache import ShardCache
from latentsync.data.shards.catalog import CLIPS, Catalog, ShardError
from latentsync.media.container import MediaError

ATTEMPTS = 20  # to read a file of a shard that is removed in the meantime


@dataclass(frozen=True)
class ShardClip(TrainingClip):
    """A clip in a shard. `path` is its place on this machine's disk, where it is once the shard has been fetched."""

    number: int = 0  # of the shard
    packed_mouth: bool = False
    cache: ShardCache = field(kw_only=True, repr=False, compare=False)

    @property
    def shard(self) -> int:
        return self.number

    def faces(self, start_frame: int, stop_frame: int) -> NDArray[np.uint8]:
        return self._read(lambda: TrainingClip.faces(self, start_frame, stop_frame))

    def waveform(self) -> NDArray[np.float32]:
        return self._read(lambda: TrainingClip.waveform(self))

    def mouth(self) -> NDArray[np.float32] | None:
        return self._read(lambda: TrainingClip.mouth(self)) if self.packed_mouth else None

    def has_mouth(self) -> bool:
        return self.packed_mouth

    def has_feature(self, name: str) -> bool:
        return name in self.cache.parts

    def read_feature(self, name: str, read: Callable[[Path], Read | None]) -> Read | None:
        for _ in range(ATTEMPTS if self.has_feature(name) else 0):
            path = self.cache.hold(name, self.number) / f"{self.key}.safetensors"
            found = read(path)
            if found is not None or path.exists():
                return found
        return None

    def prefetch(self) -> None:
        self.cache.prefetch(self.number)

    def facts(self) -> dict[str, Any]:
        facts = {
            name: value for name, value in super().facts().items() if name not in ("number", "packed_mouth", "cache")
        }
        return {**facts, "shard": self.number}

    def _read(self, read: Callable[[], Read]) -> Read:
        """The result of `read`, which needs the clip's files; again if their shard is removed meanwhile."""
        for _ in range(ATTEMPTS - 1):
            self.cache.hold(CLIPS, self.number)
            try:
                return read()
            except (MediaError, OSError):
                if self.path.exists():
                    raise
        self.cache.hold(CLIPS, self.number)
        return read()


def shard_clips(catalog: Catalog, cache: ShardCache) -> Iterator[TrainingClip | RejectedClip]:
    """The clips of a set, shard by shard, and then those that were left out when it was written."""
    for number, rows in enumerate(catalog.clips):
        folder = cache.place(CLIPS, number)
        for clip in rows:
            facts = clip.key, clip.frames, clip.size_px
            yield ShardClip(folder / clip.name, *facts, "av", number, clip.has_mouth, cache=cache)
    for name, reason in catalog.left_out:
        yield RejectedClip(Path(name), reason)


def check_feature(clips: Sequence[TrainingClip], kind: str, name: str, settings: Mapping[str, Any]) -> None:
    """Check that clips in shards come with a feature: its kind, its folder in a cache, and what its values depend on.

    Raises:
        ShardError: a set of shards has none, or one of other settings.
    """
    caches = dict.fromkeys(clip.cache for clip in clips if isinstance(clip, ShardClip))
    for cache in caches:
        if name not in cache.parts:
            others = [part.settings for part in cache.parts.values() if part.name.startswith(f"{kind}-")]
            raise ShardError(
                f"The shards in {cache.address} have {_found(kind, others, settings)}: run scripts.precompute with this"
                " training's configuration, which adds them."
            )


def _found(kind: str, others: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """What a set has of a kind of feature, in words."""
    if not others:
        return f"no {kind}"
    other = others[-1]
    differ = [
        f"{name} {other.get(name)} instead of {value}" for name, value in settings.items() if other.get(name) != value
    ]
    return f"{kind} of another training ({', '.join(differ)})"
