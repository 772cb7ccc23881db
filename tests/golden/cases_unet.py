"""Golden cases of the U-Net: outputs, time features, key tables, the names of release 1.0."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from latentsync.models.attention import AudioKV
from latentsync.models.unet.checkpoint import rename_v10_keys
from latentsync.models.unet.network import UNet3DConditionModel, UNetConfig, time_features
from tests.golden.harness import TARGET, Check, GoldenCase, compare, compare_table, fill_by_rule, golden

OUTPUT_PREFIX = "out_"


def rule_unet(section: Mapping[str, Any], seed: int) -> UNet3DConditionModel:
    """A U-Net in evaluation mode whose weights follow the weight rule."""
    unet = UNet3DConditionModel(UNetConfig.from_dict(section)).eval()
    fill_by_rule(unet, seed)
    return unet


def meta_unet(section: Mapping[str, Any]) -> UNet3DConditionModel:
    with torch.device("meta"):
        return UNet3DConditionModel(UNetConfig.from_dict(section))


def rule_input(case: GoldenCase, entry: Mapping[str, Any]) -> torch.Tensor:
    return case.tensor(entry["rule_name"], entry["shape"])


def motion_all_outputs(case: GoldenCase, unet: UNet3DConditionModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Further outputs of the variant with every motion module: other steps, other audio, another size."""
    inputs = case.facts["inputs"]
    sample, steps = rule_input(case, inputs["sample"]), torch.tensor(inputs["timesteps"])
    audio = rule_input(case, inputs["encoder_hidden_states"])
    for name in case.arrays:
        if name.startswith("out_motion_all_scalar_timestep_"):
            yield name, unet(sample, int(name.rsplit("_", 1)[1]), unet.project_kv(audio))
    yield "out_motion_all_audio_none", unet(sample, steps, AudioKV({}, *audio.shape[:2]))
    yield "out_motion_all_audio_zeros", unet(sample, steps, unet.project_kv(torch.zeros_like(audio)))
    odd = inputs["sample_odd"]
    odd_audio = rule_input(case, odd["encoder_hidden_states"])
    yield odd["used_by"], unet(rule_input(case, odd), torch.tensor(odd["timesteps"]), unet.project_kv(odd_audio))
    width = unet.config.block_out_channels[0]
    features = time_features(steps, width, unet.config.flip_sin_to_cos, unet.config.freq_shift)
    yield "time_proj", features
    yield "time_embedding", unet.time_embedding(TARGET.placed(features))


@golden("unet_small")
def unet_small(case: GoldenCase) -> Iterator[Check]:
    inputs, tolerance = case.facts["inputs"], case.facts["tolerance"]["max_abs"]
    sample, steps = rule_input(case, inputs["sample"]), torch.tensor(inputs["timesteps"])
    audio = rule_input(case, inputs["encoder_hidden_states"])
    for variant, overrides in case.facts["variant_overrides"].items():
        unet = rule_unet({**case.facts["base_config"], **overrides}, case.seed)
        keys = unet.state_dict()
        yield Check(f"{variant} number of keys", abs(len(keys) - case.facts["n_keys"][variant]), 0)
        yield compare_table(variant, unet, {key: case.facts["state_dict"].get(key, []) for key in keys})
        yield compare(
            variant, unet(sample, steps, unet.project_kv(audio)), case.arrays[OUTPUT_PREFIX + variant], tolerance
        )
        if variant == "motion_all":
            for name, got in motion_all_outputs(case, unet):
                yield compare(name, got, case.arrays[name.split(" ")[0]], tolerance)


@golden("unet_full")
def unet_full(case: GoldenCase) -> Iterator[Check]:
    inputs = case.facts["inputs"]
    unet = rule_unet(case.facts["config"], case.seed)
    out = unet(
        rule_input(case, inputs["sample"]),
        torch.tensor(inputs["timesteps"]),
        unet.project_kv(rule_input(case, inputs["encoder_hidden_states"])),
    )
    yield compare("out", out, case.arrays["out"], case.facts["tolerance"]["max_abs"])


@golden("unet_full_tables")
def unet_full_tables(case: GoldenCase) -> Iterator[Check]:
    stage1, tables = case.facts["config_model_sections"]["stage1"], case.facts["state_dict"]
    efficient = {**tables["stage1"], **tables["stage2_efficient_extra"]}
    expected = {
        "stage1": ({}, tables["stage1"]),
        "stage2": ({"use_motion_module": True}, {**efficient, **tables["stage2_extra_over_efficient"]}),
        "stage2_efficient": ({"use_motion_module": True, "motion_module_decoder_only": True}, efficient),
    }
    for name, (overrides, table) in expected.items():
        unet = meta_unet({**stage1, **overrides})
        yield compare_table(name, unet, table)
        elements = sum(value.numel() for value in unet.state_dict().values())
        yield Check(f"{name} elements", abs(elements - case.facts["counts"][name]["elements_incl_buffers"]), 0)


@golden("unet_v10_keys")
def unet_v10_keys(case: GoldenCase) -> Iterator[Check]:
    table, renamed = case.facts["state_dict"], case.facts["renamed_keys"]
    got = rename_v10_keys({key: key for key in table})
    wrong = [new for new, old in got.items() if new != renamed.get(old, old)]
    yield Check("renamed keys", len(wrong), 0)
    yield Check("number of renamed keys", abs(sum(new != old for new, old in got.items()) - len(renamed)), 0)
    stage1 = case.sibling("unet_full_tables").facts["config_model_sections"]["stage1"]
    yield compare_table("renamed 1.0", meta_unet(stage1), rename_v10_keys(table))
