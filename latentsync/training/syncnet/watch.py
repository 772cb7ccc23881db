"""What a SyncNet's curves mean: a plateau at chance, and clips whose lips and sound are apart."""

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from latentsync.config.syncnet_run import PlateauConfig
from latentsync.metrics.sync.offset import offset_in_words
from latentsync.training.syncnet.step import CHANCE_LOSS

TRUSTED_ACCURACY = 0.75  # from here on the offsets that a network finds say something about the data
SHIFTED_SHARE = 0.2  # of clips more than a frame off, from which the data need a look


class PlateauWatch:
    """Keeps the losses of the last `config.steps` steps and gives advice once for every such stretch at chance."""

    def __init__(self, config: PlateauConfig):
        self.config = config
        self.seen: deque[tuple[int, float]] = deque()
        self.last_advice = 0

    def observe(self, row: Mapping[str, Any]) -> str | None:
        """Take in a log row; returns advice for a person where it is due."""
        step, loss = int(row["step"]), row.get("sync")
        if loss is None:
            return None
        self.seen.append((step, float(loss)))
        while self.seen and self.seen[0][0] <= step - self.config.steps:
            self.seen.popleft()
        is_due = step - self.last_advice >= self.config.steps
        mean = sum(loss for _, loss in self.seen) / len(self.seen)
        if not is_due or mean < CHANCE_LOSS - self.config.margin:
            return None
        self.last_advice = step
        return (
            f"Plateau: the loss of the last {self.config.steps} steps is {mean:.3f}, chance is {CHANCE_LOSS:.3f}. From scratch"
            " this may last for 100 000 steps and end suddenly. The preflight shows whether network and data can learn at all;"
            " if they can, what helps is more speakers, a larger batch (train.gradient_accumulation), clips whose sound is not"
            " shifted, or starting from a released SyncNet (init_from)."
        )


def offset_warning(offsets: Sequence[int], accuracy: float) -> str | None:
    """A sentence where many training clips seem shifted; None where all is well or the network cannot say yet.

    `offsets` are those that a network finds in training clips, in frames; > 0: the audio is early.
    """
    if accuracy < TRUSTED_ACCURACY or not offsets:
        return None
    off = sum(abs(offset) > 1 for offset in offsets) / len(offsets)
    if off < SHIFTED_SHARE:
        return None
    return (
        f"{off:.0%} of {len(offsets)} training clips have lips and sound more than a frame apart (median: audio"
        f" {offset_in_words(median(offsets))}; the chart shows all): run the data pipeline's synchronisation stage on them."
    )
