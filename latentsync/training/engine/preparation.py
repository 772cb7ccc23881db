"""What is done with all clips before the first step: their index, and cached features that are missing. The processes share it.

Every clip's result is cached on disk at once, so an interrupted preparation resumes.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from latentsync.data.clips import ClipIndex, Progress, TrainingClip, check_clips, find_clips, separated
from latentsync.data.features import CachedFeature
from latentsync.data.settings import ClipDataConfig
from latentsync.data.shards.cache import ShardCache
from latentsync.data.shards.catalog import has_shards, read_catalog
from latentsync.data.shards.clips import check_feature, shard_clips
from latentsync.media.container import MediaError
from latentsync.training.engine.distributed import Processes

log = logging.getLogger(__name__)


def shared_index(
    data: ClipDataConfig, processes: Processes, min_frames: int, validation: bool = False, progress: Progress = iter
) -> ClipIndex:
    """The index of the training (or validation) clips, the same in all processes; `progress` shows that of the first one.

    Raises:
        ValueError: in all processes, if there are no clips, the cache cannot be written, or shards are missing or damaged.
    """
    places = (data.train_data_dir, data.train_fileslist), (data.val_data_dir, data.val_fileslist)
    folder, fileslist = places[validation]
    if folder and not fileslist and has_shards(folder):
        index = _packed(folder, min_frames, data, processes)
    else:
        paths = processes.broadcast_from_main(lambda: find_clips(folder, fileslist))
        shown = progress if processes.is_main else iter
        checked = processes.share(paths, lambda own: check_clips(own, data.cache_dir, data.reader, progress=shown))
        index = separated(checked, min_frames)
    if any(clip.size_px < data.resolution for clip in index.clips) and processes.is_main:
        log.warning(small_clips(index, data.resolution))
    return index


def _packed(address: str, min_frames: int, data: ClipDataConfig, processes: Processes) -> ClipIndex:
    """The index of a set of shards."""
    catalog = processes.broadcast_from_main(lambda: read_catalog(address))
    if data.reader == "decord":
        log.warning("Clips in shards are read with PyAV: data.reader=decord does not apply to %s.", address)
    cache = ShardCache(address, catalog.parts, data.cache_dir, data.shard_cache_bytes)
    return separated(shard_clips(catalog, cache), min_frames)


def small_clips(index: ClipIndex, resolution: int) -> str:
    """A warning about clips that are smaller than the network's faces."""
    sizes = [clip.size_px for clip in index.clips if clip.size_px < resolution]
    return (
        f"{len(sizes)} of {len(index.clips)} clips are smaller than data.resolution, {resolution} px (the smallest has"
        f" {min(sizes)} px): they are enlarged, and the network learns blurred faces; process the videos at this size, or lower"
        " data.resolution."
    )


def fill_cache(features: Sequence[CachedFeature], clips: Sequence[TrainingClip], processes: Processes) -> None:
    """Compute the features of `clips` that are missing in the cache; a clip that cannot be read is logged and skipped.

    Raises:
        ValueError: in all processes, if one of them cannot write the cache, or clips in shards come without a feature.
    """
    for feature in features:
        with processes.raise_together():
            packed = [clip for clip in feature.missing(clips) if clip.shard is not None]
            check_feature(packed, feature.kind, feature.folder.name, feature.settings)
        missing = processes.broadcast_from_main(partial(feature.missing, clips))
        if missing:
            log.info(
                "%d of %d clips have no %s in %s: computed now (scripts.precompute does it in advance).",
                len(missing),
                len(clips),
                feature.kind,
                feature.folder,
            )
        processes.share(missing, partial(fill, feature))


def fill(feature: CachedFeature, clips: Iterable[TrainingClip]) -> Iterator[bool]:
    """Compute a feature of clips; yields for each whether it could be read. ValueError if the cache cannot be written."""
    for clip in clips:
        try:
            list(feature.fill([clip]))
            yield True
        except MediaError as error:
            log.warning("left out %s: %s", clip.path, error)
            yield False
