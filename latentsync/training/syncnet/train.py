"""A SyncNet's whole training: data, preflight, steps, validation, charts, and the trained network's file.

Besides the loop's files, the run folder holds `loss_chart.png`, and at the end `syncnet.safetensors`, the best checkpoint. The
metadata of every validated checkpoint contains its validation scores and threshold (`scores`, `threshold`); a U-Net's training
checks the accuracy.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from latentsync.config import TrainConfig
from latentsync.config.syncnet_run import SyncNetRun
from latentsync.data.clips import Progress, TrainingClip, describe_index
from latentsync.data.settings import WINDOWS_AN_ITEM
from latentsync.data.sync_clips import collate
from latentsync.metrics.sync.accuracy import ClipEmbeddings
from latentsync.models.syncnet import StableSyncNet
from latentsync.timebase import SYNC_MEL_HZ
from latentsync.training.engine.charts import CurvePanel, HistogramPanel, Panel, curve, read_rows, save_charts
from latentsync.training.engine.checkpoints import WEIGHTS
from latentsync.training.engine.distributed import Processes, seed_everything
from latentsync.training.engine.loop import Hooks, LogRow, Trainer
from latentsync.training.engine.preparation import fill_cache
from latentsync.training.engine.run_folder import RunFolder
from latentsync.training.syncnet.data import cached_features, load_syncnet_data
from latentsync.training.syncnet.preflight import data_warnings, overfit
from latentsync.training.syncnet.step import CHANCE_LOSS, ONLY_LOGGED, SyncNetWithHeads, net_weights
from latentsync.training.syncnet.validate import SyncScores, embed_clips, score_syncnet
from latentsync.training.syncnet.watch import PlateauWatch, offset_warning
from latentsync.weights import describe, load_partly, read_checkpoint, save_checkpoint

OUTPUT, CHART = "syncnet.safetensors", "loss_chart.png"
HOW_TO_SKIP = "Nothing was trained; set preflight.skip=true to train anyway."
log = logging.getLogger(__name__)


class SyncNetTraining:
    """One run: `train()` starts or resumes it."""

    def __init__(
        self, run: SyncNetRun, processes: Processes | None = None, progress: Progress = iter, fresh: bool = False
    ):
        """Index the clips and build the network. With `fresh` an earlier run in the folder is moved to one beside it.

        Raises:
            ValueError: the data, the configuration or `init_from` cannot be used, or the folder belongs to another run.
        """
        self.run, self.processes = run, processes or Processes()
        self.run_folder = RunFolder(run.data.train_output_dir, run, used_files(run), fresh)
        self.folder = self.run_folder.path
        self.run_folder.check(self.processes)
        self.data = load_syncnet_data(run, self.processes, progress)
        self.run_folder.check(self.processes, self.data.training)
        self.scores: SyncScores | None = None
        seed_everything(run.train.seed)
        self.items = self.data.items()
        teaches_mouths = run.data.known_mouths and self.items.knows_mouths
        if run.data.known_mouths and not teaches_mouths:
            log.info("Note: these clips have no mouth tracks (only drawn heads have), so data.known_mouths is ignored.")
        self.objective = SyncNetWithHeads(StableSyncNet(run.net), run.data.num_frames, teaches_mouths)
        if run.init_from:
            left_out = load_partly(self.objective.net, read_checkpoint(run.init_from).tensors)
            log.info(f"Started from {run.init_from}; {len(left_out)} tensors are newly initialised.")
        self.trainer = Trainer(
            self.objective,
            self.items,
            run.data.batch_size // WINDOWS_AN_ITEM,
            train_config(run),
            self.run_folder,
            collate,
            Hooks(self._export, self._validate, self._charts),
            run.data.num_workers,
            self.processes,
        )
        self.watch = PlateauWatch(run.plateau)

    def train(self, on_row: Callable[[LogRow], None] | None = None, stop_step: int | None = None) -> Path | None:
        """Train to the end (or `stop_step`) and write the best network; returns the file's path on the first process.

        `on_row` is called with each log row on the first process.

        Raises:
            ValueError: the preflight failed, or the training cannot continue.
        """
        with self.run_folder.held(self.processes):
            self._describe_data()
            clips = [*self.data.training.clips, *self.data.validation]
            fill_cache(cached_features(self.run, self.processes.device), clips, self.processes)
            if not self.processes.broadcast_from_main(self.trainer.checkpoints.steps):
                self._preflight()
            reason = self.trainer.train(self._watched(on_row or (lambda row: None)), stop_step)
            if reason:
                log.info(f"Stopped: {reason}")
            return self._write_best() if self.processes.is_main and self.trainer.checkpoints.steps() else None

    def _describe_data(self) -> None:
        log.info(describe_index(self.data.training))
        for warning in data_warnings(self.data.training, self.data.validation):
            log.info(f"Note: {warning}")

    def _watched(self, on_row: Callable[[LogRow], None]) -> Callable[[LogRow], None]:
        """`on_row` with warnings of a plateau, which also considers rows of an interrupted run."""
        for row in read_rows(self.folder / "log.jsonl"):
            self.watch.observe(row)

        def watch(row: LogRow) -> None:
            on_row(row)
            advice = self.watch.observe(row)
            if advice:
                log.info(advice)

        return watch

    def _preflight(self) -> None:
        """Overfit a few pairs; with `init_from`, also warn of clips with shifted audio."""
        if self.run.preflight.skip:
            return
        with self.processes.own_randomness():
            outcome = overfit(self.objective, self.items, self.run.preflight, self.run.train.precision)
        with self.processes.raise_together():
            if outcome.passed is False:
                raise ValueError(f"{outcome.sentence()} {HOW_TO_SKIP}")
        log.info(outcome.sentence())
        if self.run.init_from:
            self._score()

    def _score(self, alone: bool = False) -> SyncScores:
        """Score the network. The processes share the clips, unless this one is `alone`."""
        net, data = self.objective.net, self.run.data

        def embed(clips: Sequence[TrainingClip]) -> Iterator[ClipEmbeddings | None]:
            return embed_clips(net, self.data.whole(clips), data.num_frames, data.min_shift)

        was_training = net.training
        net.eval()
        sets = self.data.validation_clips(), self.data.offset_clips()
        validation, trained = (list(embed(each)) if alone else self.processes.share(each, embed) for each in sets)
        net.train(was_training)
        self.scores = score_syncnet(validation, trained, data.min_shift)
        warning = offset_warning(self.scores.offsets, self.scores.accuracy)
        if warning:
            log.info(f"Note: {warning}")
        return self.scores

    def _validate(self, step: int) -> Mapping[str, float]:
        scores = self._score().summary()
        if self.processes.is_main:
            add_scores(self.trainer.checkpoints.path(step) / WEIGHTS, scores)
        return {**scores, "score": scores["accuracy"]}

    def _export(self, path: Path, weights: Mapping[str, Tensor], step: int) -> None:
        run, data = self.run, self.run.data
        metadata = describe(
            "syncnet",
            run.model,
            step,
            resolution=data.resolution,
            num_frames=data.num_frames,
            alignment=data.aligned_by,
            audio={"mel_rate_hz": SYNC_MEL_HZ},
            latent_space=data.latent_space,
            lower_half=data.lower_half,
            min_shift=data.min_shift,
            seed=run.train.seed,
            clips=len(self.data.training.clips),
            origin=self.run_folder.origin(),
        )
        tensors = net_weights(weights)
        if run.half_weights:
            tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        save_checkpoint(path, tensors, metadata)

    def _write_best(self) -> Path:
        """Write the best checkpoint, or the last one if none was validated, as `syncnet.safetensors`; scores it if it has none."""
        checkpoints = self.trainer.checkpoints
        best = checkpoints.best()
        step = best["step"] if best and checkpoints.has(best["step"]) else checkpoints.steps()[-1]
        source = read_checkpoint(checkpoints.path(step) / WEIGHTS)
        metadata = source.metadata
        if "scores" not in metadata:
            self.objective.net.load_state_dict({name: value.float() for name, value in source.tensors.items()})
            metadata = with_scores(metadata, self._score(alone=True).summary())
        save_checkpoint(self.folder / OUTPUT, source.tensors, metadata)
        log.info(
            f"{self.folder / OUTPUT}: step {step}, accuracy {metadata['scores']['accuracy']:.1%} on validation clips."
        )
        return self.folder / OUTPUT

    def _charts(self, folder: Path) -> None:
        rows, validation = read_rows(folder / "log.jsonl"), read_rows(folder / "validation.jsonl")
        save_charts(folder / CHART, panels(rows, validation, self.scores))


def used_files(run: SyncNetRun) -> dict[str, str]:
    """Paths of the files that decide what a run learns, by the names of their settings."""
    named = {"init_from": run.init_from, "vae": run.vae if run.data.latent_space else ""}
    return {name: path for name, path in named.items() if path}


def train_config(run: SyncNetRun) -> TrainConfig:
    """The loop's configuration, with weight 0 for measures that are only logged."""
    return replace(run.train, loss_weights={**run.train.loss_weights, **ONLY_LOGGED})


def with_scores(metadata: Mapping[str, Any], scores: Mapping[str, float]) -> dict[str, Any]:
    """`metadata` with `scores`, and with the similarity threshold that separates right from wrong pairs."""
    return {**metadata, "threshold": scores["threshold"], "scores": dict(scores)}


def add_scores(path: Path, scores: Mapping[str, float]) -> None:
    """Write scores into the metadata of a checkpoint's weights file, if it exists."""
    if path.exists():
        checkpoint = read_checkpoint(path)
        save_checkpoint(path, checkpoint.tensors, with_scores(checkpoint.metadata, scores))


def panels(rows: list[dict[str, Any]], validation: list[dict[str, Any]], scores: SyncScores | None) -> list[Panel]:
    """The chart's panels: losses, accuracy and, with `scores`, histograms of pair similarities and of sync offsets."""
    drawn: list[Panel] = [
        CurvePanel(
            "sync loss",
            {"training": curve(rows, "sync"), "validation": curve(validation, "loss")},
            CHANCE_LOSS,
            f"chance {CHANCE_LOSS:.3f}",
        ),
        CurvePanel(
            "accuracy",
            {"training": curve(rows, "accuracy"), "validation": curve(validation, "accuracy")},
            0.5,
            "chance",
        ),
        CurvePanel("mouth loss", {"training": curve(rows, "mouth")}),
    ]
    if scores is not None:
        similarities = {"right pairs": scores.right.tolist(), "wrong pairs": scores.wrong.tolist()}
        marks = {f"threshold {scores.threshold:.2f}": scores.threshold}
        drawn.append(HistogramPanel("similarity, validation clips", similarities, (0.0, 1.0), marks=marks))
        offsets = {"training clips": scores.offsets}
        drawn.append(HistogramPanel("measured sync offset, frames (above 0: audio early)", offsets, (-10.5, 10.5), 21))
    return drawn
