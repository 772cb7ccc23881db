"""The U-Net: shapes of every kind, what depends on what, and errors that say what to do."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from latentsync import device
from latentsync.models.attention import SHORT_KEYS, AudioKV, attend
from latentsync.models.unet import motion
from latentsync.models.unet.checkpoint import rename_v10_keys
from latentsync.models.unet.network import (
    DeepCache,
    MotionModuleConfig,
    UNet3DConditionModel,
    UNetConfig,
    initialise_for_training,
)

STEPS = torch.tensor([3, 700])


def config(levels: int = 2, **changes: Any) -> UNetConfig:
    plain = UNetConfig(
        block_out_channels=[8 * (level + 1) for level in range(levels)],
        down_block_types=["CrossAttnDownBlock3D"] * (levels - 1) + ["DownBlock3D"],
        up_block_types=["UpBlock3D"] + ["CrossAttnUpBlock3D"] * (levels - 1),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=6,
        motion_module_resolutions=[1, 2, 4, 8, 16],
        motion_module_kwargs=MotionModuleConfig(num_attention_heads=2, temporal_position_encoding_max_len=6),
    )
    return replace(plain, **changes)


def random_unet(settings: UNetConfig) -> UNet3DConditionModel:
    """A network without zero-initialised layers."""
    torch.manual_seed(0)
    unet = UNet3DConditionModel(settings)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return unet


def predicted(
    unet: UNet3DConditionModel, sample: Tensor, steps: Tensor | int, audio: Tensor, *cache: DeepCache
) -> Tensor:
    return unet(sample, steps, unet.project_kv(audio), *cache)


def inputs(frames: int = 3, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 13, frames, height, width), STEPS, torch.randn(2, frames, 5, 6)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (config(2), (7, 10)),
        (config(3, layers_per_block=2), (8, 8)),
        (config(5), (20, 13)),
        (config(3, motion_module_mid_block=True, motion_module_resolutions=[2]), (4, 8)),
        (config(2, add_audio_layer=False, motion_module_decoder_only=True), (8, 4)),
    ],
)
def test_any_depth_and_size(settings: UNetConfig, size: tuple[int, int]) -> None:
    sample, steps, audio = inputs(2, *size)
    with torch.no_grad():
        out = predicted(random_unet(settings), sample, steps, audio)
    assert out.shape == (2, 4, 2, *size)
    assert out.isfinite().all() and out.std() > 0


def test_clips_of_a_batch_do_not_mix() -> None:
    unet, (sample, steps, audio) = random_unet(config()), inputs()
    with torch.no_grad():
        together = predicted(unet, sample, steps, audio)
        alone = torch.cat([predicted(unet, sample[i : i + 1], int(steps[i]), audio[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_every_frame_attends_to_its_own_audio() -> None:
    unet, (sample, steps, audio) = random_unet(config(use_motion_module=False)), inputs()
    changed = audio.clone()
    changed[0, 1] += 1
    with torch.no_grad():
        difference = (
            (predicted(unet, sample, steps, changed) - predicted(unet, sample, steps, audio)).abs().amax(dim=(1, 3, 4))
        )
        assert difference[0].argmax() == 1  # the clip's other frames only share its statistics
        assert difference[1].max() == 0
        silenced = predicted(unet, sample, steps, torch.zeros_like(audio))
        assert not torch.equal(unet(sample, steps, AudioKV({}, 2, 3)), silenced)


def test_a_new_network_predicts_zero_and_learns_after_initialisation() -> None:
    unet, given = UNet3DConditionModel(config()), inputs()
    assert predicted(unet, *given).abs().max() == 0
    initialise_for_training(unet)
    with torch.no_grad():
        unet.conv_out.weight.normal_()
        moving = predicted(unet, *given)
        for module in unet.modules():
            if isinstance(module, motion.FrameTransformer):
                assert module.proj_out.weight.abs().max() == 0
                module.proj_in.weight.normal_()  # motion modules are the identity: what is inside does not matter
        torch.testing.assert_close(predicted(unet, *given), moving)
    assert moving.std() > 0


def test_gradient_checkpointing_changes_memory_only() -> None:
    unet, given = random_unet(config()), inputs()

    def gradients() -> dict[str, Tensor]:
        unet.zero_grad()
        predicted(unet, *given).square().mean().backward()
        return {
            name: parameter.grad.clone() for name, parameter in unet.named_parameters() if parameter.grad is not None
        }

    plain = gradients()
    unet.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients(), plain)
    assert len(plain) == len(list(unet.parameters()))


def test_attention_over_many_pixels_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, given = random_unet(config()), inputs()
    with torch.no_grad():
        whole = predicted(unet, *given)
        monkeypatch.setattr(motion, "MAX_ATTENTION_HEADS", 10)
        torch.testing.assert_close(predicted(unet, *given), whole)


@pytest.mark.parametrize("dtype", SHORT_KEYS)
def test_short_attention_equals_the_fused_kernel(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 3, length, 8).to(dtype) for length in (9, 5, 5))
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v), fused, rtol=0, atol=1e-6 if dtype == torch.float32 else 0.03)


def test_kernels_that_ignore_strides_get_contiguous_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []

    def fused(*tensors: Tensor) -> Tensor:
        given.extend(each.is_contiguous() for each in tensors)
        return torch.zeros_like(tensors[0])

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    views = [torch.randn(2, 4, 3, 64).permute(0, 2, 1, 3) for _ in range(3)]
    device.fused_attention(*views)
    monkeypatch.setattr(device, "IGNORES_STRIDES", ("cpu",))
    device.fused_attention(*views)
    assert given == 3 * [False] + 3 * [True]


def test_autocast_stays_close_to_float32() -> None:
    unet, given = random_unet(config()), inputs()
    with torch.no_grad():
        exact = predicted(unet, *given)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = predicted(unet, *given)
    assert (coarse.float() - exact).std() < 0.05 * exact.std()


def test_configuration_survives_json_and_names_what_is_wrong() -> None:
    settings = config(3)
    assert UNetConfig.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(ValueError, match="unet_use_magic"):
        UNetConfig.from_dict({"unet_use_magic": True})
    with pytest.raises(ValueError, match="num_heads"):
        UNetConfig.from_dict({"motion_module_kwargs": {"num_heads": 8}})
    with pytest.raises(ValueError, match="act_fn is 'relu', but only 'silu'"):
        UNetConfig.from_dict({"act_fn": "relu"})
    for wrong in (
        {"norm_num_groups": 5},
        {"attention_head_dim": 3},
        {"up_block_types": ["UpBlock3D"]},
        {"down_block_types": ["UpBlock3D", "DownBlock3D"]},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            config(**wrong)


def test_wrong_inputs_are_named() -> None:
    unet, (sample, steps, audio) = random_unet(config()), inputs()
    with pytest.raises(ValueError, match="13 input channels, but got 9"):
        predicted(unet, sample[:, :9], steps, audio)
    with pytest.raises(ValueError, match="2 clips of 2 frames, but there are 2 of 3"):
        predicted(unet, sample, steps, audio[:, :2])
    with pytest.raises(ValueError, match="5 wide, but the U-Net expects 6"):
        unet.project_kv(audio[..., :5])
    with pytest.raises(ValueError, match="one per clip"):
        predicted(unet, sample, torch.tensor([1, 2, 3]), audio)
    with pytest.raises(ValueError, match="8 frames"):
        predicted(unet, sample[:, :, :1].repeat(1, 1, 8, 1, 1), steps, audio[:, :1].repeat(1, 8, 1, 1))


def test_release_1_0_names() -> None:
    block = "up_blocks.1.attentions.0.transformer_blocks.0"
    old = {
        f"{block}.audio_cross_attn.norm.weight": 1,
        f"{block}.audio_cross_attn.attn.to_out.0.bias": 2,
        "conv_in.bias": 3,
    }
    assert rename_v10_keys(old) == {f"{block}.norm2.weight": 1, f"{block}.attn2.to_out.0.bias": 2, "conv_in.bias": 3}


def test_guidance_needs_no_computation_for_zero_audio() -> None:
    """The unconditional half of a doubled batch gets what zeros give."""
    unet = random_unet(config())
    sample, _, audio = inputs()
    with torch.no_grad():
        kv = unet.project_kv(audio)
        both, doubled = torch.cat([torch.zeros_like(audio), audio]), torch.cat([sample, sample])
        torch.testing.assert_close(
            unet(doubled, 5, kv.with_unconditional()), predicted(unet, doubled, 5, both), atol=1e-5, rtol=1e-5
        )
        with pytest.raises(ValueError, match="projected for"):
            unet(doubled, 5, kv)
