"""The training loop and its data: resuming changes nothing, references never overlap, errors name the way out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentsync.config import ModelRun, TrainConfig, load
from latentsync.data.aligned import AUDIO, FACES, aligned_clips
from latentsync.data.latents import ClipLatents, latent_batch, load_latents, precompute
from latentsync.metrics.sync import ClipEmbeddings, accuracy, best_threshold, find_offset, pair_similarities
from latentsync.models.vae import build_vae, decode, encode, fold_latent_statistics
from latentsync.training.loop import Losses, Trainer, batch_generator


class Regression:
    """A small problem with random batches and dropout, so that a wrong resume shows."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def __call__(self, step: int) -> Losses:
        x = torch.randn(16, 4, generator=batch_generator(1, step))
        return {"recon": (self.net(x) - x.sum(1, keepdim=True)).pow(2).mean()}


def run_to(folder: Path, stops: list[int]) -> dict[str, Tensor]:
    for stop in stops:
        problem = Regression()
        config = TrainConfig(run_dir=str(folder), max_steps=4, warmup_steps=1, checkpoint_steps=100, log_steps=1)
        trainer = Trainer(problem.net, problem, config)
        trainer.train(lambda row: None, stop_step=stop)
    return {**problem.net.state_dict(), **{f"ema.{k}": v for k, v in trainer.ema.average.items()}}


def test_four_steps_equal_two_a_stop_and_two_more(tmp_path: Path) -> None:
    whole, halves = run_to(tmp_path / "a", [4]), run_to(tmp_path / "b", [2, 4])
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert [json.loads(line)["step"] for line in (tmp_path / "b/log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(tmp_path: Path) -> None:
    problem = Regression()
    before = [p.clone() for p in problem.net.parameters()]
    trainer = Trainer(
        problem.net, lambda step: {"recon": problem(step)["recon"] * float("nan")}, TrainConfig(str(tmp_path), 2)
    )
    trainer.train(lambda row: None)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.net.parameters(), strict=True))


def test_references_never_overlap_the_clip_they_serve() -> None:
    frames = torch.arange(14.0)[:, None, None, None].expand(-1, 4, 2, 2)
    clip = ClipLatents(frames.half(), frames.half(), torch.zeros(28, 2, 3).half())
    for seed in range(50):
        batch = latent_batch([clip], 2, 4, torch.Generator().manual_seed(seed))
        gap = (batch.latents[:, 0, 0] - batch.reference_latents[:, 0, 0]).abs()
        assert batch.latents.shape == (2, 4, 4, 2, 2) and batch.audio.shape == (2, 4, 20, 3) and gap.min() >= 4


def test_precomputed_latents_are_those_of_the_clip(tmp_path: Path) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / f"a{FACES}", faces)
    np.save(tmp_path / f"a{AUDIO}", np.zeros(3840, np.float32))
    clip = aligned_clips(tmp_path)[0]
    half = torch.ones(32, 32)
    half[16:] = 0
    precompute(clip, tmp_path, lambda x: x.mean((2, 3), keepdim=True), lambda w: torch.ones(12, 1, 2), half)
    stored = load_latents(tmp_path, 6)[0]
    expected = torch.from_numpy(faces).float().mean((1, 2)) / 127.5 - 1
    assert torch.allclose(stored.latents[:, :, 0, 0].float(), expected, atol=1e-3)
    assert not torch.allclose(stored.masked_latents.float(), stored.latents.float(), atol=1e-3)
    with pytest.raises(ValueError, match="no clip of 7 frames"):
        load_latents(tmp_path, 7)


def test_folding_statistics_scales_latents_and_keeps_pictures() -> None:
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


def test_offset_and_accuracy_of_perfect_embeddings() -> None:
    rows = torch.eye(30)
    assert find_offset(rows, rows) == 0
    assert find_offset(rows[:-4], rows[4:]) == -4 and find_offset(rows[4:], rows[:-4]) == 4
    other = torch.eye(60)[30:, :30] * 0
    clips = [ClipEmbeddings(rows, rows), ClipEmbeddings(other, other)]
    right, wrong = pair_similarities(clips, 5, torch.Generator().manual_seed(0))
    assert accuracy(right[:30], wrong) == 1.0
    assert best_threshold(torch.tensor([0.9, 0.8]), torch.tensor([0.7, 0.1])) == 0.7


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  learning_rte: 1.0\n")
    with pytest.raises(ValueError, match="learning_rte.*learning_rate"):
        load(path, ModelRun)
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "missing.yaml", ModelRun)
