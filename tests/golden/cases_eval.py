"""Golden cases of the evaluation: the sync expert with its front end and formula, image quality, Frechet distance."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from latentsync.audio.mfcc import MfccConfig, filter_energies, mfcc
from latentsync.metrics.pictures.set_distances import feature_statistics, frechet_distance
from latentsync.metrics.sync.offset import find_sync_offset, shift_distances
from latentsync.models.hyper_iqa import HyperIQA, HyperIQAConfig, TargetNet, quality_frames, quality_inputs
from latentsync.models.syncnet_v2 import SyncNetV2
from tests.golden.harness import Check, GoldenCase, compare, compare_table, fill_by_rule, golden


def inputs_of(case: GoldenCase) -> dict[str, torch.Tensor]:
    """Every input that is the plain rule, by its name in the case."""
    stated = case.facts["inputs"].items()
    return {k: case.tensor(i["rule_name"], i["shape"]) for k, i in stated if isinstance(i, dict) and "rule_name" in i}


def numbers(formula: str) -> list[float]:
    """The numbers of a formula that a case states in words, in order."""
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", formula)]


def chirp_int16(signal: dict[str, Any], sample_rate_hz: int) -> np.ndarray:
    """The case's rising sine, rounded half to even, int16."""
    t = np.arange(signal["n_samples"]) / sample_rate_hz
    f0, f1, dur = (signal[key] for key in ("f0", "f1", "dur"))
    phase = 2 * np.pi * (f0 * t + 0.5 * (f1 - f0) / dur * t**2)
    return np.round(signal["amp"] * np.sin(phase)).astype(np.int16)


def compare_each(name: str, got: np.ndarray, want: np.ndarray, tolerance: float) -> Check:
    """Largest error relative to its own entry."""
    return compare(name, got / want.astype(np.float64), np.ones_like(want), tolerance)


@golden("mfcc")
def mfcc_case(case: GoldenCase) -> Iterator[Check]:
    facts = case.facts["parameters"]
    config = MfccConfig(
        sample_rate_hz=facts["sample_rate"],
        window=facts["window_samples"],
        hop=facts["step_samples"],
        n_fft=facts["nfft"],
        num_filters=facts["n_filters"],
        num_cepstra=facts["n_cepstra"],
        low_hz=facts["low_hz"],
        high_hz=facts["high_hz"],
        preemphasis=facts["preemphasis"],
        lifter=facts["lifter"],
    )
    samples = chirp_int16(case.facts["signal"], config.sample_rate_hz)
    filtered, energy = (np.concatenate(blocks) for blocks in zip(*filter_energies(samples, config), strict=True))
    yield compare("coefficients", mfcc(samples, config), case.arrays["mfcc"], case.facts["tolerance"]["max_abs"])
    yield compare_each("filter energies (relative)", filtered, case.arrays["fbank"], 1e-5)
    yield compare_each("frame energies (relative)", energy, case.arrays["energy"], 1e-5)


@golden("syncnet_v2")
def syncnet_v2(case: GoldenCase) -> Iterator[Check]:
    net = SyncNetV2().eval()
    yield compare_table("network", net, case.facts["state_dict"])
    fill_by_rule(net, case.seed)
    inputs, tolerance = inputs_of(case), case.facts["tolerance"]["max_abs"]
    features = net.lip_features(inputs["forward_lip"])
    yield compare("audio embedding", net.embed_audio(inputs["forward_aud"]), case.arrays["aud"], tolerance)
    yield compare("lip features", features, case.arrays["lipfeat"], tolerance)
    yield compare("lip embedding", net.netfclip(features), case.arrays["lip"], tolerance)
    track = torch.cat([net.embed_lip_track(window) for window in inputs["forward_lip"]])
    yield compare("lip embedding of a track", track, case.arrays["lip"], tolerance)


@golden("syncnet_offset")
def syncnet_offset(case: GoldenCase) -> Iterator[Check]:
    inputs = inputs_of(case)
    lips, sound = inputs["im_feat"], inputs["cc_feat"]
    yield from offset_checks(case, "random", lips, sound)
    gain, shift = (numbers(case.facts["inputs"]["cc_feat_shifted"])[i] for i in (0, -1))
    sources = torch.arange(len(lips)) - int(shift)
    inside = (sources >= 0) & (sources < len(lips))
    moved = torch.where(inside[:, None], lips[sources.clamp(0, len(lips) - 1)], 0)
    yield from offset_checks(case, "shifted", lips, gain * sound + moved)


def offset_checks(case: GoldenCase, name: str, lips: torch.Tensor, sound: torch.Tensor) -> Iterator[Check]:
    tolerance = case.facts["tolerance"]["max_abs"]
    distances = shift_distances(lips, sound, case.facts["vshift"], published=True)
    found, want = find_sync_offset(distances), case.facts["results"][name]
    yield compare(f"{name} distances", distances, case.arrays[f"dists_{name}"], tolerance)
    yield compare(f"{name} mean distances", found.mean_distances, case.arrays[f"mean_dists_{name}"], tolerance)
    framewise = framewise_confidence(distances)
    yield compare(f"{name} framewise confidence", framewise, case.arrays[f"framewise_conf_{name}"], tolerance)
    yield Check(f"{name} offset", abs(found.offset_frames - want["av_offset"]), 0.0)
    yield Check(f"{name} smallest distance", abs(found.min_distance - want["min_dist"]), tolerance)
    yield Check(f"{name} confidence", abs(found.confidence - want["conf"]), tolerance)


def framewise_confidence(distances: torch.Tensor, smoothing: int = 9) -> torch.Tensor:
    """Published confidence of each window [n] from distances [n, k], median filtered with zeros beyond its ends."""
    means = distances.mean(dim=0)
    series = means.median() - distances[:, int(means.argmin())]
    return F.pad(series, (smoothing // 2, smoothing // 2)).unfold(0, smoothing, 1).median(dim=1).values


@golden("hyper_iqa")
def hyper_iqa(case: GoldenCase) -> Iterator[Check]:
    net = HyperIQA(HyperIQAConfig(**case.facts["config"])).eval()
    yield compare_table("network", net, case.facts["state_dict"])
    fill_by_rule(net, case.seed)
    inputs, tolerance = inputs_of(case), case.facts["tolerance"]["max_abs"]
    target = net.target_net(inputs["image"])
    yield compare("score", target.score(), case.arrays["score"], tolerance)
    yield from target_checks(case, target, tolerance)
    yield compare("scores of a batch", net(inputs["image_batch"]), case.arrays["score_batch"], tolerance)
    yield from frame_checks(case, net, tolerance)


def target_checks(case: GoldenCase, target: TargetNet, tolerance: float) -> Iterator[Check]:
    vector = target.vector[:, :, None, None]
    yield compare("features", vector, case.arrays["par_target_in_vec"], tolerance)
    for layer, (weight, bias) in enumerate(zip(target.weights, target.biases, strict=True), 1):
        weight = weight[..., None, None]
        yield compare(f"weights of layer {layer}", weight, case.arrays[f"par_target_fc{layer}w"], tolerance)
        yield compare(f"biases of layer {layer}", bias, case.arrays[f"par_target_fc{layer}b"], tolerance)


def frame_checks(case: GoldenCase, net: HyperIQA, tolerance: float) -> Iterator[Check]:
    stated = case.facts["inputs"]["frames"]
    _, middle, contrast, *_ = numbers(stated["formula"])
    levels = np.round(middle + contrast * case.normal("frames_uint8", stated["shape"]))
    video = torch.from_numpy(np.clip(levels, 0, 255).astype(np.uint8)).permute(0, 2, 3, 1)
    inputs = quality_inputs(video[quality_frames(len(video))])
    scores, rows = net(inputs), case.arrays["frames_first_pixel_rows"]
    yield compare("first pixels of frames", inputs[:, :, 0, : rows.shape[-1]], rows, tolerance)
    yield compare("scores of frames", scores, case.arrays["score_frames"], tolerance)
    yield compare("score of a video", scores.mean()[None], case.arrays["score_frames_mean"], tolerance)


@golden("fvd")
def fvd(case: GoldenCase) -> Iterator[Check]:
    shapes = {name: stated["shape"] for name, stated in case.facts["inputs"].items()}
    noise = {name: case.normal(name, shape) for name, shape in shapes.items()}
    gain, shift, *_ = map(np.float32, numbers(case.facts["inputs"]["feats_real"]["formula"]))
    noise["feats_real"] = gain * noise["feats_real"] + shift
    found = {name: feature_statistics(features) for name, features in noise.items()}
    fake, real = found["feats_fake"], found["feats_real"]
    relative, want = case.facts["tolerance"]["relative"], case.facts["results"]
    distance, identical = frechet_distance(fake, real), frechet_distance(fake, fake)
    deficient = frechet_distance(found["feats_small_fake"], found["feats_small_real"])
    yield compare_each("distance (relative)", np.array([distance]), case.arrays["fvd"], relative)
    for name in ("fvd", "fvd_float64_inputs", "fvd_by_eigenvalues"):
        yield Check(f"{name} (relative)", abs(distance / want[name] - 1), relative)
    yield Check("identical sets", abs(identical - want["fvd_identical_sets"]), relative)
    yield Check("fewer samples than features (relative)", abs(deficient / want["fvd_rank_deficient"] - 1), relative)
    yield compare("mean", fake.mean, case.arrays["mu_fake"], 1e-6)
    yield compare("covariance", fake.covariance, case.arrays["sigma_fake"], 1e-5)
