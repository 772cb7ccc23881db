"""Computes missing cached features before the first step, divided among the processes."""

import logging
from collections.abc import Sequence
from functools import partial

from latentsync.data.clips import TrainingClip
from latentsync.data.features import CachedFeature
from latentsync.media.container import MediaError
from latentsync.training.engine.distributed import Processes

log = logging.getLogger(__name__)


def fill_cache(features: Sequence[CachedFeature], clips: Sequence[TrainingClip], processes: Processes) -> None:
    """Compute the features of `clips` that are missing in the cache; a clip that cannot be read is logged and skipped.

    Raises:
        ValueError: in all processes, if one of them cannot write the cache.
    """
    for feature in features:
        keys = processes.broadcast_from_main(partial(missing_keys, feature, clips))
        if keys:
            log.info(
                "%d of %d clips have no %s in %s: computed now (scripts.precompute does it in advance).",
                len(keys),
                len(clips),
                feature.kind,
                feature.folder,
            )
        own = set(keys[processes.rank :: processes.count])
        with processes.raise_together():
            fill(feature, [clip for clip in clips if clip.key in own])


def missing_keys(feature: CachedFeature, clips: Sequence[TrainingClip]) -> list[str]:
    """Keys of the clips whose feature is missing in the cache."""
    return [clip.key for clip in feature.missing(clips)]


def fill(feature: CachedFeature, clips: Sequence[TrainingClip]) -> None:
    """Compute a feature of `clips`; ValueError if the cache cannot be written."""
    for clip in clips:
        try:
            list(feature.fill([clip]))
        except MediaError as error:
            log.warning("left out %s: %s", clip.path, error)
