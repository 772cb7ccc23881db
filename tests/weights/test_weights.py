"""Checkpoints: every bad file has a clear error, nothing is loaded in part, and metadata prevents misuse."""

import gzip
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latentsync.data.store import TensorStore
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig, load_syncnet
from latentsync.models.unet.checkpoint import RENAMED_PARTS, load_unet, rename_v10_keys
from latentsync.models.unet.config import UNetConfig
from latentsync.models.unet.motion import MotionModuleConfig
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.models.unet.shapes import config_from_shapes
from latentsync.models.vae import load_vae
from latentsync.weights import (
    CheckpointError,
    describe,
    load_partly,
    load_strict,
    load_torchscript,
    read_checkpoint,
    read_state,
    save_checkpoint,
    save_state,
)
from latentsync.weights.table import PUBLIC_FILES, files_of
from scripts.doctor import licence_rows

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared/golden"
CONFIG = UNetConfig(
    block_out_channels=[32, 64],
    down_block_types=["CrossAttnDownBlock3D", "DownBlock3D"],
    up_block_types=["UpBlock3D", "CrossAttnUpBlock3D"],
    layers_per_block=1,
    cross_attention_dim=6,
    motion_module_resolutions=[1, 2],
    motion_module_kwargs=MotionModuleConfig(temporal_position_encoding_max_len=20),
)
SIZE = {"resolution": 64}
Tensors = dict[str, Tensor]


def tensors_of(config: UNetConfig = CONFIG) -> Tensors:
    torch.manual_seed(0)
    state = UNet3DConditionModel(config).state_dict()
    return {key: value if key.endswith(".pe") else torch.randn_like(value) for key, value in state.items()}


def sync_encoder(channels: int) -> dict[str, Any]:
    return {"in_channels": channels, "block_out_channels": [32, 32], "downsample_factors": [2, 2]}


SYNC_SECTIONS = {"audio_encoder": sync_encoder(1), "visual_encoder": sync_encoder(6)}


@pytest.fixture(scope="module")
def weights() -> Tensors:
    return tensors_of()


def test_others_may_read_what_the_owner_lets_them_read(tmp_path: Path, weights: Tensors) -> None:
    (tmp_path / "plain").touch()
    save_checkpoint(tmp_path / "w.safetensors", weights, {})
    TensorStore(tmp_path / "cache").put("00", weights)
    files = [tmp_path / "w.safetensors", *(tmp_path / "cache").rglob("*.safetensors")]
    assert len(files) == 2 and {each.stat().st_mode for each in files} == {(tmp_path / "plain").stat().st_mode}


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def write_cut_pt(path: Path, weights: Tensors) -> None:
    torch.save(weights, path)
    cut(path, 0.6)


def write_cut_legacy(path: Path, weights: Tensors) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    cut(path, 0.6)


def write_cut_safetensors(path: Path, weights: Tensors) -> None:
    save_file(weights, path)
    cut(path, 0.9)


def write_torchscript(path: Path, weights: Tensors) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(path))


def write_gzip(path: Path, weights: Tensors) -> None:
    path.write_bytes(gzip.compress(b"x" * 2000))


def changed(weights: Tensors, key: str, value: Tensor) -> Tensors:
    return {**weights, key: value}


BAD_FILES: dict[str, tuple[Callable[[Path, Tensors], object], str]] = {
    "missing": (lambda path, w: None, "does not exist"),
    "folder": (lambda path, w: path.mkdir(), "is a folder"),
    "empty": (lambda path, w: path.touch(), "is empty"),
    "git lfs pointer": (
        lambda path, w: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
        "Git LFS pointer",
    ),
    "web page": (lambda path, w: path.write_bytes(b"\xef\xbb\xbf\n<!DOCTYPE html><html>"), "is a web page"),
    "server's answer": (lambda path, w: path.write_text('{"error": "Invalid token"}'), "is text .*Invalid token"),
    "archive": (write_gzip, "gzip archive"),
    "noise": (lambda path, w: path.write_bytes(bytes(range(200, 256)) * 50), "is not a checkpoint"),
    "truncated .pt": (write_cut_pt, "is truncated"),
    "truncated old .pt": (write_cut_legacy, "damaged or truncated"),
    "truncated safetensors": (write_cut_safetensors, r"is truncated \(\d+ of \d+ bytes\)"),
    "TorchScript": (write_torchscript, "TorchScript program"),
    "Python objects": (lambda path, w: torch.save({**w, "net": nn.Linear(1, 1)}, path), "could run code"),
    "list": (lambda path, w: torch.save(list(w.values()), path), "holds a list"),
    "no tensors": (lambda path, w: torch.save({"global_step": 3}, path), "no tensors"),
    "training state": (lambda path, w: torch.save({"module": w, "optimizer": {}}, path), "state of a training run"),
    "another network": (
        lambda path, w: torch.save(StableSyncNet(SyncNetConfig.from_dict(SYNC_SECTIONS)).state_dict(), path),
        "holds a sync network",
    ),
    "another kind of ours": (
        lambda path, w: save_checkpoint(path, w, describe("vae", {}, 1)),
        "an image auto-encoder, not of a U-Net",
    ),
    "wrapped": (
        lambda path, w: torch.save({f"module.{key}": value for key, value in w.items()}, path),
        "not the weights of a U-Net",
    ),
    "missing key": (
        lambda path, w: torch.save({key: value for key, value in w.items() if key != "conv_norm_out.bias"}, path),
        "incomplete.*1 keys missing: conv_norm_out.bias",
    ),
    "unknown key": (
        lambda path, w: torch.save(changed(w, "hands.weight", torch.ones(2)), path),
        "newer version.*1 keys unknown: hands.weight",
    ),
    "other names": (
        lambda path, w: torch.save({key.replace(".norm1.", ".normal."): value for key, value in w.items()}, path),
        "parts have other names",
    ),
    "other shape": (
        lambda path, w: torch.save(changed(w, "time_embedding.linear_2.bias", torch.ones(3)), path),
        r"another configuration.*linear_2.bias \(3 instead of 128\)",
    ),
    "quantised": (
        lambda path, w: torch.save(changed(w, "conv_out.weight", w["conv_out.weight"].to(torch.int8)), path),
        "quantised",
    ),
    "not finite": (
        lambda path, w: torch.save(changed(w, "conv_out.bias", torch.full((4,), math.nan)), path),
        "conv_out.bias holds values that are not finite",
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # writing TorchScript is deprecated, reading is not
def test_every_bad_file_has_a_clear_error(weights: Tensors, tmp_path: Path) -> None:
    sentences: set[str] = set()
    for kind, (write, message) in BAD_FILES.items():
        path = tmp_path / f"{len(sentences)}.pt"
        write(path, weights)
        began = time.process_time()
        with pytest.raises(CheckpointError) as caught:
            load_unet(path, expected=SIZE)
        text = str(caught.value)
        assert re.search(message, text), f"{kind}: {text}"
        assert time.process_time() - began < 5, kind
        assert str(path) in text and "\n" not in text and len(text) < 600, text
        sentences.add(re.sub(r"\d+", "0", text))
    assert len(sentences) == len(BAD_FILES)


def test_nothing_is_loaded_after_an_error(weights: Tensors) -> None:
    unet = UNet3DConditionModel(CONFIG)
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    for wrong in (
        changed(weights, "conv_out.bias", torch.full((4,), math.inf)),
        changed(weights, "conv_out.bias", torch.zeros(5)),
    ):
        with pytest.raises(CheckpointError):
            load_strict(unet, wrong, "file")
        assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())


def save_official(path: Path, weights: Tensors) -> None:
    torch.save({"state_dict": weights, "global_step": 7}, path)


def save_old_format(path: Path, weights: Tensors) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "save", [save_official, save_old_format, lambda path, w: torch.save(w, path), lambda path, w: save_file(w, path)]
)
def test_official_files_load_without_a_configuration(
    save: Callable[[Path, Tensors], None], weights: Tensors, tmp_path: Path
) -> None:
    """Bare or in a container, with any suffix; settings that shapes do not show are those of the public models."""
    save(tmp_path / "unet.pt", weights)
    unet, metadata = load_unet(tmp_path / "unet.pt", expected=SIZE)
    assert unet.config == CONFIG and metadata["model"] == CONFIG.to_dict()
    assert all(torch.equal(value, weights[key]) for key, value in unet.state_dict().items())
    assert not unet.training and not any(parameter.requires_grad for parameter in unet.parameters())
    assert read_checkpoint(tmp_path / "unet.pt").step == (7 if save is save_official else None)


def test_a_round_trip_is_exact(weights: Tensors, tmp_path: Path) -> None:
    save_official(tmp_path / "unet.pt", weights)
    first = read_checkpoint(tmp_path / "unet.pt")
    save_checkpoint(tmp_path / "unet.safetensors", first.tensors, describe("unet", CONFIG.to_dict(), first.step or 0))
    second = read_checkpoint(tmp_path / "unet.safetensors")
    assert second.step == 7 and second.tensors.keys() == weights.keys()
    assert all(torch.equal(second.tensors[key].view(torch.int32), weights[key].view(torch.int32)) for key in weights)
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_of_release_1_0_loads(tmp_path: Path) -> None:
    weights = tensors_of(replace(CONFIG, use_motion_module=False))
    old = {}
    for key, value in weights.items():
        for pattern, name in RENAMED_PARTS:
            key = key.replace(name, pattern.pattern.replace("\\", "")) if ".transformer_blocks." in key else key
        old[key] = value
    assert sum(".audio_cross_attn." in key for key in old) > 0 and rename_v10_keys(old).keys() == weights.keys()
    save_official(tmp_path / "unet.pt", old)
    unet, _ = load_unet(tmp_path / "unet.pt", expected=SIZE)
    assert not unet.config.use_motion_module
    assert all(torch.equal(value, weights[key]) for key, value in unet.state_dict().items())


def test_a_contradicting_configuration_is_refused(weights: Tensors, tmp_path: Path) -> None:
    public, own = tmp_path / "public.pt", tmp_path / "own.safetensors"
    save_official(public, weights)
    mask = torch.ones(8, 8)
    facts: dict[str, Any] = {"resolution": 64, "mask": mask, "audio": {"width": 6, "context": [2, 2]}}
    save_checkpoint(own, weights, describe("unet", CONFIG.to_dict(), 5, **facts))
    assert load_unet(own, CONFIG, {"resolution": 64, "audio": {"width": 6}})[1]["version"]
    for path in (public, own):
        with pytest.raises(CheckpointError, match="cross_attention_dim 6, not 768"):
            load_unet(path, replace(CONFIG, cross_attention_dim=768))
        with pytest.raises(CheckpointError, match="motion_module_decoder_only False, not True"):
            load_unet(path, replace(CONFIG, motion_module_decoder_only=True))
    for expected, message in (
        ({"resolution": 512}, "resolution 64, not 512"),
        ({"mask": describe("unet", {}, 0, mask=mask * 0)["mask"]}, "mask.crc32"),
        ({"audio": {"width": 384}}, "audio.width 6, not 384"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_unet(own, expected=expected)
    with pytest.raises(CheckpointError, match="stores no resolution"):
        load_unet(public)
    odd = replace(CONFIG, block_out_channels=[8, 16], norm_num_groups=4)
    save_official(public, tensors_of(odd))
    assert load_unet(public, odd)[0].config == odd
    with pytest.raises(CheckpointError, match="norm_num_groups.*configuration file"):
        load_unet(public, expected=SIZE)


def test_other_networks_are_refused_by_kind(tmp_path: Path) -> None:
    net, path = StableSyncNet(SyncNetConfig.from_dict(SYNC_SECTIONS)), tmp_path / "sync.safetensors"
    save_checkpoint(path, net.state_dict(), describe("syncnet", SYNC_SECTIONS, 3))
    assert load_syncnet(path)[1]["step"] == 3
    with pytest.raises(CheckpointError, match="sync network, not of an image"):
        load_vae(path)
    other = SyncNetConfig.from_dict({**SYNC_SECTIONS, "visual_encoder": sync_encoder(9)})
    with pytest.raises(CheckpointError, match="visual_encoder.in_channels 6, not 9"):
        load_syncnet(path, other)


def test_partial_loading_returns_the_keys_not_loaded(weights: Tensors) -> None:
    wider = UNet3DConditionModel(replace(CONFIG, cross_attention_dim=10, in_channels=9))
    left = load_partly(wider, weights)
    assert left[0] == "conv_in.weight" and all(
        key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for key in left[1:]
    )
    assert len(left) > 3
    assert torch.equal(wider.state_dict()["conv_out.bias"], weights["conv_out.bias"])


def test_batch_norm_counters_may_be_missing() -> None:
    norm = nn.BatchNorm1d(3)
    stored = {key: value + 1 for key, value in norm.state_dict().items() if not key.endswith("tracked")}
    load_strict(norm, stored, "file")
    assert norm.num_batches_tracked is not None and int(norm.num_batches_tracked) == 0
    assert torch.equal(norm.weight, torch.full((3,), 2.0))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_states_and_programs_are_read_unchanged(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", {"step": 3, "module": {"a": torch.ones(2)}, "names": ["b"]})
    assert read_state(tmp_path / "state.pt")["names"] == ["b"]
    with pytest.raises(CheckpointError, match="state of a training run|not a state dict|no tensors"):
        read_checkpoint_of({"optimizer": {}, "module": {"a": torch.ones(1)}}, tmp_path)
    write_torchscript(tmp_path / "net.pt", {})
    assert load_torchscript(tmp_path / "net.pt")(torch.zeros(1, 2)).shape == (1, 2)
    with pytest.raises(CheckpointError, match="not the TorchScript program"):
        load_torchscript(tmp_path / "state.pt")


def read_checkpoint_of(content: dict[str, Any], folder: Path) -> None:
    torch.save(content, folder / "content.pt")
    read_checkpoint(folder / "content.pt")


@pytest.mark.skipif(not GOLDEN.exists(), reason="the recorded tables are not part of the project")
@pytest.mark.parametrize("name", ["stage1", "stage2_efficient", "stage2"])
def test_the_full_size_configuration_follows_from_the_table(name: str) -> None:
    facts = json.loads((GOLDEN / "unet_full_tables.json").read_text())
    shapes = dict(facts["state_dict"]["stage1"])
    if name != "stage1":
        shapes |= facts["state_dict"]["stage2_efficient_extra"]
    if name == "stage2":
        shapes |= facts["state_dict"]["stage2_extra_over_efficient"]
    found = config_from_shapes(shapes)
    section = facts["config_model_sections"]["stage1"]
    decoder_only = name == "stage2_efficient"
    moving = {"use_motion_module": name != "stage1", "motion_module_decoder_only": decoder_only}
    assert found == UNetConfig.from_dict({**section, **moving})


def test_the_checkpoints_page_equals_the_table() -> None:
    text = (ROOT / "checkpoints/README.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `") and line.count("|") == 8
    ]
    expected = [
        [
            file.path,
            f"{file.role}, release {file.release}" if file.release else file.role,
            ", ".join((*file.sets, "all")),
            "?" if file.size_mb is None else f"{file.size_mb:g} MB",
            file.licence,
            file.origin,
            file.name if file.repo else file.member or file.url,
        ]
        for file in PUBLIC_FILES
    ]
    assert rows == expected


def test_the_licences_page_equals_the_table() -> None:
    text = (ROOT / "LICENSES.md").read_text(encoding="utf-8")
    rows = [tuple(line.strip("| ").split(" | ")) for line in text.splitlines() if line.endswith(("| yes |", "| no |"))]
    assert rows == [(f"`{file}`", *cells) for file, *cells in licence_rows()]


def test_the_table_is_complete_and_clear() -> None:
    for release in ("1.0", "1.5", "1.6"):
        paths = [file.path for file in files_of("all", release)]
        assert len(paths) == len(set(paths)) and "latentsync_unet.pt" in paths
    assert {file.path for file in files_of("inference")} < {file.path for file in files_of("all")}
    for file in PUBLIC_FILES:
        assert [bool(file.repo), bool(file.url), bool(file.package)].count(True) == 1
        assert file.licence and file.path.endswith(file.name)
        assert not file.package or (len(file.sha256) == 64 and file.member and file.size_bytes)
    with pytest.raises(ValueError, match="no set 'everything'"):
        files_of("everything")
    with pytest.raises(ValueError, match="no release '2'"):
        files_of("all", "2")
