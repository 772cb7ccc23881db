"""Training on simulated devices: steps with optimizer, average and loss scale, checkpoints, and the networks of the losses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.config import UNetRun, load
from latentsync.config.syncnet_run import SyncNetRun
from latentsync.data.sync_clips import SyncBatch, collate
from latentsync.device import DTYPES, Precision
from latentsync.losses.contract import Comparison, PixelLoss
from latentsync.losses.perceptual import LpipsLoss
from latentsync.losses.sync import SyncLoss
from latentsync.losses.trepa import TrepaLoss
from latentsync.models.frozen import Frozen
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig
from latentsync.timebase import sync_mel_length
from latentsync.training.engine.checkpoints import STATE
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.loop import Hooks, Trainer, item_generator
from latentsync.training.syncnet.step import ONLY_LOGGED, SyncNetWithHeads
from latentsync.training.syncnet.train import SyncNetTraining
from latentsync.training.unet.train import UNetTraining, train_unet
from tests.support.clip_files import write_clip
from tests.support.device_labels import CPU, Kind, place_of, repeated
from tests.support.simulated_device import SimulatedDevice
from tests.support.tiny_training import NUM_FRAMES, RESOLUTION, STAGE2, SYNCNET, make_data
from tests.training.test_syncnet import TINY
from tests.training.test_training import Numbers, Regression, settings
from tests.training.test_unet import tiny_lpips, tiny_videomae

Place = tuple[SimulatedDevice, Processes]
STAGE1 = ("data.cached_latents=true",)


@contextmanager
def training_on(kind: Kind) -> Iterator[Place]:
    """A simulated device, which the processes of a training find by themselves."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with mock.patch.dict(os.environ), SimulatedDevice(kind) as simulated:  # accelerate sets variables for mps
            processes = Processes()
            assert processes.device.type == kind
            yield simulated, processes
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 1 configuration with three clips and their cached features."""
    return make_data(tmp_path_factory.mktemp("training") / "data")


def trained(place: Place, data: Path, folder: Path, precision: str, steps: int, *more: str) -> UNetTraining:
    """A training of the U-Net, checked to be on the device as a whole."""
    simulated, processes = place
    entries = (f"data.train_output_dir={folder}", f"train.precision={precision}", f"train.max_steps={steps}")
    training = train_unet(load(data, UNetRun, (*entries, "train.ema_decay=0.9", *more)), processes)
    trainer = training.trainer
    moments = [entry["exp_avg"] for entry in trainer.optimizer.state.values()]
    tensors = [*training.step.parameters(), *training.step.buffers(), *trainer.ema.average.values(), *moments]
    assert {place_of(tensor) for tensor in tensors} == {simulated.device}
    assert trainer.step == steps and not trainer.state.skipped
    return training


@pytest.mark.parametrize(
    ("kind", "precision", "stage"),
    [
        ("cuda", "fp16", STAGE1),
        ("cuda", "bf16", STAGE2),
        pytest.param("mps", "fp32", STAGE2, marks=pytest.mark.slow),
        pytest.param("cuda", "fp32", STAGE1, marks=pytest.mark.slow),
        pytest.param("cuda", "bf16", STAGE1, marks=pytest.mark.slow),
        pytest.param("cuda", "fp32", STAGE2, marks=pytest.mark.slow),
        pytest.param("cuda", "fp16", STAGE2, marks=pytest.mark.slow),
        pytest.param("mps", "fp32", STAGE1, marks=pytest.mark.slow),
        pytest.param("cuda", "fp16", (*STAGE2, "data.cached_latents=false"), marks=pytest.mark.slow),
        pytest.param("cuda", "fp16", (*STAGE1, "gradient_checkpointing=true"), marks=pytest.mark.slow),
    ],
)
def test_a_step_of_the_unet(
    data: Path, tmp_path: Path, kind: Kind, precision: Precision, stage: tuple[str, ...]
) -> None:
    with training_on(kind) as place:
        trained(place, data, tmp_path, precision, 1, *stage)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_validation_and_resume_of_the_unet(data: Path, tmp_path: Path, kind: Kind) -> None:
    clips = (f"data.val_data_dir={data.parent / 'clips'}", "train.validation_steps=1", "validation.clips=1")
    with training_on(kind) as place:
        for steps in (1, 2):
            trained(place, data, tmp_path, "fp32", steps, *STAGE2, *clips, "inference.steps=2")
    assert len((tmp_path / "validation.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_step_of_a_distillation(data: Path, tmp_path: Path) -> None:
    teacher = (f"distill.teacher={data.parent / 'start.pt'}", "distill.skip=100", "objective.audio_dropout=0")
    with training_on("cuda") as place:
        trained(place, data, tmp_path, "bf16", 1, *STAGE1, *teacher, "inference.preset=turbo")


@pytest.mark.parametrize(("kind", "precision"), [("cuda", "fp16"), ("cuda", "bf16"), ("cuda", "fp32"), ("mps", "fp32")])
def test_checkpoints_are_of_the_host_and_resume_on_the_device(tmp_path: Path, kind: Kind, precision: Precision) -> None:
    """Nothing in them names a device, so they can be read on any machine; two steps, resume, two equal four."""

    def weights(folder: Path, stops: tuple[int, ...]) -> dict[str, Tensor]:
        for stop in stops:
            trainer = Trainer(Regression(), Numbers(), 4, config, folder, hooks=Hooks(), processes=processes)
            trainer.train(stop_step=stop)
            assert {place_of(value) for value in trainer.ema.average.values()} == {simulated.device}
        return trainer.averaged_state()

    config = settings(ema_decay=0.9, precision=precision)
    with training_on(kind) as (simulated, processes):
        whole, halves = weights(tmp_path / "whole", (4,)), weights(tmp_path / "halves", (2, 4))
        newest = max((tmp_path / "halves/checkpoints").glob("step-*"))  # in fp16 the last step may be skipped
        state = torch.load(newest / STATE, weights_only=False)
        assert {place_of(value) for value in [*state["module"].values(), *state["ema"].values()]} == {CPU}
    assert all(torch.equal(value, halves[name]) for name, value in whole.items())


class Pairs(Dataset[SyncBatch]):
    """Item n: a group of windows of random pixels, mel spectrograms and mouths."""

    def __getitem__(self, position: int) -> SyncBatch:
        generator, mel_length = item_generator(2, position), sync_mel_length(NUM_FRAMES)
        image = torch.rand((4, 3 * NUM_FRAMES, RESOLUTION // 2, RESOLUTION), generator=generator)
        mel = torch.rand((4, 1, 80, mel_length), generator=generator)
        return SyncBatch(image, mel, torch.rand((4, NUM_FRAMES, 2), generator=generator))


def tiny_syncnet() -> StableSyncNet:
    torch.manual_seed(0)
    return StableSyncNet(SyncNetConfig.from_dict(SYNCNET))


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("cuda", "fp16"), pytest.param("cuda", "bf16", marks=pytest.mark.slow), ("mps", "fp32")],
)
def test_a_step_of_the_syncnet(tmp_path: Path, kind: Kind, precision: Precision) -> None:
    with training_on(kind) as (simulated, processes):
        objective = SyncNetWithHeads(tiny_syncnet(), NUM_FRAMES, mouth_heads=True)
        config = settings(ema_decay=0.9, precision=precision, max_steps=1, loss_weights=ONLY_LOGGED)
        trainer = Trainer(objective, Pairs(), 1, config, tmp_path, collate, processes=processes)
        simulated.copies.clear()
        trainer.train()
        assert {place_of(tensor) for tensor in [*objective.parameters(), *trainer.ema.average.values()]} == {
            simulated.device
        }
    batches = [copy for copy in simulated.copies if copy.line.startswith("latentsync/data/sync_clips.py")]
    assert trainer.step == 1 and not trainer.state.skipped
    assert [copy.direction for copy in batches] == ["to device"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), [("cuda", "bf16"), ("mps", "fp32")])
def test_a_whole_training_of_the_syncnet(tmp_path: Path, kind: Kind, precision: Precision) -> None:
    """From clips to the file that it writes, with preflight and validation."""
    for number in range(6):
        write_clip(tmp_path / f"{'train' if number < 4 else 'val'}/{number}.mp4", number, frames=24)
    (tmp_path / "tiny.yaml").write_text(TINY)
    names = {"train_data_dir": "train", "val_data_dir": "val", "cache_dir": "cache", "train_output_dir": "run"}
    entries = [f"train.precision={precision}", "preflight={skip: false, pairs: 8, max_sec: 1}"]
    entries += [f"data.{name}={tmp_path / folder}" for name, folder in names.items()]
    with training_on(kind) as (simulated, processes):
        training = SyncNetTraining(load(tmp_path / "tiny.yaml", SyncNetRun, entries), processes)
        assert training.train() is not None
        assert {place_of(parameter) for parameter in training.objective.parameters()} == {simulated.device}


def pixel_losses(device: torch.device, dtype: torch.dtype) -> list[PixelLoss]:
    """The losses on pixels with tiny networks, placed as their `load` does: the perceptual one in float32."""
    return [
        SyncLoss(Frozen(tiny_syncnet().to(device, dtype)), RESOLUTION),
        LpipsLoss(Frozen(tiny_lpips().to(device)), recompute=True),
        TrepaLoss(Frozen(tiny_videomae().to(device, dtype))),
    ]


@pytest.mark.parametrize(("kind", "precision"), [("cuda", "fp16"), ("mps", "fp32")])
def test_losses_on_pixels_have_gradients_on_the_device(kind: Kind, precision: Precision) -> None:
    generator, shape = torch.Generator().manual_seed(0), (1, 3, NUM_FRAMES, RESOLUTION, RESOLUTION)
    made, true = (torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))
    mel = torch.rand((1, 1, 80, sync_mel_length(NUM_FRAMES)), generator=generator)
    here = Comparison(made, made, true, mel)
    expected = [float(loss(here)) for loss in pixel_losses(CPU, torch.float32)]
    with SimulatedDevice(kind) as simulated:
        losses = pixel_losses(simulated.device, DTYPES[precision])
        simulated.copies.clear()
        decoded = made.to(simulated.device).requires_grad_()
        there = Comparison(decoded, decoded, true.to(simulated.device), mel.to(simulated.device))
        found = [loss(there) for loss in losses]
        torch.stack(found).sum().backward()
        assert decoded.grad is not None and place_of(decoded.grad) == simulated.device
        assert not repeated(simulated.copies)
        assert [float(each.detach()) for each in found] == pytest.approx(expected, rel=0.05)


# Planted mistakes: each must be found.
class Spoiled(Regression):
    """An objective with a mistake."""

    def __init__(self, mistake: str):
        super().__init__()
        self.mistake = mistake
        self.target = torch.zeros(1)  # not a buffer, so it stays on the host

    def forward(self, x: Tensor, positions: Tensor) -> dict[str, Tensor]:
        if self.mistake == "a tensor that is no buffer":
            x = x + self.target
        if self.mistake == "noise of another generator":
            x = torch.randn(x.shape, generator=torch.Generator(), device=x.device)
        if self.mistake == "half of the input":
            x = nn.functional.linear(x, self.net[0].weight.half())[:, :4].float()
        return super().forward(x, positions)


@pytest.mark.parametrize("mistake", ["a tensor that is no buffer", "noise of another generator", "half of the input"])
def test_a_planted_mistake_in_a_step_raises(tmp_path: Path, mistake: str) -> None:
    with (
        training_on("cuda") as (_, processes),
        pytest.raises(RuntimeError, match="same device|generator|one type|same dtype"),
    ):
        Trainer(Spoiled(mistake), Numbers(), 4, replace(settings(), max_steps=1), tmp_path, processes=processes).train()
