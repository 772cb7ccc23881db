"""The training loop: exact resume, skipped steps, checkpoints, validation; and errors in configurations."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.config import ModelRun, TrainConfig, UNetRun, load
from latentsync.losses.sync import SyncLoss
from latentsync.models.frozen import Frozen
from latentsync.models.vae import build_vae, decode, encode, fold_latent_statistics
from latentsync.training.engine import distributed, loop
from latentsync.training.engine.checkpoints import STATE, Checkpoints
from latentsync.training.engine.loop import Hooks, Losses, StopTraining, Trainer, item_generator
from latentsync.training.engine.optimizer import learning_rate_share

CONFIGS = Path(__file__).parents[2] / "configs"


class Numbers(Dataset[Tensor]):
    """Item n: four random numbers seeded with n."""

    def __getitem__(self, position: int) -> Tensor:
        return torch.randn(4, generator=item_generator(1, position))


class Regression(nn.Module):
    """A small regression with dropout, which shows errors in resuming; the loss is NaN at positions `bad` to `bad_stop` - 1."""

    def __init__(self, bad: int = 10**9, bad_stop: int = 10**9) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.bad = range(bad, bad_stop)

    def forward(self, x: Tensor, positions: Tensor) -> Losses:
        loss = (self.net(x).float() - x.sum(1, keepdim=True)).pow(2).mean()
        return {"recon": loss * float("nan") if int(positions[0]) in self.bad else loss}


def settings(**changes: object) -> TrainConfig:
    values = {"max_steps": 4, "warmup_steps": 1, "checkpoint_steps": 1, "log_steps": 1, **changes}
    return TrainConfig(**values)  # type: ignore[arg-type]


def trainer(folder: Path, objective: nn.Module | None = None, hooks: Hooks | None = None, **changes: object) -> Trainer:
    return Trainer(objective or Regression(), Numbers(), 4, settings(**changes), folder, hooks=hooks)


def final_state(folder: Path) -> dict[str, object]:
    found = Checkpoints(folder / "checkpoints", 1).newest()
    assert found is not None
    return found[1]


def assert_same(a: object, b: object, where: str = "") -> None:
    """Assert that two nested states are exactly equal."""
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor) and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple) and len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{index}")
    else:
        assert a == b, where


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, precision: str) -> None:
    choices = {"precision": precision, "gradient_accumulation": 2}
    trainer(tmp_path / "a", **choices).train()
    trainer(tmp_path / "b", **choices).train(stop_step=2)
    trainer(tmp_path / "b", **choices).train()
    assert_same(final_state(tmp_path / "a"), final_state(tmp_path / "b"))
    assert final_state(tmp_path / "a")["next_position"] == 4 * 4 * 2
    assert [json.loads(line)["step"] for line in (tmp_path / "b/log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    class Plain(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.net[1] = nn.Identity()

    trainer(tmp_path / "a", Plain(), gradient_accumulation=2).train()
    Trainer(Plain(), Numbers(), 8, settings(), tmp_path / "b").train()
    a, b = (final_state(tmp_path / name)["module"] for name in "ab")
    assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)  # type: ignore[index, call-overload]


def test_a_step_without_a_finite_gradient_is_skipped_and_counted(tmp_path: Path) -> None:
    objective = Regression(0, 10**9)
    before = [p.clone() for p in objective.parameters()]
    rows: list[dict[str, object]] = []
    trainer(tmp_path, objective, max_steps=3).train(rows.append)
    assert all(torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True))
    assert [row["skipped"] for row in rows] == [1, 2, 3]
    assert not list(tmp_path.glob("checkpoints/step-*")), "no checkpoint is written after skipped steps"


def test_a_loss_that_is_no_number_is_null_in_the_log(tmp_path: Path) -> None:
    trainer(tmp_path, Regression(0), max_steps=1).train()
    assert '"recon": null' in (text := (tmp_path / "log.jsonl").read_text()) and "NaN" not in text


def test_bf16_on_a_processor_without_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "has_bfloat16", lambda: False)
    trainer(tmp_path, precision="bf16")
    assert "no instructions for bf16: train.precision=fp32" in caplog.text


def test_skipped_steps_in_a_row_roll_back_to_the_last_checkpoint_and_skip_the_data(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = []
    trainer(tmp_path, Regression(8, 16), max_skipped_steps=2).train(rows.append)
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4] and rows[-1]["skipped"] == 2
    state = final_state(tmp_path)
    assert (state["step"], state["next_position"], state["rollbacks"]) == (4, 24, 1)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_a_run_that_does_not_recover_raises_a_training_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 steps in a row.*after 2 rollbacks.*Lower train.learning_rate"):
        trainer(tmp_path, Regression(8), max_skipped_steps=3, max_rollbacks=2, max_steps=20).train()
    assert final_state(tmp_path)["step"] == 2


def test_the_last_checkpoints_the_best_and_other_files_are_kept(tmp_path: Path) -> None:
    scores = {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.4, 5: float("nan")}
    hooks = Hooks(
        export=lambda path, weights, step: path.write_bytes(b"w"), validate=lambda step: {"score": scores[step]}
    )
    (tmp_path / "checkpoints/step-00000001").mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000001/notes.txt").write_text("mine")
    trainer(tmp_path, hooks=hooks, max_steps=5, keep_checkpoints=2, validation_steps=1).train()
    kept = {path.parent.name for path in tmp_path.glob(f"checkpoints/*/{STATE}")}
    assert kept == {"step-00000002", "step-00000004", "step-00000005"}
    assert json.loads((tmp_path / "checkpoints/best.json").read_text()) == {"step": 2, "score": 0.9}
    assert (tmp_path / "checkpoints/step-00000001/notes.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path).train()
    newest = tmp_path / "checkpoints/step-00000004" / STATE
    newest.write_bytes(newest.read_bytes()[:1000])
    again = trainer(tmp_path)
    assert again.resume() == 3 and "step-00000004" in caplog.text
    for path in tmp_path.glob(f"checkpoints/*/{STATE}"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="move the folder away"):
        again.resume()


def test_a_full_disk_keeps_the_last_checkpoint_and_training_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource", reason="file sizes are limited on POSIX only")
    trainer(tmp_path).train(stop_step=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit_file_size(row: dict[str, object]) -> None:
        full = row["step"] in (2, 3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if full else limits[0], limits[1]))

    try:
        trainer(tmp_path).train(limit_file_size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000001", "step-00000004"]
    assert "cannot be written" in caplog.text and "Training continues" in caplog.text
    trainer(tmp_path / "other").train()
    assert_same(final_state(tmp_path), final_state(tmp_path / "other"))


def test_a_disk_without_room_for_the_checkpoints_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path / "enough", max_steps=1, tracker="none").train()
    assert "GiB free" not in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3000))
    trainer(tmp_path / "short", max_steps=1, tracker="none").train()
    assert "0.0 GiB free, but the run may need about 0.0 GiB: 5 checkpoints" in caplog.text
    assert (tmp_path / "short/checkpoints/step-00000001" / STATE).stat().st_size > 3000 / 5


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="cannot be written.*choose another data.train_output_dir"):
        trainer(tmp_path).train()


def test_errors_in_hooks_are_logged_and_stop_training_ends_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> dict[str, float]:
        raise RuntimeError("no display")

    def stop(step: int) -> dict[str, float]:
        raise StopTraining(f"enough at {step}")

    trainer(tmp_path / "a", hooks=Hooks(validate=broken, charts=broken), validation_steps=1).train()  # type: ignore[arg-type]
    assert final_state(tmp_path / "a")["step"] == 4 and "no display" in caplog.text
    assert trainer(tmp_path / "b", hooks=Hooks(validate=stop), validation_steps=3).train() == "enough at 3"
    assert final_state(tmp_path / "b")["step"] == 3


def test_validation_uses_averaged_weights_and_does_not_change_training(tmp_path: Path) -> None:
    weights: list[Tensor] = []

    def validate(step: int) -> dict[str, float]:
        torch.randn(3)
        assert not objective.training
        weights.append(objective.net[0].weight.detach().clone())
        return {}

    objective = Regression()
    run = trainer(tmp_path / "a", objective, Hooks(validate=validate), validation_steps=2)
    run.train()
    assert torch.equal(weights[-1], run.averaged_state()["net.0.weight"])
    assert not torch.equal(weights[-1], objective.net[0].weight)
    trainer(tmp_path / "b").train()
    assert_same(final_state(tmp_path / "a")["module"], final_state(tmp_path / "b")["module"])


def test_the_learning_rate_warms_up_then_decays_or_stays_constant() -> None:
    cosine = settings(max_steps=100, warmup_steps=10, final_rate_share=0.1)
    assert [learning_rate_share(step, cosine) for step in (0, 9, 10, 100)] == pytest.approx([0.1, 1.0, 1.0, 0.1])
    constant = settings(schedule="constant", warmup_steps=0)
    assert {learning_rate_share(step, constant) for step in (0, 3, 999)} == {1.0}


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_optimizer_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adamw8bit needs the package bitsandbytes"):
        trainer(tmp_path, optimizer="adamw8bit")


def test_frozen_networks_stay_frozen_when_their_owner_trains() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    owner = Regression()
    owner.frozen = Frozen(net)
    owner.train()
    net.train()
    net[1].train()
    assert not net.training and not net[1].training
    assert not any("frozen" in name for name in owner.state_dict()) and len(list(owner.parameters())) == 4
    with pytest.raises(RuntimeError, match="frozen"):
        net.requires_grad_(True)
    x = torch.ones(1, 2, requires_grad=True)
    net(x).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in net.parameters())


def test_folding_statistics_normalises_latents_and_keeps_reconstructions() -> None:
    torch.manual_seed(0)
    vae = build_vae({"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}).eval()
    pixels = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = decode(vae, encode(vae, pixels))
        raw = vae.encode(pixels).latent_dist.mean
        fold_latent_statistics(vae, raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
        latents = encode(vae, pixels)
        assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4)
        assert torch.allclose(decode(vae, latents), before, atol=1e-4)


def test_a_configuration_inherits_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("train: {max_steps: 5, loss_weights: {recon: 2.0}}\ndata: {num_frames: 8}")
    (tmp_path / "high.yaml").write_text("base: low.yaml\ntrain: {max_steps: 6, loss_weights: {sync: 0.1}}")
    run = load(tmp_path / "high.yaml", UNetRun, ["data.batch_size=3"])
    assert (run.train.max_steps, run.data.num_frames, run.data.batch_size) == (6, 8, 3)
    assert run.train.loss_weights == {"recon": 2.0, "sync": 0.1} and run.pixel_losses == [SyncLoss]
    (tmp_path / "low.yaml").write_text("base: high.yaml")
    with pytest.raises(ValueError, match="its own base"):
        load(tmp_path / "high.yaml", UNetRun)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {learning_rte: 1.0}", "learning_rte.*Did you mean 'train.learning_rate'"),
        ("num_frames: 4", "num_frames.*Did you mean 'data.num_frames'"),
        ("model: {block_out_chanels: [8]}", "block_out_chanels.*Did you mean 'block_out_channels'"),
        ("model: {motion_module_kwargs: {num_heads: 8}}", "num_heads.*num_attention_heads"),
        ("train: {loss_weights: {lpip: 1.0}}", "lpip.*Did you mean 'lpips'"),
        ("objective: {audio_droput: 0.1}", "audio_droput.*audio_dropout"),
        ("train: {max_steps: many}", "max_steps.*many"),
        ("train: {precision: fp8}", "fp8.*fp32 or bf16 or fp16"),
        ("model: {use_motion_module: true}\ndata: {num_frames: 32}", "32.*position encoding has only 24 entries"),
        ("train: {loss_weights: {trepa: 1.0}}\ndata: {num_frames: 5}", "num_frames is 5.*pairs"),
        ("data: {resolution: 250}", "250.*multiple of 8"),
        ("model: {in_channels: 9}", "in_channels is 9.*13"),
        ("- 1", "has no sections"),
        ("a: [", "not a valid YAML"),
    ],
)
def test_a_wrong_configuration_is_an_error_at_loading(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "c.yaml", UNetRun)


def test_wrong_command_line_entries_are_errors(tmp_path: Path) -> None:
    path = CONFIGS / "unet/stage1.yaml"
    with pytest.raises(ValueError, match="command line.*batchsize.*data.batch_size"):
        load(path, UNetRun, ["data.batchsize=3"])
    with pytest.raises(ValueError, match="not a configuration entry"):
        load(path, UNetRun, ["--typo"])
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "missing.yaml", ModelRun)


def test_a_training_on_the_cpu_says_why_the_gpu_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(distributed, "unused_gpu", lambda: "the driver is too old")
    distributed.Processes(cpu=True)
    assert "the driver is too old" not in caplog.text
    distributed.Processes()
    assert caplog.text.count("the driver is too old") == 1
