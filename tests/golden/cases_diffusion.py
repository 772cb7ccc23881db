"""Golden cases of the diffusion room: the sampling loop with a small U-Net, and the formulas of training."""

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import torch

from latentsync.diffusion.denoisers import conditioned, guided
from latentsync.diffusion.noise import add_noise, init_latents, mix_noise, one_step_x0
from latentsync.diffusion.schedule import NoiseSchedule
from latentsync.diffusion.solvers import ddim_steps
from latentsync.models.unet.network import UNet3DConditionModel, UNetConfig
from tests.golden.harness import Check, GoldenCase, compare, compare_relative, fill_by_rule, golden

MIXED_NOISE_PREFIX = "mixed_noise_alpha"


def rule_inputs(case: GoldenCase) -> dict[str, torch.Tensor]:
    """Every input that the case names by rule and shape."""
    inputs = case.facts["inputs"].items()
    return {name: case.tensor(entry["rule_name"], entry["shape"]) for name, entry in inputs if "shape" in entry}


@golden("denoise")
def denoise(case: GoldenCase) -> Iterator[Check]:
    given, tolerance = rule_inputs(case), case.facts["tolerance"]["relative_to_absmax"]
    unet = UNet3DConditionModel(UNetConfig.from_dict(case.facts["unet_config"])).eval()
    fill_by_rule(unet, case.seed)
    stored = case.facts["scheduler_config"]
    schedule = NoiseSchedule(**{f.name: stored[f.name] for f in fields(NoiseSchedule)})
    frames, height, width = given["masked_latents"].shape[2:]
    mask = (case.tensor("mask_field", (1, 1, 1, height, width)) > 0).float()
    audio = given["audio_embeds"].reshape(-1, frames, *given["audio_embeds"].shape[-2:])  # b f s d
    denoise_window = conditioned(unet, mask, given["masked_latents"], given["ref_latents"])
    for steps, timesteps in case.facts["timesteps"].items():
        yield compare(f"timesteps {steps}", schedule.ddim_timesteps(int(steps)), np.array(timesteps), 0)
    for combo in case.facts["combos"]:
        key, timesteps = combo["key"], schedule.ddim_timesteps(combo["steps"])
        start = init_latents(given["noise"].expand(-1, -1, frames, -1, -1), schedule, timesteps[0])
        denoiser = guided(denoise_window, unet.project_kv(audio), combo["guidance"])
        path = list(ddim_steps(denoiser, start, timesteps, schedule))
        for name, got in ((f"{key}_after_first_step", path[0]), (f"{key}_final", path[-1])):
            yield compare_relative(name, got, case.arrays[name], tolerance)


@golden("diffusion_math")
def diffusion_math(case: GoldenCase) -> Iterator[Check]:
    given, steps = rule_inputs(case), torch.tensor(case.facts["timesteps"])
    schedule = NoiseSchedule()
    got = {
        name: mix_noise(given["noise_shared_raw"], given["noise_ind_raw"], alpha_of(name))
        for name in case.arrays
        if name.startswith(MIXED_NOISE_PREFIX)
    }
    got["one_step"] = one_step_x0(given["x_t"], given["pred_noise"], steps, schedule)
    got["noisy"] = add_noise(given["gt_latents"], got[MIXED_NOISE_PREFIX + "1"], steps, schedule)
    got["alphas_cumprod"] = schedule.alphas_cumprod
    for name, want in case.arrays.items():
        yield compare_relative(name, got[name], want, case.facts["tolerance"]["relative"])


def alpha_of(name: str) -> float:
    """`mixed_noise_alpha2p5` -> 2.5."""
    return float(name.removeprefix(MIXED_NOISE_PREFIX).replace("p", "."))
