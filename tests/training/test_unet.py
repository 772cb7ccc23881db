"""Training the U-Net, with tiny networks: losses, trained and frozen parts, the SyncNet check, resume after a kill."""

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentsync.config import UNetRun, load
from latentsync.data.store import network_key
from latentsync.data.unet_clips import ClipBatch, collate
from latentsync.diffusion.noise import add_noise, one_step_x0
from latentsync.face.masks import latent_mask, load_mask
from latentsync.inference.models import configured_unet
from latentsync.losses.contract import frames_of
from latentsync.losses.perceptual import LpipsLoss, PerceptualLoss, build_lpips, empty_lpips, public_key
from latentsync.losses.sync import SyncLoss, check_accuracy, sync_loss
from latentsync.losses.trepa import TrepaLoss, trepa_loss
from latentsync.models.frozen import Frozen
from latentsync.models.syncnet import pack_frames
from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.vae import decode
from latentsync.models.videomae import VideoMAE, VideoMAEConfig
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.loop import item_generator, total_loss
from latentsync.training.unet.data import unet_index
from latentsync.training.unet.dry_run import dry_run_on_meta
from latentsync.training.unet.step import UNetObjective, UNetStep, choose_trainable
from latentsync.training.unet.train import prepare, train_unet
from latentsync.weights import describe, read_checkpoint, save_checkpoint, save_state
from scripts.train_unet import main
from tests.support.tiny_training import NUM_FRAMES, RESOLUTION, STAGE2, UNET, make_data
from tests.support.training_program import run_together, train, train_sharded, train_with_bad_item
from tests.training.test_training import assert_same, final_state

CONFIGS = Path(__file__).parents[2] / "configs"
GOLDEN = Path(__file__).parents[3] / "shared/golden/unet_full_tables.json"
KILLED = -9
SHIPPED = ["stage1", "stage2", "stage2_efficient", "stage1_512", "stage2_512", "first_stage", "second_stage"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 1 configuration with three clips and their cached features."""
    return make_data(tmp_path_factory.mktemp("training") / "data")


def run_of(config: Path, *overrides: str) -> UNetRun:
    return load(config, UNetRun, overrides)


def step_of(config: Path, *overrides: str) -> tuple[UNetStep, ClipBatch, Tensor]:
    """A run's objective, a batch of its first two items, and their positions."""
    training = prepare(run_of(config, *overrides), Processes(cpu=True))
    return training.step, collate([training.data[0], training.data[1]]), torch.tensor([0, 1])


def tiny_lpips() -> PerceptualLoss:
    """The perceptual network with random weights."""
    generator = torch.Generator().manual_seed(0)
    empty = empty_lpips().state_dict()
    random = {public_key(key): 0.05 * torch.rand(value.shape, generator=generator) for key, value in empty.items()}
    return PerceptualLoss(build_lpips(random, random, "a test"))


def tiny_videomae() -> VideoMAE:
    torch.manual_seed(0)
    small = VideoMAEConfig(img_size=28, all_frames=4, embed_dim=16, depth=1, num_heads=2, mlp_hidden=16, num_classes=0)
    return VideoMAE(small).eval()


def test_the_losses_are_those_of_the_method(data: Path) -> None:
    """Each loss of a step equals its formula, written out here; the golden cases check the formulas themselves."""
    step, batch, positions = step_of(data, *STAGE2, "data.cached_latents=true", "objective.audio_dropout=0")
    assert step.pixel_losses is not None
    [sync] = step.pixel_losses.losses
    assert isinstance(sync, SyncLoss)
    pixels = torch.tanh(torch.randn(2, 3, NUM_FRAMES, RESOLUTION, RESOLUTION, generator=item_generator(0, 0)))
    lpips, trepa = LpipsLoss(Frozen(tiny_lpips()), recompute=True), TrepaLoss(Frozen(tiny_videomae()))
    step.pixel_losses = replace(step.pixel_losses, losses=(sync, lpips, trepa), recompute=True)
    losses = step(replace(batch, pixels=pixels), positions)
    with torch.no_grad():
        latents, masked, reference = (batch.present()[f"{name}latents"] for name in ("", "masked_", "reference_"))
        drawn = step.draw(latents, [item_generator(step.seed, position) for position in (0, 1)])
        noisy = add_noise(latents, drawn.noise, drawn.timesteps, step.schedule)
        mask = step.mask.expand(2, 1, NUM_FRAMES, *step.mask.shape)
        audio_kv = step.unet.project_kv(batch.audio)
        predicted = step.unet(torch.cat([noisy, mask, masked, reference], 1), drawn.timesteps, audio_kv)
        clean = one_step_x0(noisy, predicted, drawn.timesteps, step.schedule)
        decoded = decode(step.pixel_losses.vae.net, frames_of(clean)).unflatten(0, (2, NUM_FRAMES)).transpose(1, 2)
        lips = pack_frames(decoded, lower_half=True)
        expected = {
            "recon": (predicted - drawn.noise).pow(2).mean(),
            "sync": sync_loss(*sync.net.net(lips, batch.mel)).mean(),
            "lpips": lpips.net.net(frames_of(decoded), frames_of(pixels)).mean(),
            "trepa": trepa_loss(trepa.net.net, decoded, pixels),
        }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(losses[name], value, rtol=1e-4, atol=1e-7), name


def test_gradients_reach_exactly_the_trainable_parameters(data: Path) -> None:
    step, batch, positions = step_of(data, *STAGE2)
    frozen = [step.pixel_losses.vae, step.pixel_losses.losses[0].net]  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in step.state_dict().items()}
    for parameter in step.unet.parameters():  # zero-initialised layers would block gradients
        torch.nn.init.normal_(parameter, std=0.05)
    step.train()
    total_loss(step(batch, positions), {}).backward()
    reached = {name for name, parameter in step.named_parameters() if parameter.grad is not None}
    assert reached == {name for name in before if "motion_modules." in name or "attn2." in name} - {
        name for name in before if name.endswith(".pe")
    }
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in step.parameters() if parameter.grad is not None)
    for each in frozen:
        assert not each.net.training and all(p.grad is None for p in each.net.parameters())


def test_the_demo_objective_has_known_values() -> None:
    """The weighted error of the demo's first stage, computed by hand for one visible and one generated cell."""
    objective = UNetObjective(snr_power=0.5, snr_limit=5.0, visible_weight=0.2)
    step = UNetStep(UNet3DConditionModel(UNetConfig.from_dict(UNET)), torch.tensor([[1.0, 0.0]]), objective, 0)
    noise, predicted = torch.zeros(2, 4, 1, 1, 2), torch.ones(2, 4, 1, 1, 2)
    alphas = step.schedule.alphas_cumprod[torch.tensor([100, 999])]
    weights = ((1 - alphas) / alphas).sqrt().clamp(max=5.0)
    error = step.error(predicted, noise, torch.tensor([100, 999]))
    assert float(error) == pytest.approx(float(weights.mean()) * 0.6) and float(weights[1]) == 5.0


def test_cells_around_the_lips_may_weigh_more() -> None:
    objective = UNetObjective(mouth_weight=6.0)
    step = UNetStep(UNet3DConditionModel(UNetConfig.from_dict(UNET)), latent_mask(load_mask(256)), objective, 0)
    lips, brow = torch.zeros(1, 4, 1, 32, 32), torch.zeros(1, 4, 1, 32, 32)
    lips[..., 22, 16] = brow[..., 8, 16] = 1
    nothing, timestep = torch.zeros_like(lips), torch.tensor([500])
    assert float(step.error(lips, nothing, timestep)) == pytest.approx(6 * float(step.error(brow, nothing, timestep)))


def test_a_syncnet_without_proven_accuracy_is_refused(data: Path) -> None:
    frozen_networks = run_of(data).frozen_networks
    for metadata, message in (({}, "unknown accuracy"), ({"scores": {"accuracy": 0.7}}, "right on 70.0%")):
        with pytest.raises(ValueError, match=f"{message}.*frozen_networks.allow_unproven_sync=true"):
            check_accuracy(metadata, frozen_networks)
        check_accuracy(metadata, replace(frozen_networks, allow_unproven_sync=True))
        check_accuracy(metadata, replace(frozen_networks, sync_accuracy=0.9))
    check_accuracy({"scores": {"accuracy": 0.86}}, frozen_networks)
    with pytest.raises(ValueError, match="expects 4 frames, but data.num_frames is 3"):
        prepare(run_of(data, *STAGE2, "data.num_frames=3", "data.train_output_dir=x"), Processes(cpu=True))


def test_settings_that_inference_could_not_use_are_refused_before_the_first_step(data: Path) -> None:
    for entry, message in (
        ("{step: 2}", "inference: 'step' is not an inference setting"),
        ("{steps: 0}", "steps is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(run_of(data, f"inference={entry}"), Processes(cpu=True))


def test_unknown_trainable_modules_are_an_error() -> None:
    unet = UNet3DConditionModel(UNetConfig.from_dict(UNET))
    with pytest.raises(ValueError, match="contains 'motion_modules.'; names have attentions"):
        choose_trainable(unet, ["motion_modules."])


def test_encoding_in_the_step_matches_the_cached_latents(data: Path) -> None:
    """Pixels are encoded to samples of the posterior whose mean is cached; the same items give the same samples."""
    live, cached = step_of(data, "data.cached_latents=false"), step_of(data)
    generators = [[item_generator(7, position) for position in (0, 1)] for _ in range(2)]
    encoded = [live[0]._encoded(live[1], each) for each in generators]
    assert_same(encoded[0].present(), encoded[1].present())
    with torch.no_grad():
        spread = live[0].encoder.net.encode(frames_of(live[1].pixels)).latent_dist.std * 0.18215  # type: ignore[union-attr]
    difference = frames_of(encoded[0].latents - cached[1].latents)  # type: ignore[operator]
    assert 0.5 < float((difference / spread).std()) < 1.5
    loss = live[0](live[1], live[2])["recon"]
    assert torch.isfinite(loss) and torch.equal(loss, live[0](live[1], live[2])["recon"])


def test_frozen_random_weights_are_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="they are random: set init_from"):
        prepare(run_of(data, *STAGE2, "init_from="), Processes(cpu=True))


def test_missing_features_are_computed_before_the_first_step(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    places = [f"data.cache_dir={tmp_path / 'cache'}", f"data.train_output_dir={tmp_path / 'out'}", "train.max_steps=1"]
    for _ in range(2):
        train_unet(run_of(data, *places), Processes(cpu=True))
    filled = [line for line in caplog.messages if "computed now" in line]
    assert len(filled) == 2 and "no whisper" in filled[0] and "no latents" in filled[1]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stage", [(), STAGE2], ids=["stage1", "stage2"])
def test_a_run_resumed_after_a_kill_equals_an_uninterrupted_one(
    data: Path, tmp_path: Path, stage: tuple[str, ...], count: int
) -> None:
    def folder(name: str) -> tuple[str, ...]:
        return (*stage, f"data.train_output_dir={tmp_path / name}")

    assert run_together(train, count, data, folder("whole")) == [0] * count
    assert run_together(train, count, data, folder("killed"), 3)[0] == KILLED
    assert final_state(tmp_path / "killed")["step"] == 2
    assert run_together(train, count, data, folder("killed")) == [0] * count
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    assert whole["step"] == 4 and len(whole["randomness"]) == count  # type: ignore[arg-type]
    assert_same(whole, killed)


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_same_batch(data: Path, tmp_path: Path) -> None:
    rows, validated = [], []
    clips = [f"data.val_data_dir={data.parent / 'clips'}", "validation.clips=3", "inference={steps: 1}"]
    for count in (1, 2):
        folder = tmp_path / str(count)
        places = [f"data.train_output_dir={folder}", *clips, "train.validation_steps=4"]
        assert run_together(train, count, data, (*STAGE2, *places)) == [0] * count
        validated.append(json.loads((folder / "validation.jsonl").read_text()))
        assert len(list((folder / "validation/step-00000004").glob("*.mp4"))) == 3, "the processes share the clips"
        rows.append([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()])
    for one, two in zip(*rows, strict=True):
        for name in ("recon", "sync", "grad_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-4), (one["step"], name)
    assert validated[1] == pytest.approx(validated[0], rel=1e-3)
    one_state, two_state = (final_state(tmp_path / str(count)) for count in (1, 2))
    assert one_state["next_position"] == two_state["next_position"] == 8


@pytest.mark.slow
def test_sharded_training_equals_unsharded_and_resumes_exactly(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch.distributed.fsdp", reason="this PyTorch has no FSDP")
    stage = (*STAGE2, "train.ema_decay=0.9", "train.max_steps=2")
    folders = {name: f"data.train_output_dir={tmp_path / name}" for name in ("alone", "whole", "killed")}
    assert run_together(train, 1, data, (*stage, folders["alone"])) == [0]
    assert run_together(train_sharded, 2, data, (*stage, folders["whole"])) == [0, 0]
    assert run_together(train_sharded, 2, data, (*stage, folders["killed"]), 2)[0] == KILLED
    assert run_together(train_sharded, 2, data, (*stage, folders["killed"])) == [0, 0]
    alone, whole, killed = (final_state(tmp_path / name) for name in folders)
    assert_same(whole, killed)
    for name in ("module", "ema"):
        one, two = alone[name], whole[name]
        assert all(torch.allclose(one[key], two[key], atol=1e-3) for key in one)  # type: ignore[index, call-overload]


def test_a_kill_during_a_save_loses_that_checkpoint_only(data: Path, tmp_path: Path) -> None:
    overrides = (f"data.train_output_dir={tmp_path / 'run'}",)
    assert run_together(train, 1, data, overrides, None, 3) == [KILLED]
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("*.partial")] == ["step-00000003.partial"]
    assert final_state(tmp_path / "run")["step"] == 2
    assert run_together(train, 1, data, overrides) == [0]
    assert final_state(tmp_path / "run")["step"] == 4
    assert not list((tmp_path / "run/checkpoints").glob("*.partial"))


def test_a_read_error_in_one_process_stops_all_with_the_same_message(tmp_path: Path) -> None:
    assert run_together(train_with_bad_item, 2, tmp_path, 1) == [0, 0]
    texts = {(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)}
    assert len(texts) == 1 and re.match("process 1 cannot read items.*the disk is gone", texts.pop())


def test_unreadable_clips_are_left_out_and_listed(data: Path, tmp_path: Path, capsys: Any) -> None:
    clips = data.parent / "clips"
    listed = tmp_path / "list.txt"
    (tmp_path / "broken.mp4").write_bytes((clips / "0.mp4").read_bytes()[:500])
    (tmp_path / "text.mp4").write_text("no video")
    names = [*sorted(map(str, clips.glob("*.mp4"))), "broken.mp4", "text.mp4", "gone.mp4"]
    listed.write_text("\n".join(names))
    overrides = [f"data.train_fileslist={listed}", f"data.train_output_dir={tmp_path / 'run'}", "train.max_steps=1"]
    assert main(["--unet_config_path", str(data), "--device", "cpu", *overrides]) == 0
    out = capsys.readouterr().out
    assert "3 clips" in out and "3 left out" in out and all(name in out for name in names[3:])
    listed.write_text("gone.mp4")
    assert main(["--unet_config_path", str(data), "--device", "cpu", *overrides]) == 2
    error = capsys.readouterr().err
    assert "None of the 1 clips can be used for training" in error and error.count("\n") == 1


def test_a_run_validates_and_stores_a_file_for_inference(data: Path, tmp_path: Path) -> None:
    run = run_of(
        data,
        *STAGE2,
        f"data.train_output_dir={tmp_path}",
        f"data.val_data_dir={data.parent / 'clips'}",
        "train.validation_steps=2",
        "validation.clips=2",
        "inference={steps: 2, guidance_scale: 1.5}",
    )
    training = train_unet(run, Processes(cpu=True))
    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert {"sync", "sync_truth", "silent_sync", "silent_motion", "psnr_db", "score"} <= rows[0].keys()
    assert {"loss_recon", "loss_sync"} <= rows[0].keys()
    last = rows[-1]
    assert last["score"] == pytest.approx(0.01 * last["psnr_db"] - 0.25 * last["silent_motion"], rel=1e-3), (
        "the SyncNet that teaches does not count"
    )
    near = 1 - abs(last["sync"] - last["sync_truth"]) / last["sync_truth"]
    assert last["sync_nearness"] == pytest.approx(near, abs=1e-3) and "motion_nearness" in last
    assert sorted(path.name for path in (tmp_path / "validation/step-00000004").iterdir()) == ["00_0.mp4", "01_1.mp4"]
    assert {"losses.png", "validation.png", "config.yaml"} <= {path.name for path in tmp_path.iterdir()}
    stored = tmp_path / "checkpoints/step-00000004/weights.safetensors"
    unet, facts = configured_unet(stored, None)
    assert (facts["resolution"], facts["num_frames"], facts["step"]) == (RESOLUTION, NUM_FRAMES, 4)
    assert facts["run"]["train"]["loss_weights"] == {"sync": 0.05}
    averaged = training.trainer.averaged_state()
    assert all(torch.equal(value, averaged[f"unet.{name}"]) for name, value in unet.state_dict().items())
    assert load(tmp_path / "config.yaml", UNetRun) == run


def test_init_from_loads_the_tensors_that_fit(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    torch.manual_seed(3)
    stage1 = UNet3DConditionModel(UNetConfig.from_dict(UNET))
    save_state(
        tmp_path / "public.pt", {"global_step": 7, "state_dict": {**stage1.state_dict(), "extra": torch.ones(1)}}
    )
    run = run_of(
        data,
        *STAGE2,
        f"init_from={tmp_path / 'public.pt'}",
        "train.max_steps=0",
        f"data.train_output_dir={tmp_path / 'r'}",
    )
    training = train_unet(run, Processes(cpu=True))
    loaded = training.step.unet.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in stage1.state_dict().items())
    assert re.search(r"\d+ newly initialised \(.*motion_modules.*1 of the file unused \(extra\)", caplog.text)


def test_the_alignment_is_stored_and_a_mismatch_with_init_from_is_logged(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = UNet3DConditionModel(UNetConfig.from_dict(UNET)).state_dict()
    old = {key.replace(".attn2.", ".audio_cross_attn.attn."): value for key, value in weights.items()}
    torch.save({"state_dict": old}, tmp_path / "first_release.pt")
    for alignment, is_logged in (("", True), ("whole_nose", False)):
        caplog.clear()
        run = run_of(data, f"init_from={tmp_path / 'first_release.pt'}", f"data.alignment={alignment}")
        training = prepare(run, Processes(cpu=True))
        assert ("trained with the alignment whole_nose" in caplog.text) == is_logged
        assert training.file.metadata(0)["alignment"] == (alignment or "nose_tip")
    with pytest.raises(ValueError, match="data.alignment is 'chin': choose nose_tip or whole_nose"):
        run_of(data, "data.alignment=chin")


def test_weights_of_a_higher_resolution_are_refused(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    weights = UNet3DConditionModel(UNetConfig.from_dict(UNET)).state_dict()
    for size, word in ((32, "trained at 32 px and is trained further at 64 px"), (None, "does not say at which")):
        save_checkpoint(tmp_path / "start.safetensors", weights, describe("unet", UNET, 1, resolution=size))
        prepare(run_of(data, f"init_from={tmp_path / 'start.safetensors'}"), Processes(cpu=True))
        assert word in caplog.text
    save_checkpoint(tmp_path / "start.safetensors", weights, describe("unet", UNET, 1, resolution=128))
    with pytest.raises(
        ValueError, match="was trained at 128 px, but data.resolution is 64: use a configuration for 128"
    ):
        prepare(run_of(data, f"init_from={tmp_path / 'start.safetensors'}"), Processes(cpu=True))


def test_clips_that_are_smaller_than_the_resolution_give_a_warning(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unet_index(run_of(data, "data.resolution=72"), Processes(cpu=True))
    assert "3 of 3 clips are smaller than data.resolution, 72 px (the smallest has 64 px)" in caplog.text


def test_another_start_is_another_run_and_the_stored_weights_know_theirs(data: Path, tmp_path: Path) -> None:
    start, other = shutil.copy(data.parent / "start.pt", tmp_path / "start.pt"), tmp_path / "other.pt"
    folder = f"data.train_output_dir={tmp_path / 'run'}"
    train_unet(run_of(data, folder, f"init_from={start}", "train.max_steps=1"), Processes(cpu=True))
    before = read_checkpoint(tmp_path / "run/checkpoints/step-00000001/weights.safetensors").metadata["origin"]
    assert before["files"]["init_from"] == network_key(start)
    save_state(other, {"state_dict": UNet3DConditionModel(UNetConfig.from_dict(UNET)).state_dict()})
    with pytest.raises(ValueError, match="belongs to another run: init_from has another content"):
        train_unet(run_of(data, folder, f"init_from={other}"), Processes(cpu=True))
    changed = ("train.max_steps=2", "train.learning_rate=1e-4")
    train_unet(run_of(data, folder, f"init_from={start}", *changed), Processes(cpu=True))
    after = read_checkpoint(tmp_path / "run/checkpoints/step-00000002/weights.safetensors").metadata["origin"]
    assert after["files"] == before["files"] and after["changes"][0]["step"] == 1
    assert after["changes"][0]["settings"]["train.learning_rate"] == [1e-3, 1e-4]
    command = ["--unet_config_path", str(data), "--device", "cpu", folder, "train.max_steps=1", f"init_from={other}"]
    assert main(command) == 2 and main([*command, "--fresh"]) == 0
    assert final_state(tmp_path / "run")["step"] == 1
    [kept] = tmp_path.glob("run-*")
    assert final_state(kept)["step"] == 2


def test_a_dry_run_prints_sizes_and_writes_no_run_folder(data: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    overrides = [*STAGE2, f"data.train_output_dir={folder}"]
    assert main(["--unet_config_path", str(data), "--dry_run", "--device", "cpu", *overrides]) == 0
    out = capsys.readouterr().out
    assert re.search(r"syncnet +0.000", out) and "2x4x4x8x8" in out and "memory, one process: about" in out
    assert "sync" in out and not folder.exists()
    assert re.search(r"disk: about [\d.]+ GiB: 5 checkpoints of [\d.]+ \(train.keep_checkpoints=3, the best", out)


@pytest.mark.parametrize("name", ["stage1", "stage2_512"])
@pytest.mark.slow
def test_full_size_configurations_pass_a_dry_run_on_meta(name: str) -> None:
    run = run_of(
        CONFIGS / f"unet/{name}.yaml",
        f"frozen_networks.syncnet_config={CONFIGS / 'syncnet/syncnet_16_pixel_attn.yaml'}",
    )
    run.data.batch_size = 1
    text = dry_run_on_meta(run)
    trained, frozen = (float(value) for value in re.search(r"U-Net +([\d.]+) +([\d.]+)", text).groups())  # type: ignore[union-attr]
    assert trained + frozen == pytest.approx(849.962 if name == "stage1" else 1267.1, abs=0.9)
    assert ("trepa" in text) == (name != "stage1") and "GiB" in text


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden tables are not available")
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_match_the_public_ones(name: str) -> None:
    recorded = json.loads(GOLDEN.read_text())
    run = load(CONFIGS / f"unet/{name}.yaml", UNetRun)
    config = run.net
    expected = dict(recorded["config_model_sections"]["stage1"])
    is_first = name in (
        "stage1",
        "stage1_512",
        "first_stage",
        "second_stage",
    )  # release 1.0's second stage has no motion modules either
    expected["use_motion_module"] = not is_first
    expected["motion_module_decoder_only"] = name == "stage2_efficient"
    assert config == UNetConfig.from_dict(expected)
    with torch.device("meta"):
        unet = UNet3DConditionModel(config)
    counts = recorded["counts"]["stage1" if is_first else name.replace("_512", "")]
    assert len(unet.state_dict()) == counts["keys"]
    choose_trainable(unet, run.trainable_modules)
    parts = {"stage2_efficient": ("motion_modules.", "attn2.")}.get(name, ("motion_modules.", "attentions."))
    for key, parameter in unet.named_parameters():
        assert parameter.requires_grad == (is_first or any(part in key for part in parts)), key


def test_half_weights_are_stored_in_float16(tmp_path: Path, data: Path) -> None:
    run = run_of(data, "half_weights=true", "train.max_steps=1", f"data.train_output_dir={tmp_path}")
    train_unet(run, Processes(cpu=True))
    checkpoint = read_checkpoint(tmp_path / "checkpoints/step-00000001/weights.safetensors")
    assert checkpoint.metadata["kind"] == "unet" and {t.dtype for t in checkpoint.tensors.values()} == {torch.float16}
