"""Golden cases of the temporal loss: the video transformer's keys, its features at full size, and the loss."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from latentsync.losses.trepa import trepa_features, trepa_loss, video_input
from latentsync.models.videomae import VideoMAE, VideoMAEConfig, empty_videomae
from tests.golden.harness import Check, GoldenCase, compare, compare_relative, compare_table, fill_by_rule, golden

GRADIENT_SCALE = 2.0**14  # as of a GradScaler: without it the gradients are below float16's smallest number


def config_of(section: Mapping[str, Any]) -> VideoMAEConfig:
    names = [field.name for field in fields(VideoMAEConfig)]
    return VideoMAEConfig(**{name: section[name] for name in names if name in section})


def rule_videomae(section: Mapping[str, Any], seed: int) -> VideoMAE:
    net = empty_videomae(config_of(section)).to_empty(device="cpu").requires_grad_(False)
    fill_by_rule(net, seed)
    return net


@golden("videomaev2_table")
def videomaev2_table(case: GoldenCase) -> Iterator[Check]:
    net = empty_videomae(config_of(case.facts["config"]))
    yield compare_table("network", net, case.facts["state_dict"])
    yield Check("parameters", abs(sum(value.numel() for value in net.parameters()) - case.facts["params"]), 0)


@golden("videomaev2_full")
def videomaev2_full(case: GoldenCase) -> Iterator[Check]:
    net = rule_videomae(case.sibling("videomaev2_table").facts["config"], case.seed)
    recorded = case.facts["weight_fingerprint"]["sum_abs"]
    total = sum(float(value.abs().sum(dtype=torch.float64)) for value in net.state_dict().values())
    yield Check("weights (relative)", abs(total / recorded - 1), 1e-6)
    entry = case.facts["inputs"]["video"]
    features = net.features(case.tensor(entry["rule_name"], entry["shape"]))
    yield compare("features", features, case.arrays["features"], case.facts["tolerance"]["max_abs"])


def smooth(videos: Tensor) -> Tensor:
    """Each frame averaged to 16x16 cells, enlarged again without interpolation, times 20, tanh."""
    frames = rearrange(videos, "b c f h w -> (b f) c h w")
    cells = F.interpolate(F.interpolate(frames, size=(16, 16), mode="area"), size=frames.shape[-2:], mode="nearest")
    return rearrange((20 * cells).tanh(), "(b f) c h w -> b c f h w", f=videos.shape[2])


@golden("trepa")
def trepa(case: GoldenCase) -> Iterator[Check]:
    inputs, arrays, tolerance = case.facts["inputs"], case.arrays, case.facts["tolerance"]["features_max_abs"]
    net = rule_videomae(case.facts["config"], case.seed)
    yield compare_table("network", net, case.facts["state_dict"])
    video, short = (case.tensor(inputs[key]["rule_name"], inputs[key]["shape"]) for key in ("video", "video8"))
    yield compare("features", net.features(video), arrays["features"], tolerance)
    yield compare("logits", net(video), arrays["logits"], tolerance)
    yield compare("features of a short clip", net.features(short), arrays["features_8_frames"], tolerance)
    fake, real = (case.tensor(name, inputs[name]["shape"]).tanh() for name in ("videos_fake", "videos_real"))
    resized = video_input(fake, net.config.img_size)
    yield compare("resized row", resized[0, :, 0, 0], arrays["resized_row"], tolerance)
    for name, pixels in (("feat_fake", fake), ("feat_real", real)):
        yield compare(name, trepa_features(net, pixels), arrays[name], tolerance)
    yield from loss_checks(case, net, fake, real)


def loss_checks(case: GoldenCase, net: VideoMAE, fake: Tensor, real: Tensor) -> Iterator[Check]:
    arrays, tolerance = case.arrays, case.facts["tolerance"]
    loss = trepa_loss(net, fake, real)
    yield compare_relative("loss (relative)", loss[None], arrays["loss"], tolerance["loss_relative"])
    smooth_fake = smooth(fake).requires_grad_()
    with torch.enable_grad():
        loss = trepa_loss(net, smooth_fake, smooth(real))
        gradient = torch.autograd.grad(loss * GRADIENT_SCALE, smooth_fake)[0].float() / GRADIENT_SCALE
    yield compare_relative("smooth loss (relative)", loss[None], arrays["loss_smooth"], tolerance["loss_relative"])
    norm = np.array([float(gradient.norm())])
    yield compare_relative("gradient norm", norm, arrays["grad_smooth_fake_norm"], tolerance["gradient_relative"])
    probe = gradient[0, :, 5, 100:108, 100]
    wanted = arrays["grad_smooth_fake_probe"]
    yield compare_relative("gradient probe", probe, wanted, tolerance["gradient_relative"])
