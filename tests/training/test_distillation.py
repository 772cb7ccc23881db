"""Distilling a U-Net: the teacher's guided step, exact resume after a kill, the stored preset, and delta files."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentsync.config import UNetRun, load
from latentsync.data.unet_clips import collate
from latentsync.diffusion.noise import add_noise
from latentsync.inference.model_files import recommended
from latentsync.models.unet.checkpoint import load_unet
from latentsync.training.engine.distributed import Processes
from latentsync.training.engine.loop import item_generator
from latentsync.training.unet.distill import DistillStep
from latentsync.training.unet.train import prepare, train_unet
from latentsync.weights import CheckpointError, read_checkpoint, save_checkpoint
from tests.support.tiny_training import UNET, make_data
from tests.support.training_program import run_together, train
from tests.training.test_training import assert_same, final_state

KILLED = -9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("distillation") / "data")


def distilling(data: Path, *overrides: str) -> tuple[str, ...]:
    teacher = data.parent / "start.pt"
    return (
        f"distill.teacher={teacher}",
        "distill.skip=100",
        "objective.audio_dropout=0",
        "inference.preset=turbo",
        *overrides,
    )


@pytest.mark.slow
def test_a_killed_distillation_resumes_exactly_and_its_file_sets_the_preset(data: Path, tmp_path: Path) -> None:
    runs = {name: distilling(data, f"data.train_output_dir={tmp_path / name}") for name in ("whole", "killed")}
    assert run_together(train, 1, data, runs["whole"]) == [0]
    assert run_together(train, 1, data, runs["killed"], 3) == [KILLED]
    assert run_together(train, 1, data, runs["killed"]) == [0]
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    assert whole["step"] == 4
    assert_same(whole, killed)
    checkpoint = read_checkpoint(tmp_path / "whole/checkpoints/step-00000004/weights.safetensors")
    assert checkpoint.metadata["distilled"]["skip"] == 100
    settings = recommended(checkpoint.metadata)
    assert (settings.preset, settings.solver, settings.guidance_scale) == ("turbo", "lcm", 1.0)
    assert not any(name.startswith("target.") for name in checkpoint.tensors)


def test_the_teacher_predicts_with_guidance_and_the_loss_falls(data: Path, tmp_path: Path) -> None:
    run = load(data, UNetRun, distilling(data, f"data.train_output_dir={tmp_path}"))
    training = prepare(run, Processes(cpu=True))
    step = training.step
    assert isinstance(step, DistillStep)
    batch, positions = collate([training.data[0], training.data[1]]), torch.tensor([0, 1])
    latents = batch.latents
    assert latents is not None
    drawn = step.draw(latents, [item_generator(step.seed, position) for position in (0, 1)])
    assert all(int(t) % 100 == 99 for t in drawn.timesteps)
    noisy = add_noise(latents, drawn.noise, drawn.timesteps, step.schedule)
    plain = replace(step.plan, guidance_scale=1.0)
    step.plan, guided = plain, step._teacher_noise(noisy, drawn.timesteps, batch)
    unguided = step._teacher_noise(noisy, drawn.timesteps, batch)
    silent = step._teacher_noise(noisy, drawn.timesteps, replace(batch, audio=torch.zeros_like(batch.audio)))
    torch.testing.assert_close(guided, silent + 1.5 * (unguided - silent), rtol=1e-3, atol=1e-4)
    step.train()
    optimizer = torch.optim.Adam(step.unet.parameters(), 3e-3)
    errors = []
    for _ in range(12):
        loss = step(batch, positions)["consistency"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.8 * errors[0]
    assert all(p.grad is None for p in step.target.parameters()) and not step.teacher.net.training


def test_a_delta_is_loaded_with_its_base(data: Path, tmp_path: Path) -> None:
    whole = tmp_path / "a" / "whole.safetensors"
    save_checkpoint(whole, read_checkpoint(data.parent / "start.pt").tensors, {"kind": "unet", "model": UNET})
    part = tmp_path / "a" / "part.safetensors"
    places = (f"init_from={whole}", f"data.train_output_dir={tmp_path / 'run'}", "train.max_steps=1")
    run = load(data, UNetRun, distilling(data, "trainable_modules=[attn2]", "store_changes=true", *places))
    training = train_unet(run, Processes(cpu=True))
    weights = training.trainer.averaged_state()
    training.file.save(part, weights, 1)
    assert part.stat().st_size < 0.5 * whole.stat().st_size
    unet, metadata = load_unet(part)
    assert metadata["distilled"] and all(torch.equal(v, weights[f"unet.{n}"]) for n, v in unet.state_dict().items())
    alone = shutil.copy(part, tmp_path / "part.safetensors")
    assert read_checkpoint(alone).tensors.keys() == unet.state_dict().keys()  # the base is found at its stored path
    other = {name: tensor + 1 for name, tensor in read_checkpoint(whole).tensors.items()}
    save_checkpoint(whole, other, {"kind": "unet", "model": UNET})
    with pytest.raises(CheckpointError, match="a delta to another file"):
        load_unet(part)
    whole.unlink()
    with pytest.raises(CheckpointError, match=r"differ from whole\.safetensors"):
        load_unet(part)


def test_distillation_refuses_audio_dropout(data: Path) -> None:
    with pytest.raises(ValueError, match="set objective.audio_dropout=0"):
        load(data, UNetRun, distilling(data, "objective.audio_dropout=0.1"))
