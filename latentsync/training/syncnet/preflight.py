"""Preflight of a SyncNet's training: overfit a few pairs, to find errors in data or network before the first step.

A SyncNet's loss may stay at chance, 0.693, for days, which looks the same as a bug. A correct network overfits a few pairs of
correct data in minutes; one that cannot will not learn from the whole data either.
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

MIN_DEVIATION = 1e-3  # standard deviation over a batch; below it the windows or embeddings count as identical
FEW_CLIPS, FEW_SOURCES, FEW_HOURS = 500, 50, 5.0  # with less a SyncNet hardly generalises to other people
FALLING = 0.8  # fraction of the chance loss; below it the loss is clearly falling
NOT_FALLING = (
    "The loss does not fall: right and wrong pairs cannot be distinguished. Check a few clips (is the mouth in the lower"
    " half, does the audio belong to the video?), the model section, and preflight.learning_rate."
)
# suffixes of parts of one video: first frame and id, from this project's data pipeline, or shot and segment, from the public one
PART_NUMBERS = re.compile(r"((_\d{6,})?_[0-9a-f]{8}|_shot_\d+(_\d+)?)$")


@dataclass(frozen=True)
class Preflight:
    """The result: `passed` is None if the loss falls but has not reached the target, or if time ran out before it did."""

    passed: bool | None
    loss: float
    steps: int
    reason: str = ""

    def sentence(self) -> str:
        """The result as a log message."""
        done = f"Preflight: {self.steps} steps on one small batch, loss {self.loss:.3f} (chance is {CHANCE_LOSS:.3f})."
        return f"{done} {self.reason}".strip()


def overfit(
    objective: SyncNetWithHeads, data: SyncClips, config: SyncPreflightConfig, precision: str = "fp32"
) -> Preflight:
    """Overfit a copy of `objective` on `config.pairs` pairs, on the objective's device; the objective itself is not changed."""
    weight = next(objective.parameters())
    items = config.pairs // (2 * WINDOWS_AN_ITEM)  # every window is in one right and one wrong pair
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
    return _result(loss, step, batch, learner, config)


def _result(
    loss: float, steps: int, batch: SyncBatch, learner: SyncNetWithHeads, config: SyncPreflightConfig
) -> Preflight:
    if loss <= config.target_loss:
        return Preflight(True, loss, steps)
    problem = _problem(batch, learner)
    if problem:
        return Preflight(False, loss, steps, problem)
    if loss < FALLING * CHANCE_LOSS:
        return Preflight(
            None, loss, steps, f"The loss falls, but has not reached {config.target_loss:g}: watch the curve."
        )
    if steps < config.max_steps:
        return Preflight(None, loss, steps, f"{config.max_sec:.0f} s are too few to see whether the loss falls.")
    return Preflight(False, loss, steps, NOT_FALLING)


@torch.no_grad()
def _problem(batch: SyncBatch, learner: SyncNetWithHeads) -> str:
    """A sentence on non-finite or identical windows or embeddings; empty if there are none."""
    for name, windows in (("frames", batch.image), ("mel windows", batch.mel)):
        if not bool(windows.isfinite().all()):
            return f"The {name} have non-finite values."
        if float(windows.float().std(0).mean()) < MIN_DEVIATION:
            return (
                f"All {name} are identical: the clips are {'still' if name == 'frames' else 'silent'}, or read wrongly."
            )
    for name, embeddings in zip(("lips", "audio"), learner.net(batch.image, batch.mel), strict=True):
        if not bool(embeddings.isfinite().all()):
            return f"The embeddings of {name} are not finite: lower preflight.learning_rate and train.learning_rate."
        if float(embeddings.float().std(0).mean()) < MIN_DEVIATION:
            return f"The embeddings of {name} are all identical: the encoder has collapsed or its input is constant."
    return ""


def source_of(clip: TrainingClip) -> Path:
    """The video that a clip was probably cut from: its path without the data pipeline's suffix."""
    return clip.path.with_name(PART_NUMBERS.sub("", clip.path.stem))


def data_warnings(training: ClipIndex, validation: list[TrainingClip]) -> list[str]:
    """Warnings about data that make a plateau, or a SyncNet that does not generalise, likely."""
    clips, warnings = training.clips, []
    sources = {source_of(clip) for clip in clips}
    if len(clips) < FEW_CLIPS or len(sources) < FEW_SOURCES or training.hours < FEW_HOURS:
        warnings.append(
            f"{len(clips)} clips from about {len(sources)} videos, {training.hours:.1f} h, are few: with less than {FEW_HOURS:g} h"
            f" or {FEW_SOURCES} videos a SyncNet overfits to its speakers; start from a released one (init_from)."
        )
    if training.rejected:
        warnings.append(
            f"{len(training.rejected)} clips were left out; the reasons are in clips.jsonl in the run folder."
        )
    shared = {clip.key for clip in clips} & {clip.key for clip in validation}
    if shared:
        warnings.append(f"{len(shared)} validation clips are also training clips: the validation score is meaningless.")
    known = sources & {source_of(clip) for clip in validation}
    if known and not shared:
        warnings.append(
            f"Validation clips come from {len(known)} videos that are also trained on: the score is too optimistic."
        )
    return warnings
