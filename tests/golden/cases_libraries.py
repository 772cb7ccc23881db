"""Golden cases of networks from public libraries: the auto-encoder, LPIPS, and the S3FD face detector."""

from collections.abc import Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from face_alignment.detection.sfd.net_s3fd import s3fd as LibraryS3FD

from latentsync.losses.perceptual import FIXED, build_lpips
from latentsync.models.auto_encoder import AutoEncoder
from latentsync.models.s3fd import S3FD, detections
from latentsync.models.vae import SCALING_FACTOR, SIZES, build_vae, decode, encode
from tests.golden.harness import (
    Check,
    GoldenCase,
    compare,
    compare_relative,
    compare_table,
    fill_by_rule,
    golden,
    rule_array,
)


@golden("vae")
def vae(case: GoldenCase) -> Iterator[Check]:
    for size in ("small", "full"):
        net = build_vae(case.facts[f"config_{size}"]).eval()
        yield compare_table(size, net, case.facts[f"state_dict_{size}"])
        fill_by_rule(net, case.seed)
        yield from vae_checks(case, size, net)
        config = case.facts[f"config_{size}"]
        own = AutoEncoder(**{name: config[name] for name in SIZES if name in config}).eval()
        own.load_state_dict(net.state_dict())
        yield from vae_checks(case, size, own)


def vae_checks(case: GoldenCase, size: str, net: AutoencoderKL | AutoEncoder) -> Iterator[Check]:
    tolerance = case.facts["tolerance"]["max_abs"]
    names = ("vae_image", "vae_latent", "vae_eps")
    image, latent, noise = (case.tensor(name, case.facts["inputs"][name]["shape"]) for name in names)
    posterior = net.encode(image).latent_dist
    yield compare(f"{size} mean", encode(net, image) / SCALING_FACTOR, case.arrays[f"{size}_mean"], tolerance)
    yield compare(f"{size} log variance", posterior.logvar, case.arrays[f"{size}_logvar"], tolerance)
    yield compare(f"{size} decoded", decode(net, latent * SCALING_FACTOR), case.arrays[f"{size}_decoded"], tolerance)
    if f"{size}_sample_with_eps" in case.arrays:
        sample = posterior.mean + posterior.std * noise
        yield compare(f"{size} sample", sample, case.arrays[f"{size}_sample_with_eps"], tolerance)


@golden("lpips")
def lpips(case: GoldenCase) -> Iterator[Check]:
    table = case.facts["state_dict"]
    by_rule = {key: torch.from_numpy(rule_array(key, tuple(shape), case.seed)) for key, shape in table.items()}
    public = {case.facts["key_in_public_files"][key]: value for key, value in by_rule.items()}
    net = build_lpips(public, public, "weights by rule")
    own = {key: list(v.shape) for key, v in net.state_dict().items() if not key.startswith(("lins.", *FIXED))}
    yield Check("key table", float(own != table), 0.0)
    images = [np.tanh(case.normal(f"lpips_{name}", case.facts["inputs"][name]["shape"])) for name in ("a", "b")]
    distance, layers = net(*map(torch.from_numpy, images), retPerLayer=True)
    relative = case.facts["tolerance"]["relative"]
    per_layer = torch.stack([layer.flatten() for layer in layers])
    yield compare_relative("distance (relative)", distance.flatten(), case.arrays["distance"], relative)
    yield compare_relative("layers (relative)", per_layer, case.arrays["per_layer"], relative)


@golden("s3fd")
def s3fd(case: GoldenCase) -> Iterator[Check]:
    net = S3FD().eval()
    yield compare_table("network", net, case.facts["state_dict"])
    fill_by_rule(net, case.seed)
    stated = case.facts["inputs"]["image"]
    gain = np.float32(stated["formula"].split()[0])
    image = torch.from_numpy(gain * case.normal("s3fd_image", stated["shape"]))
    loc, conf, priors = net(image)
    tolerance = case.facts["tolerance"]
    yield compare("boxes", loc, case.arrays["loc"], tolerance["max_abs_loc"])
    yield compare("scores", conf, case.arrays["conf"], tolerance["max_abs_conf"])
    yield compare("priors", priors, case.arrays["priors"], 1e-6)
    want = case.arrays["detections_top"]
    found = detections(loc[0], conf[0, :, 1], priors)[: len(want)]
    yield compare("scores of detections", found[:, :1], want[:, :1], tolerance["max_abs_conf"])
    yield compare("boxes of detections", found[:, 1:], want[:, 1:], tolerance["max_abs_loc"])
    if all(side % 8 == 0 for side in image.shape[-2:]):  # the library's third pooling rounds odd sizes down
        yield from library_checks(case, net, image)


def library_checks(case: GoldenCase, net: S3FD, image: torch.Tensor) -> Iterator[Check]:
    """face-alignment's network with the same weights, its first wide layer dilated as in the case's network."""
    library = LibraryS3FD().eval()
    library.fc6.dilation = library.fc6.padding = (6, 6)
    own = net.state_dict()
    heads = [key for level in range(len(net.loc)) for key in own if key.startswith((f"conf.{level}.", f"loc.{level}."))]
    heads.sort(key=lambda key: (key.split(".")[1], key.startswith("loc")))
    order = [key for part in ("vgg", "extras", "L2Norm") for key in own if key.startswith(part)] + heads
    library.load_state_dict({key: own[name] for key, name in zip(library.state_dict(), order, strict=True)})
    maps = library(image)
    loc = torch.cat([rearrange(x, "b c h w -> b (h w) c") for x in maps[1::2]], dim=1)
    conf = torch.cat([rearrange(x, "b c h w -> b (h w) c") for x in maps[::2]], dim=1).softmax(dim=-1)
    yield compare("library's boxes", loc, case.arrays["loc"], case.facts["tolerance"]["max_abs_loc"])
    yield compare("library's scores", conf, case.arrays["conf"], case.facts["tolerance"]["max_abs_conf"])
