"""What a training finds missing in the cache is computed before its first step, shared out over its processes."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from latentsync.data.clips import TrainingClip
from latentsync.data.features import CachedFeature
from latentsync.media.container import MediaError
from latentsync.training.engine.distributed import Processes

log = logging.getLogger(__name__)


def fill_cache(
    features: Sequence[CachedFeature], clips: Sequence[TrainingClip], note: Callable[[str], None], processes: Processes
) -> None:
    """Compute and keep every feature of every clip that is not kept yet; a clip that cannot be read is named and left.

    Raises:
        ValueError: in all processes, where one cannot write the cache.
    """
    for feature in features:
        missing = processes.broadcast_from_main(partial(missing_keys, feature, clips))
        if missing and processes.is_main:
            note(
                f"{len(missing)} of {len(clips)} clips have no {feature.kind} in {feature.folder}: computed now"
                " (scripts.precompute does it ahead, on any number of machines)."
            )
        wanted = set(missing[processes.rank :: processes.count])
        processes.raise_together(fill(feature, [clip for clip in clips if clip.key in wanted]))


def missing_keys(feature: CachedFeature, clips: Sequence[TrainingClip]) -> list[str]:
    """Of the clips that lack the feature."""
    return [clip.key for clip in feature.missing(clips)]


def fill(feature: CachedFeature, clips: Sequence[TrainingClip]) -> str:
    """Compute a feature of `clips`; returns why the cache cannot be written, if so."""
    for clip in clips:
        try:
            list(feature.fill([clip]))
        except MediaError as error:
            log.warning("left out %s: %s", clip.path, error)
        except ValueError as error:
            return str(error)
    return ""
