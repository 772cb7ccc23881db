"""Formulas of the metrics against independent values: closed forms, SciPy, scikit-image, torchmetrics."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, pearsonr

from latentsync.face.align import align_matrix
from latentsync.files import file_hash, network_hash
from latentsync.metrics.cache import FeatureCache
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.leakage import paired_correlation, silent_mouth
from latentsync.metrics.lips.motion import jitter, seam_jump
from latentsync.metrics.lips.scores import landmark_aperture, landmark_distance
from latentsync.metrics.pictures.compare import frame_scores
from latentsync.metrics.pictures.image_quality import BEST_PSNR, psnr, ssim, ssim_map, weighted_mean
from latentsync.metrics.pictures.set_distances import cmmd, kernel_discrepancy
from latentsync.metrics.regions import RESOLUTION, frame_regions, generated_region
from latentsync.metrics.statistics import bootstrap_interval, summarise
from latentsync.metrics.sync.accuracy import ClipEmbeddings, judge_clip


def noisy_pair(seed: int = 0, height: int = 60, width: int = 72) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = rng.integers(0, 256, (height // 12, width // 12, 3)).repeat(12, 0).repeat(12, 1)
    noisy = np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255)
    return smooth.astype(np.uint8), noisy.astype(np.uint8)


def test_psnr_and_ssim_equal_those_of_scikit_image_and_torchmetrics():
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image gives the foreign values")
    functional = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics gives the foreign values")
    a, b = noisy_pair()
    assert psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=255), abs=1e-4)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    wanted, full = metrics.structural_similarity(a, b, channel_axis=-1, full=True, **options)
    assert ssim(a, b) == pytest.approx(wanted, abs=1e-9)
    np.testing.assert_allclose(ssim_map(a, b), full.mean(-1), atol=1e-9)
    planes = [torch.from_numpy(x).permute(2, 0, 1)[None].double() for x in (a, b)]
    _, torch_map = functional.structural_similarity_index_measure(*planes, data_range=255.0, return_full_image=True)
    inner = (slice(10, -10), slice(10, -10))  # the two treat the edges differently
    np.testing.assert_allclose(ssim_map(a, b)[inner], torch_map[0].mean(0).numpy()[inner], atol=1e-9)
    assert psnr(a, b) == pytest.approx(float(functional.peak_signal_noise_ratio(*planes, data_range=255.0)), abs=1e-4)


def test_psnr_of_a_known_error_in_each_region():
    a = np.full((20, 20, 3), 100, np.uint8)
    b = a.copy()
    b[:10] += 5  # mean square 25 in the upper half
    upper = np.zeros((20, 20), np.float32)
    upper[:10] = 1
    assert psnr(a, b, upper) == pytest.approx(10 * math.log10(255**2 / 25))
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 12.5))
    assert psnr(a, b, 1 - upper) == BEST_PSNR == psnr(a, a)
    assert ssim(a, a) == pytest.approx(1)
    with pytest.raises(ValueError, match="20 x 20"):
        psnr(a, b[:15])
    with pytest.raises(ValueError, match="empty"):
        weighted_mean(np.ones((2, 2)), np.zeros((2, 2), np.float32))


def upright_matrix(left: float = 60, top: float = 40) -> np.ndarray:
    """Of a face whose crop of 210 x 280 pixels begins at (left, top) of the frame, not resized."""
    template = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]]) * 2.8
    return align_matrix(template + (left, top), RESOLUTION)


def test_regions_lie_where_the_face_was_aligned():
    regions = frame_regions(upright_matrix(), (400, 360))
    inside, ring = regions["inside"], regions["ring"]
    rows, columns = np.nonzero(inside)
    # rows 95 ... 242 and columns 9 ... 247 of 256 x 256, in a crop of 280 x 210 at (40, 60)
    assert (rows.min(), rows.max()) == pytest.approx((40 + 95 * 280 / 256, 40 + 243 * 280 / 256), abs=2)
    assert (columns.min(), columns.max()) == pytest.approx((60 + 9 * 210 / 256, 60 + 248 * 210 / 256), abs=2)
    assert np.array_equal(regions["outside"], 1 - inside) and regions["full"].all()
    row = 40 + 140 * 280 // 256  # across the mouth the region is one span, with 8 px of ring at both ends
    assert ring[row].sum() == pytest.approx(16, abs=2) and (ring * inside)[row].sum() == pytest.approx(8, abs=2)


def test_an_error_changes_only_the_scores_of_its_region():
    a, _ = noisy_pair(height=384, width=348)
    inside = generated_region(upright_matrix(), (384, 348))
    b = np.where(inside[..., None] == 1, 255 - a, a).astype(np.uint8)
    scores = frame_scores(b, a, upright_matrix())
    assert scores["psnr_outside"] == BEST_PSNR and scores["psnr_inside"] < 20
    assert scores["psnr_inside"] < scores["psnr_ring"] < scores["psnr_outside"]
    assert scores["ssim_inside"] < scores["ssim_full"] < scores["ssim_outside"] < 1

    def absolute(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).abs().mean(1, keepdim=True)

    perceptual = frame_scores(b, a, upright_matrix(), absolute)
    assert perceptual["lpips_outside"] == 0 and perceptual["lpips_inside"] > perceptual["lpips_ring"] > 0


def test_interval_equals_scipys_and_ignores_the_order():
    values = np.random.default_rng(3).gamma(2.0, 1.0, 40)
    want = bootstrap((values,), np.mean, method="percentile", n_resamples=20000, random_state=1).confidence_interval
    assert bootstrap_interval(values, resamples=20000) == pytest.approx((want.low, want.high), abs=0.02)
    found, turned = summarise(values), summarise(values[::-1])
    assert found == turned
    assert (found.mean, found.spread) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert summarise([2.5]) == summarise([2.5, 2.5]).__class__(1, 2.5, 0.0, 2.5, 2.5)
    with pytest.raises(ValueError, match="No video"):
        summarise([])
    with pytest.raises(ValueError, match="not finite"):
        summarise([1.0, float("nan")])


def test_jitter_of_a_sine_has_its_closed_form():
    t, omega = np.arange(4000), 0.3
    wanted = 4 * 2.0 * math.sin(omega / 2) ** 2 / math.sqrt(2)  # amplitude 2
    assert jitter(2.0 * np.sin(omega * t)) == pytest.approx(wanted, rel=1e-3)
    assert jitter(5 + 3.0 * t) == pytest.approx(0, abs=1e-9)
    points = np.zeros((4000, 5, 2))
    points[..., 0], points[..., 1] = np.sin(omega * t)[:, None], np.cos(omega * t)[:, None]
    assert jitter(points) == pytest.approx(4 * math.sin(omega / 2) ** 2, rel=1e-6)
    gap = np.concatenate([3.0 * t[:50], [np.nan], 100 + 3.0 * t[:50]])
    assert jitter(gap) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="three consecutive"):
        jitter(np.array([1.0, np.nan, 2.0]))


def test_seam_jump_is_the_relative_excess_at_borders():
    changes = np.ones(63)
    assert seam_jump(changes) == pytest.approx(0)
    changes[[15, 31, 47]] = 2.5  # between frames 15 and 16, ...
    assert seam_jump(changes) == pytest.approx(1.5)
    changes[[15, 3]] = np.nan
    assert seam_jump(changes) == pytest.approx(1.5)
    assert seam_jump(np.ones(15)) is None and seam_jump(np.zeros(63)) is None
    with pytest.raises(ValueError, match="at least 2 frames"):
        seam_jump(changes, 1)


def faces68(count: int, eyes: float = 80.0) -> np.ndarray:
    points = np.zeros((count, 68, 2))
    points[:, 45, 0] = eyes
    points[:, 48:68] = np.random.default_rng(0).normal(0, 10, (20, 2)) + (40, 60)
    return points


def test_landmark_distance_is_measured_in_inter_ocular_distances():
    truth = faces68(6)
    moved = truth.copy()
    moved[:, 48:68] += (3, 4)
    assert landmark_distance(moved, truth) == pytest.approx(5 / 80)
    assert landmark_distance(moved * 2, truth * 2) == pytest.approx(5 / 80)  # a larger picture
    moved[2] = np.nan
    assert landmark_distance(moved, truth) == pytest.approx(5 / 80)
    with pytest.raises(ValueError, match="6 and 5"):
        landmark_distance(moved, truth[:5])
    with pytest.raises(ValueError, match="No frame"):
        landmark_distance(np.full_like(truth, np.nan), truth)
    lips = faces68(1)
    for upper, lower in ((61, 67), (62, 66), (63, 65)):
        lips[:, lower] = lips[:, upper] + (0, 16)
    assert landmark_aperture(lips) == pytest.approx([0.2])


def test_correlations_equal_scipys_and_leave_out_frames_without_a_face():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=50), rng.normal(size=50)
    b += a
    assert correlation(a, b) == pytest.approx(pearsonr(a, b).statistic)
    with_gap = a.copy()
    with_gap[7] = np.nan
    assert paired_correlation(with_gap, b) == pytest.approx(pearsonr(np.delete(a, 7), np.delete(b, 7)).statistic)


def test_silent_mouth_measures_the_remaining_movement():
    source = 0.1 + 0.05 * np.sin(np.arange(100))
    found = silent_mouth(0.02 + 0.25 * (source - 0.1), source)
    assert found.movement_kept == pytest.approx(0.25)
    assert found.opening == pytest.approx(0.02, abs=1e-3) and found.movement == pytest.approx(source.std() / 4)
    assert silent_mouth(np.zeros(100), np.zeros(100)).to_dict() == {"opening": 0.0, "movement": 0.0}


def test_discrepancy_of_two_points_has_its_closed_form():
    a, b = np.zeros((3, 2)), np.full((5, 2), 3.0)  # distance squared 18
    assert kernel_discrepancy(a, b, sigma=2.0) == pytest.approx(2 - 2 * math.exp(-18 / 8))
    assert kernel_discrepancy(a, a) == pytest.approx(0)
    x, y = np.random.default_rng(0).normal(size=(2, 7, 4))
    pairs = [[math.exp(-((p - q) ** 2).sum() / 200) for p in s for q in t] for s, t in ((x, x), (y, y), (x, y))]
    assert cmmd(x, y) == pytest.approx(1000 * (np.mean(pairs[0]) + np.mean(pairs[1]) - 2 * np.mean(pairs[2])))
    assert cmmd(x[::-1], y) == pytest.approx(cmmd(x, y)) == pytest.approx(cmmd(y, x))
    with pytest.raises(ValueError, match="discrepancy needs"):
        cmmd(x, y[:, :2])


def test_accuracy_of_perfect_and_of_random_embeddings():
    def clip(rows: torch.Tensor) -> ClipEmbeddings:
        return ClipEmbeddings(rows, rows)

    knowing, other = clip(torch.eye(40)[:20]), clip(torch.eye(40)[20:])
    found = judge_clip(knowing, other, 6, 0.5)
    assert found == {"accuracy": 1.0, "right": 1.0, "wrong": 0.0, "pairs": 40}
    ignorant = clip(torch.ones(20, 4) / 2)
    assert judge_clip(ignorant, ignorant, 6, 0.5)["accuracy"] == 0.5


def test_cache_depends_on_content_and_network_and_survives_damage(tmp_path: Path):
    calls = []

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"features": np.arange(3.0)}

    video = tmp_path / "a.bin"
    video.write_bytes(b"frames")
    moved = tmp_path / "b.bin"
    moved.write_bytes(b"frames")
    assert file_hash(video) == file_hash(moved)
    torch.manual_seed(0)
    nets = [torch.nn.Linear(2, 2) for _ in range(2)]
    keys = [("x", file_hash(video), network_hash(net)) for net in nets]
    cache = FeatureCache(tmp_path / "cache")
    assert np.array_equal(cache.get(keys[0], make)["features"], cache.get(keys[0], make)["features"])
    assert len(calls) == 1
    cache.get(keys[1], make)
    assert len(calls) == 2 and network_hash(nets[0]) != network_hash(nets[1])
    for entry in (tmp_path / "cache").iterdir():
        entry.write_bytes(entry.read_bytes()[:50])
    assert cache.get(keys[0], make)["features"].tolist() == [0, 1, 2] and len(calls) == 3
    FeatureCache(None).get(keys[0], make)
    assert len(calls) == 4
    assert not list((tmp_path / "cache").glob("*.partial"))
