"""Judges of sampled lips that do not teach, and which measures rank the checkpoints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.config import UNetRun
from latentsync.config.common import TrainConfig
from latentsync.metrics.lips.aperture import lip_apertures
from latentsync.models.syncnet_v2 import SyncNetV2
from latentsync.training.unet import judges
from latentsync.training.unet.judges import (
    Sides,
    expert_measures,
    load_expert,
    mean_measures,
    nearness,
    opening_measures,
)
from latentsync.training.unet.train import score_weights
from latentsync.training.unet.validate import score

FRAMES, SIDE = 12, 64


def mouths(openings: np.ndarray) -> np.ndarray:
    """Plain faces with a dark mouth that is open by `openings` [f], as fractions of the side: uint8 [f, r, r, 3]."""
    faces = np.full((len(openings), SIDE, SIDE, 3), (200, 150, 130), np.uint8)
    for face, opening in zip(faces, openings, strict=True):
        half = round(opening * SIDE / 2)
        face[46 - half : 46 + half, 24:40] = (40, 20, 20)
    return faces


def test_the_opening_of_drawn_mouths_judges_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "read_lips", lip_apertures)
    truth = 0.1 + 0.08 * np.sin(np.arange(FRAMES))
    right, still = mouths(truth), mouths(np.full(FRAMES, 0.1))
    found = opening_measures(Sides(right, still, right), truth)
    assert found["aperture"] == found["aperture_truth"] > 0.9 and found["silent_aperture"] == 0
    assert opening_measures(Sides(mouths(0.2 - truth), right, right), truth)["aperture"] < -0.9
    assert opening_measures(Sides(still, right, right), truth)["silent_aperture"] > 0.9, "a leak is seen"


def test_syncnet_v2_judges_both_sides_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    faces, waveform = rng.integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8), rng.normal(0, 0.1, 8 * 640)
    found = expert_measures(SyncNetV2().eval(), Sides(faces, faces[::-1], faces), waveform)
    assert found["confidence"] == found["confidence_truth"] and np.isfinite(found["confidence"])
    assert load_expert(torch.device("cpu"), tmp_path / "missing.model") is None


def test_means_are_over_the_clips_that_have_a_measure() -> None:
    rows = [{"psnr_db": 20.0, "aperture": 0.5, "aperture_truth": 1.0}, {"psnr_db": 30.0}]
    found = mean_measures(rows)
    assert found == {"psnr_db": 25.0, "aperture": 0.5, "aperture_truth": 1.0, "aperture_nearness": 0.5}
    assert (nearness(3.0, 2.0), nearness(2.0, 2.0), nearness(-1.0, -2.0)) == (0.5, 1.0, 0.5)


def test_the_network_that_teaches_does_not_rank_the_checkpoints() -> None:
    teaching = UNetRun(train=TrainConfig(loss_weights={"sync": 0.05}))
    first, second = {"sync": 0.9, "aperture": 0.5, "lpips": 0.1}, {"sync": 0.5, "aperture": 0.8, "lpips": 0.1}
    assert score(second, score_weights(teaching)) > score(first, score_weights(teaching))
    assert score({**first, "sync": 0.0}, score_weights(teaching)) == score(first, score_weights(teaching))
    other = replace(teaching, train=TrainConfig())
    assert score(first, score_weights(other)) > score(second, score_weights(other)), (
        "without the loss it is a judge too"
    )
