"""Networks and formulas of the evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch

import latentsync.audio.mfcc as front_end
from latentsync.audio.mfcc import EXPERT, mfcc
from latentsync.losses.perceptual import PerceptualLoss, build_lpips, load_perceptual_loss
from latentsync.metrics.pictures.set_distances import feature_statistics, frechet_distance, scored_face, scored_frames
from latentsync.metrics.sync.offset import (
    CEPSTRA_PER_FRAME,
    combine_tracks,
    count_windows,
    embed_track,
    find_sync_offset,
    most_similar_offset,
    offset_in_words,
    shift_distances,
)
from latentsync.models.hyper_iqa import quality_frames, quality_inputs
from latentsync.models.s3fd import detections, load_s3fd
from latentsync.models.syncnet_v2 import WINDOW_CEPSTRA, SyncNetV2, load_syncnet_v2
from latentsync.weights import CheckpointError, save_state


@pytest.fixture(scope="module")
def expert() -> SyncNetV2:
    torch.manual_seed(0)
    return SyncNetV2().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vgg() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    tensors: dict[str, torch.Tensor] = {}
    for index, place in enumerate([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]):
        inputs, outputs = sizes[index : index + 2]
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        tensors |= {f"features.{place}.weight": weight, f"features.{place}.bias": torch.zeros(outputs)}
    return tensors


def linear() -> dict[str, torch.Tensor]:
    return {f"lin{i}.model.1.weight": torch.ones(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cepstra_do_not_depend_on_blocks_and_are_finite_in_silence(monkeypatch: pytest.MonkeyPatch):
    samples = (1000 * noise(8123)).numpy()
    whole = mfcc(samples)
    monkeypatch.setattr(front_end, "FRAMES_PER_BLOCK", 7)
    np.testing.assert_allclose(mfcc(samples), whole, rtol=0, atol=1e-9)
    assert np.isfinite(mfcc(np.zeros(1600, np.int16))).all()
    assert len(mfcc(samples[:1])) == len(mfcc(samples[: EXPERT.window])) == 1
    with pytest.raises(ValueError, match="mono"):
        mfcc(np.zeros((2, 800)))


@pytest.mark.parametrize("shift", [-14, -3, 0, 5, 14])
def test_offset_is_found_up_to_the_ends_of_the_range(shift: int):
    source = noise(70, 32)
    lips, sound = source[15:45], source[15 + shift : 45 + shift] + 0.1 * noise(30, 32, seed=1)
    found = find_sync_offset(shift_distances(lips, sound))
    assert found.offset_frames == shift  # audio that shows a later moment is early
    assert found.confidence > 3
    unit = [torch.nn.functional.normalize(rows) for rows in (lips, sound)]
    assert most_similar_offset(*unit, max_offset=15) == shift


def test_offsets_in_words():
    assert [offset_in_words(each) for each in (3, -1, 0)] == ["3 frames early", "1 frame late", "in sync"]


def test_clip_shorter_than_the_shifts_and_mismatching_embeddings():
    lips = noise(4, 32)
    assert find_sync_offset(shift_distances(lips, lips)).offset_frames == 0
    with pytest.raises(ValueError, match="same shape"):
        shift_distances(lips, lips[:3])


def test_number_of_windows_that_video_and_audio_fill():
    for num_samples in range(0, 12_000, 77):
        rows = len(mfcc(np.zeros(num_samples))) if num_samples else 0
        count = count_windows(1000, num_samples)
        assert (rows >= WINDOW_CEPSTRA + CEPSTRA_PER_FRAME * (count - 1)) if count else rows < WINDOW_CEPSTRA
        assert rows < WINDOW_CEPSTRA + CEPSTRA_PER_FRAME * count
    assert count_windows(50, 40_000) == 46 and count_windows(50, 40_000, published=True) == 45
    assert count_windows(4, 40_000) == 0


def test_embeddings_of_a_track_do_not_depend_on_the_batch(expert: SyncNetV2):
    faces = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), np.uint8)
    samples = (3000 * noise(8 * 640 + 200)).numpy()
    whole, parts = (embed_track(expert, faces, 8, samples, batch_size=size) for size in (20, 2))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    last = torch.from_numpy(faces[-5:]).flip(-1).permute(3, 0, 1, 2)[None].float()
    assert len(whole[0]) == 4
    torch.testing.assert_close(whole[0][-1:], expert.embed_lips(last), atol=1e-4, rtol=1e-4)
    assert [part.shape for part in embed_track(expert, faces[:4], 4, samples)] == [(0, 1024)] * 2


def test_offsets_of_tracks_are_rounded_to_the_nearest():
    tracks = [find_sync_offset(shift_distances(noise(40, 8)[5:35], noise(40, 8)[5 + s : 35 + s])) for s in (-2, -1, -2)]
    assert combine_tracks(tracks)[0] == -2 and combine_tracks(tracks, published=True)[0] == -1
    with pytest.raises(ValueError, match="face track"):
        combine_tracks([])


def test_expert_loads_from_a_file_without_counters(expert: SyncNetV2, tmp_path: Path):
    tensors = {key: value for key, value in expert.state_dict().items() if not key.endswith("num_batches_tracked")}
    save_state(tmp_path / "syncnet_v2.model", tensors)
    loaded = load_syncnet_v2(tmp_path / "syncnet_v2.model")
    cepstra = noise(1, 1, 13, 20)
    assert torch.equal(loaded.embed_audio(cepstra), expert.embed_audio(cepstra))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_s3fd(tmp_path / "syncnet_v2.model")


def test_frechet_distance_of_known_normals_also_with_few_samples():
    first, second = noise(400, 3).double().numpy(), noise(300, 3, seed=1).double().numpy()
    a, b = feature_statistics(first), feature_statistics(second)
    roots = np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).real).sum()
    want = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * roots
    assert frechet_distance(a, b) == pytest.approx(want) == pytest.approx(frechet_distance(b, a))
    few = feature_statistics(noise(4, 50).numpy())
    moved = feature_statistics(noise(4, 50).numpy() + 2)
    assert frechet_distance(few, moved) == pytest.approx(50 * 4, rel=1e-6)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)


def test_frechet_refuses_unsuitable_features_and_boxes():
    with pytest.raises(ValueError, match="two clips"):
        feature_statistics(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="not finite"):
        feature_statistics(np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet_distance(feature_statistics(np.eye(3)), feature_statistics(np.eye(4)))
    with pytest.raises(ValueError, match="36 frames"):
        scored_frames(35)
    assert list(scored_frames(36)) == list(range(20, 36))
    frame = np.zeros((60, 80, 3), np.uint8)
    assert scored_face(frame, (-0.1, 0.5, 0.5, 0.9)).shape == (224, 224, 3)
    with pytest.raises(ValueError, match="outside"):
        scored_face(frame, (1.1, 0.0, 0.2, 0.2))


def test_quality_uses_the_centre_of_three_frames():
    assert quality_frames(1) == [0, 0, 0] and quality_frames(10) == [0, 5, 9]
    frames = torch.zeros(1, 256, 300, 3, dtype=torch.uint8)
    frames[:, 16:240, 38:262] = 255
    inputs = quality_inputs(frames)
    assert inputs.shape == (1, 3, 224, 224) and inputs.min() > 2
    small = quality_inputs(torch.full((1, 100, 300, 3), 255, dtype=torch.uint8))
    assert small.shape == (1, 3, 224, 224) and small[0, :, 0].max() < -1 and small[0, :, 112].min() > 2


def test_perceptual_loss_uses_the_lower_half_only(vgg: dict[str, torch.Tensor]):
    loss = PerceptualLoss(build_lpips(vgg, linear(), "test")).train()
    target = noise(2, 3, 64, 64).tanh()
    upper, lower = target.clone(), target.clone()
    upper[..., :32, :] *= -1
    lower[1, :, 32:] *= -1
    assert loss(upper, target).tolist() == [0, 0]
    lower.requires_grad_()
    distances = loss(lower, target)
    assert distances.shape == (2,) and distances[0] == 0 and distances[1] > 0
    distances.mean().backward()
    assert lower.grad is not None and lower.grad[1, :, 32:].abs().sum() > 0 and not lower.grad[..., :32, :].any()
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_perceptual_loss_names_a_missing_or_foreign_file(vgg: dict[str, torch.Tensor], tmp_path: Path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_perceptual_loss(tmp_path / "vgg16.pth")
    with pytest.raises(CheckpointError, match=r"features\.28\.bias"):
        build_lpips({key: value for key, value in vgg.items() if key != "features.28.bias"}, linear(), "file")
    save_state(tmp_path / "vgg16.pth", vgg)
    assert isinstance(load_perceptual_loss(tmp_path / "vgg16.pth"), PerceptualLoss)


def test_overlapping_detections_keep_the_best():
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]])
    found = detections(torch.zeros(4, 4), torch.tensor([0.6, 0.9, 0.7, 0.01]), priors)
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.41, 0.4, 0.61, 0.6], [0.7, 0.15, 0.15, 0.25, 0.25]]))
