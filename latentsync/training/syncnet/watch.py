"""Warnings from a SyncNet's curves: a plateau at the chance loss, and clips whose audio is shifted."""

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from latentsync.config.syncnet_run import PlateauConfig
from latentsync.metrics.sync.offset import offset_in_words
from latentsync.training.syncnet.step import CHANCE_LOSS

TRUSTED_ACCURACY = 0.75  # from this accuracy on, measured offsets are reliable
SHIFTED_SHARE = 0.2  # fraction of clips with an offset of more than a frame, from which a warning is given


class PlateauWatch:
    """Detects a plateau: the mean loss over the last `config.steps` steps is at chance. Warns once in `config.steps` steps."""

    def __init__(self, config: PlateauConfig):
        self.config = config
        self.recent: deque[tuple[int, float]] = deque()
        self.last_advice = 0

    def observe(self, row: Mapping[str, Any]) -> str | None:
        """Add a log row; returns a warning for the log, or None."""
        step, loss = int(row["step"]), row.get("sync")
        if loss is None:
            return None
        self.recent.append((step, float(loss)))
        while self.recent and self.recent[0][0] <= step - self.config.steps:
            self.recent.popleft()
        is_due = step - self.last_advice >= self.config.steps
        mean = sum(loss for _, loss in self.recent) / len(self.recent)
        if not is_due or mean < CHANCE_LOSS - self.config.margin:
            return None
        self.last_advice = step
        return (
            f"Plateau: the mean loss of the last {self.config.steps} steps is {mean:.3f}, chance is {CHANCE_LOSS:.3f}. A training"
            " from scratch may stay there for 100 000 steps and leave it suddenly. If the preflight passed, these help: more"
            " speakers, a larger batch (train.gradient_accumulation), clips without shifted audio, or a released SyncNet to"
            " start from (init_from)."
        )


def offset_warning(offsets: Sequence[int], accuracy: float) -> str | None:
    """A warning if many training clips seem to have shifted audio; None if few do or `accuracy` is too low to rely on.

    `offsets` are measured by the network on training clips, in frames; > 0: the audio is early.
    """
    if accuracy < TRUSTED_ACCURACY or not offsets:
        return None
    off = sum(abs(offset) > 1 for offset in offsets) / len(offsets)
    if off < SHIFTED_SHARE:
        return None
    return (
        f"The audio of {off:.0%} of {len(offsets)} training clips is shifted by more than a frame (median: audio"
        f" {offset_in_words(median(offsets))}; the chart shows all): run the data pipeline's synchronisation stage on them."
    )
