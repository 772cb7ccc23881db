"""Adapters: what they add to a U-Net, how a job chooses them, and which are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentsync.inference.batch import read_jobs
from latentsync.inference.jobs.job import check_job
from latentsync.inference.model_files import DEMO_UNET, find_model_files, settings_for
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings
from latentsync.models.unet.adapter import AdapterConfig, add_adapter, base_fingerprint
from latentsync.models.unet.network import UNet3DConditionModel
from latentsync.weights import CheckpointError, read_checkpoint, save_checkpoint
from scripts.inference_arguments import parse
from tests.support.adapters import CONFIG, adapted, save_adapter
from tests.support.tiny import StubDetector, make_audio, make_video, read, tiny_models

FAST = InferenceSettings(steps=1, guidance_scale=1.0)


def output(unet: UNet3DConditionModel) -> Tensor:
    """What a U-Net predicts for fixed random input."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 13, 2, 8, 8, generator=generator)
    audio = torch.randn(1, 2, 5, unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return unet.eval()(sample, 500, unet.project_kv(audio))


@pytest.fixture
def models() -> LipsyncModels:
    return tiny_models()


def test_merged_weights_predict_what_layers_beside_them_do(models: LipsyncModels, tmp_path: Path) -> None:
    """Also for the sum of two, and in another type of number than the training had."""
    base, path = output(models.unet), save_adapter(tmp_path / "a.safetensors", models.unet, 1)
    beside = output(adapted(models.unet, 1))
    merged = models.adapted([(path, 1.0)])
    torch.testing.assert_close(output(merged.unet), beside, rtol=1e-4, atol=1e-5)
    assert (beside - base).abs().max() > 0.01
    both = models.adapted([(path, 0.5), (save_adapter(tmp_path / "b.safetensors", models.unet, 2), 2.0)])
    name = next(name for name in models.unet.state_dict() if name.endswith("attn2.to_q.weight"))
    pairs = [[read_checkpoint(tmp_path / f"{each}.safetensors").tensors for each in "ab"]]
    layer = f"unet.{name.removesuffix('.weight')}"
    sums = [tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"] for tensors in pairs[0]]
    by_hand = models.unet.state_dict()[name] + 3 / 2 * (0.5 * sums[0] + 2.0 * sums[1])
    torch.testing.assert_close(both.unet.state_dict()[name], by_hand)
    half = replace(models, unet=tiny_models().unet.half(), unet_fingerprint=base_fingerprint(models.unet))
    assert half.adapted([(path, 1.0)]).unet.state_dict()[name].dtype == torch.float16


def test_an_adapter_without_effect_changes_no_bit_and_shares_the_memory(models: LipsyncModels, tmp_path: Path) -> None:
    path, own = save_adapter(tmp_path / "a.safetensors", models.unet, 1), models.unet.state_dict()
    without = models.adapted([(path, 0.0)]).unet.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in without.items())
    with_it = models.adapted([(path, 1.0)]).unet.state_dict()
    changed = {name for name, value in with_it.items() if not torch.equal(value, own[name])}
    assert changed == {
        name for name in own if "attn2." in name and name.endswith(("q.weight", "k.weight", "v.weight", "0.weight"))
    }
    assert all(with_it[name].data_ptr() == own[name].data_ptr() for name in set(own) - changed)
    new = adapted(models.unet, 1)
    for layer in (each for name, each in new.named_modules() if name.endswith("lora_B")):
        torch.nn.init.zeros_(layer.weight)
    assert torch.equal(output(new), output(models.unet)), "before it is trained"
    assert base_fingerprint(new) == base_fingerprint(models.unet)


def test_a_job_with_adapters(models: LipsyncModels, tmp_path: Path) -> None:
    """The frames change with the factor; without effect they are those of the base."""
    video, audio = make_video(tmp_path / "v.mp4", 6), make_audio(tmp_path / "a.wav", 0.24)
    path = save_adapter(tmp_path / "x.safetensors", models.unet, 1)
    pipeline, made, keys = LipsyncPipeline(models, StubDetector()), {}, []
    for name, text in {"none": "", "zero": f"{path}:0", "whole": str(path), "half": f"{path}:0.5"}.items():
        settings = replace(FAST, adapter=text)
        pipeline(video, audio, tmp_path / f"{name}.mp4", settings)
        made[name] = [frame.tobytes() for frame in read(tmp_path / f"{name}.mp4")]
        keys.append(pipeline._key(check_job(video, audio, tmp_path / "o.mp4"), settings))
    assert made["none"] == made["zero"]
    assert len({tuple(made[name]) for name in ("none", "half", "whole")}) == 3
    settings = replace(FAST, adapter=str(path))
    save_adapter(path, models.unet, 2)
    keys.append(pipeline._key(check_job(video, audio, tmp_path / "o.mp4"), settings))
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == 5, "another job, also if the file has changed"


def test_an_adapter_of_another_network_is_refused_before_any_work(models: LipsyncModels, tmp_path: Path) -> None:
    other = tiny_models().unet
    torch.nn.init.normal_(other.conv_in.weight)
    path = save_adapter(tmp_path / "x.safetensors", other, 1)
    video, audio = make_video(tmp_path / "v.mp4", 6), make_audio(tmp_path / "a.wav", 0.24)
    with pytest.raises(CheckpointError) as error:
        LipsyncPipeline(models, StubDetector())(video, audio, tmp_path / "o.mp4", replace(FAST, adapter=str(path)))
    told = str(error.value)
    assert base_fingerprint(other) in told and base_fingerprint(models.unet) in told and "another U-Net" in told
    assert not (tmp_path / "o.mp4.job").exists()


def test_files_that_are_no_adapter_are_refused_by_their_header(models: LipsyncModels, tmp_path: Path) -> None:
    files, path = find_model_files(DEMO_UNET), save_adapter(tmp_path / "x.safetensors", models.unet, 1)
    stored = read_checkpoint(path)
    save_checkpoint(tmp_path / "half.safetensors", dict(list(stored.tensors.items())[1:]), stored.metadata)
    broken = {name: value / 0 for name, value in stored.tensors.items()}
    save_checkpoint(tmp_path / "broken.safetensors", broken, stored.metadata)
    with pytest.raises(CheckpointError, match=r"broken.safetensors is damaged: .* is unusable"):
        models.adapted([(tmp_path / "broken.safetensors", 1.0)])
    for name, words in {
        str(tmp_path / "none.safetensors"): "none.safetensors",
        str(DEMO_UNET): "is no adapter of this project",
        str(tmp_path / "half.safetensors"): "holds an incomplete adapter",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            settings_for(files, {"adapter": name})
    assert settings_for(files, {"adapter": f"{path}:0.5"}).adapter == f"{path}:0.5"
    with pytest.raises(ValueError, match=r"no attention's name contains 'lips'"):
        add_adapter(models.unet, AdapterConfig(rank=1, targets=["lips"]))


def test_the_setting_names_files_and_factors(tmp_path: Path, models: LipsyncModels) -> None:
    args = parse(["--adapter", "a.safetensors:0.5", "--adapter", "b.safetensors"], "")
    assert args.adapter == "a.safetensors:0.5;b.safetensors" and parse([], "").adapter is None
    for wrong, words in {
        "a:3": "choose a factor from 0",
        "a:-1": "choose a factor from 0",
        "a:nan": "choose a factor from 0",
        "a; a:0.5": "names a twice",
    }.items():
        with pytest.raises(ValueError, match=words):
            InferenceSettings(adapter=wrong)
    path = save_adapter(tmp_path / "x.safetensors", models.unet, 1)
    rows = "video,audio,output,adapter\nv.mp4,a.wav,o.mp4,{}\n"
    (tmp_path / "jobs.csv").write_text(rows.format("x.safetensors:0.8"))
    assert read_jobs(tmp_path / "jobs.csv")[0].settings == {"adapter": f"{path}:0.8"}
    (tmp_path / "jobs.csv").write_text(rows.format("y.safetensors"))
    with pytest.raises(ValueError, match=r"job 1: the adapter .*y.safetensors does not exist"):
        read_jobs(tmp_path / "jobs.csv")


def test_the_factor_of_a_rank_is_that_of_the_field() -> None:
    assert CONFIG.scale == 1.5 and AdapterConfig(rank=8).scale == 1.0  # alpha / rank
