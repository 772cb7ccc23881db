"""Golden cases of the SyncNets and their loss."""

from collections.abc import Iterator

import torch

from latentsync.losses.sync import sync_loss, sync_similarity
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig
from tests.golden.harness import Check, GoldenCase, compare, compare_table, fill_by_rule, golden
from tests.golden.wav2lip_syncnet import Wav2LipSyncNet


def config_of(sections: dict) -> SyncNetConfig:
    return SyncNetConfig.from_dict({name: sections[name] for name in ("audio_encoder", "visual_encoder")})


def empty_net(config: SyncNetConfig) -> StableSyncNet:
    """Network without storage; `fill_by_rule` after `to_empty` writes every entry."""
    with torch.device("meta"):
        return StableSyncNet(config).eval()


@golden("stable_syncnet_tables")
def stable_syncnet_tables(case: GoldenCase) -> Iterator[Check]:
    for name, sections in case.facts["configs"].items():
        yield compare_table(name, empty_net(config_of(sections)), case.facts["state_dict"][name])


@golden("stable_syncnet")
def stable_syncnet(case: GoldenCase) -> Iterator[Check]:
    configs = case.sibling("stable_syncnet_tables").facts["configs"] | {"small": case.facts["small_config"]}
    for name in case.facts["inputs"]:
        net = empty_net(config_of(configs[name]))
        if name == "small":
            yield compare_table("small", net, case.facts["small_state_dict"])
        net = net.to_empty(device="cpu")
        fill_by_rule(net, case.seed)
        yield from forward_checks(case, name, net)


def forward_checks(case: GoldenCase, name: str, net: StableSyncNet) -> Iterator[Check]:
    inputs = {kind: case.tensor(i["rule_name"], i["shape"]) for kind, i in case.facts["inputs"][name].items()}
    tolerance = case.facts["tolerance"]
    vision, audio = net(inputs["image"], inputs["mel"])
    if f"{name}_visual_raw" in case.arrays:
        maps = net.visual_encoder(inputs["image"]), net.audio_encoder(inputs["mel"])
        yield compare(f"{name} visual map", maps[0], case.arrays[f"{name}_visual_raw"], tolerance["max_abs_raw"])
        yield compare(f"{name} audio map", maps[1], case.arrays[f"{name}_audio_raw"], tolerance["max_abs_raw"])
    embedding_tolerance = tolerance["max_abs_embeddings"]
    yield compare(f"{name} vision", vision, case.arrays[f"{name}_vision"], embedding_tolerance)
    yield compare(f"{name} audio", audio, case.arrays[f"{name}_audio"], embedding_tolerance)
    if f"{name}_cos" in case.arrays:
        cosine = sync_similarity(vision, audio)
        yield compare(f"{name} similarity", cosine, case.arrays[f"{name}_cos"], embedding_tolerance)


@golden("wav2lip_syncnet")
def wav2lip_syncnet(case: GoldenCase) -> Iterator[Check]:
    net = Wav2LipSyncNet().eval()
    yield compare_table("network", net, case.facts["state_dict"])
    fill_by_rule(net, case.seed)
    image, mel = (case.tensor(i["rule_name"], i["shape"]) for i in (case.facts["inputs"][k] for k in ("image", "mel")))
    tolerance = case.facts["tolerance"]["max_abs"]
    vision_raw, audio_raw = net.visual_encoder(image).flatten(1), net.audio_encoder(mel).flatten(1)
    vision, audio = net(image, mel)
    for name, got in {"vision_raw": vision_raw, "audio_raw": audio_raw, "vision": vision, "audio": audio}.items():
        yield compare(name, got, case.arrays[name], tolerance)


@golden("sync_loss")
def sync_loss_case(case: GoldenCase) -> Iterator[Check]:
    tolerance = case.facts["tolerance"]["max_abs"]
    shape = case.facts["arrays"]["vision"]["shape"]
    vision, audio = (case.tensor(name, shape).abs() for name in ("loss_vision", "loss_audio"))
    labels = (torch.arange(shape[0])[:, None] % 2 == 0).float()
    yield compare("similarity", sync_similarity(vision, audio), case.arrays["similarity"], tolerance)
    yield compare("loss", sync_loss(vision, audio, labels), case.arrays["loss"], tolerance)
    single = sync_loss(vision[:1], audio[:1], labels[:1])
    yield compare("single sample", single, case.arrays["loss_single"], tolerance)
    yield from gradient_checks(case, vision, audio, labels, tolerance)
    vision[-1], audio[-1] = torch.eye(shape[1])[0], 2 * torch.eye(shape[1])[1]
    yield compare("orthogonal", sync_loss(vision, audio), case.arrays["loss_orthogonal_all_ones"], tolerance)


def gradient_checks(
    case: GoldenCase, vision: torch.Tensor, audio: torch.Tensor, labels: torch.Tensor, tolerance: float
) -> Iterator[Check]:
    with torch.enable_grad():
        leaves = [vision.clone().requires_grad_(), audio.clone().requires_grad_()]
        mean = sync_loss(leaves[0], leaves[1], labels).mean()
        gradients = torch.autograd.grad(mean, leaves)
    yield compare("mean", mean, case.arrays["loss_mean"], tolerance)
    yield compare("gradient of vision", gradients[0], case.arrays["grad_vision"], tolerance)
    yield compare("gradient of audio", gradients[1], case.arrays["grad_audio"], tolerance)
