"""Before a SyncNet's training: can this network learn these data at all?

A SyncNet's loss may stay at chance, 0.693, for days, and from outside a plateau looks like a bug. So a copy of the network first
learns a handful of pairs by heart. A sound network on sound data does that in minutes; one that cannot never will.
"""

import copy
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from latentsync.config.syncnet_run import SyncPreflightConfig
from latentsync.data.clips import ClipIndex, TrainingClip
from latentsync.data.settings import WINDOWS_AN_ITEM
from latentsync.data.sync_clips import SyncBatch, SyncClips, collate
from latentsync.device import DTYPES
from latentsync.training.syncnet.step import CHANCE_LOSS, SyncNetWithHeads

ALIKE = 1e-3  # deviation between windows below which they carry nothing that tells them apart
FEW_CLIPS, FEW_SOURCES, FEW_HOURS = 500, 50, 5.0  # below, a SyncNet hardly learns to judge people it has not seen
MOVING = 0.8  # share of chance: a loss below it has clearly begun to fall
NOT_FALLING = (
    "It does not fall: lips and sound do not tell these pairs apart. Look at a few clips (is the mouth in the lower half, is"
    " the sound its own?), at the model's sections, and at preflight.learning_rate."
)
PART_NUMBERS = re.compile(r"_shot_\d+(_\d+)?$")  # endings that the data pipeline gives to parts of one video


@dataclass(frozen=True)
class Preflight:
    """What came of it: `passed` is None where the loss falls, but not yet far enough, and where time ran out before."""

    passed: bool | None
    loss: float
    steps: int
    reason: str = ""

    def sentence(self) -> str:
        """The outcome for a person."""
        done = f"Preflight: {self.steps} steps on one small batch, loss {self.loss:.3f} (chance is {CHANCE_LOSS:.3f})."
        return f"{done} {self.reason}".strip()


def overfit(
    objective: SyncNetWithHeads, data: SyncClips, config: SyncPreflightConfig, precision: str = "fp32"
) -> Preflight:
    """Let a copy of `objective` learn `config.pairs` pairs by heart, on the objective's device; it is left as it was."""
    weight = next(objective.parameters())
    items = config.pairs // (2 * WINDOWS_AN_ITEM)  # every window stands in a right and in a wrong pair
    batch = collate([data[position] for position in range(items)]).to(weight.device)
    learner = copy.deepcopy(objective).train()
    optimizer = torch.optim.AdamW(learner.parameters(), config.learning_rate, weight_decay=0.0)
    started, loss, step = time.monotonic(), CHANCE_LOSS, 0
    for step in range(1, config.max_steps + 1):
        with torch.autocast(weight.device.type, DTYPES[precision], enabled=precision != "fp32"):
            total = learner(batch, torch.arange(items))["sync"]
        loss = float(total.detach())
        if not loss < config.target_loss and step < config.max_steps and time.monotonic() - started < config.max_sec:
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            continue
        break
    return _judge(loss, step, batch, learner, config)


def _judge(
    loss: float, steps: int, batch: SyncBatch, learner: SyncNetWithHeads, config: SyncPreflightConfig
) -> Preflight:
    if loss <= config.target_loss:
        return Preflight(True, loss, steps)
    trouble = _trouble(batch, learner)
    if trouble:
        return Preflight(False, loss, steps, trouble)
    if loss < MOVING * CHANCE_LOSS:
        return Preflight(None, loss, steps, f"It falls, but is not at {config.target_loss:g} yet: watch the curve.")
    if steps < config.max_steps:
        return Preflight(None, loss, steps, f"{config.max_sec:.0f} s are too few here to tell whether it will fall.")
    return Preflight(False, loss, steps, NOT_FALLING)


@torch.no_grad()
def _trouble(batch: SyncBatch, learner: SyncNetWithHeads) -> str:
    """What is visibly wrong with the data or the network's answers, or the empty text."""
    for name, windows in (("pictures", batch.image), ("sounds", batch.mel)):
        if not bool(windows.isfinite().all()):
            return f"The {name} hold numbers that are not finite."
        if float(windows.float().std(0).mean()) < ALIKE:
            return (
                f"All {name} are alike: the clips are {'still' if name == 'pictures' else 'silent'}, or read wrongly."
            )
    for name, told in zip(("lips", "sounds"), learner.net(batch.image, batch.mel), strict=True):
        if not bool(told.isfinite().all()):
            return f"The embeddings of {name} are not finite: lower preflight.learning_rate and train.learning_rate."
        if float(told.float().std(0).mean()) < ALIKE:
            return f"The network gives one embedding for all {name}: its encoder has collapsed or sees nothing."
    return ""


def source_of(clip: TrainingClip) -> Path:
    """The video that a clip was probably cut from: the data pipeline numbers shots and segments at the end of names."""
    return clip.path.with_name(PART_NUMBERS.sub("", clip.path.stem))


def data_warnings(training: ClipIndex, validation: list[TrainingClip]) -> list[str]:
    """Sentences on what about the data makes a plateau or a poor expert likely."""
    clips, warnings = training.clips, []
    sources = {source_of(clip) for clip in clips}
    if len(clips) < FEW_CLIPS or len(sources) < FEW_SOURCES or training.hours < FEW_HOURS:
        warnings.append(
            f"{len(clips)} clips from about {len(sources)} videos, {training.hours:.1f} h, are few: below {FEW_HOURS:g} h and"
            f" {FEW_SOURCES} videos a SyncNet learns its speakers rather than lips; start from a released one (init_from)."
        )
    if training.rejected:
        warnings.append(f"{len(training.rejected)} clips were left out; clips.jsonl in the run's folder says why.")
    shared = {clip.key for clip in clips} & {clip.key for clip in validation}
    if shared:
        warnings.append(f"{len(shared)} validation clips are training clips too: their score is worth nothing.")
    known = sources & {source_of(clip) for clip in validation}
    if known and not shared:
        warnings.append(
            f"Validation clips come from {len(known)} videos that the training sees: the score is flattering."
        )
    return warnings
