"""The auto-encoders as they are run give, to the bit, what diffusers' classes give with the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from latentsync.face.pixels import frames_to_pixels, resize_frames
from latentsync.media.video.read import read_frames
from latentsync.models.vae import (
    KIND,
    OLD_NAMES,
    build_tiny_vae,
    build_vae,
    decode,
    decode_tiny,
    encode,
    load_any_vae,
    load_tiny_vae,
)
from latentsync.places import DEMO_VIDEO
from latentsync.weights import DEMO, CheckpointError, save_checkpoint

CONFIGS = {
    "like the demo's": {"block_out_channels": [8, 16, 24, 32], "layers_per_block": 1, "norm_num_groups": 4},
    "like the public one": {"block_out_channels": [8, 16, 16, 16], "layers_per_block": 2, "norm_num_groups": 2},
}


def random_vae(config: dict) -> AutoencoderKL:
    torch.manual_seed(3)
    return build_vae(config).eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_the_auto_encoder_is_diffusers_to_the_bit(tmp_path: Path, config: dict, dtype: torch.dtype) -> None:
    reference = random_vae(config)
    save_checkpoint(tmp_path / "vae.safetensors", reference.state_dict(), {"kind": "vae", "model": config})
    own = load_any_vae(tmp_path / "vae.safetensors").to(dtype)
    assert list(own.state_dict()) == list(reference.state_dict()) and own.dtype == dtype
    reference = reference.to(dtype).to(memory_format=torch.channels_last)
    pixels, latents = torch.randn(3, 3, 64, 48).to(dtype), torch.randn(3, 4, 8, 6).to(dtype)
    assert torch.equal(encode(own, pixels), encode(reference, pixels))
    drawn = [encode(net, pixels, torch.Generator().manual_seed(5)) for net in (own, reference)]
    assert torch.equal(*drawn)
    assert torch.equal(decode(own, latents), decode(reference, latents))
    for name in ("mean", "logvar", "std"):
        assert torch.equal(*(getattr(net.encode(pixels).latent_dist, name) for net in (own, reference)))


def test_gradients_through_the_decoder_are_diffusers(tmp_path: Path) -> None:
    config = CONFIGS["like the demo's"]
    reference = random_vae(config)
    save_checkpoint(tmp_path / "vae.safetensors", reference.state_dict(), {"kind": "vae", "model": config})
    gradients = []
    for net in (load_any_vae(tmp_path / "vae.safetensors"), reference.to(memory_format=torch.channels_last)):
        latents = torch.linspace(-2, 2, 4 * 36).reshape(1, 4, 6, 6).requires_grad_()
        decode(net, latents).square().mean().backward()
        gradients.append(latents.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("are_old", [False, True], ids=["new names", "old names"])
@torch.no_grad()
def test_the_public_format_is_read(tmp_path: Path, are_old: bool) -> None:
    reference = random_vae(CONFIGS["like the public one"])
    reference.save_pretrained(tmp_path)
    if are_old:
        tensors = {renamed(key): value for key, value in reference.state_dict().items()}
        assert tensors.keys() != reference.state_dict().keys()
        (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
        torch.save(tensors, tmp_path / "diffusion_pytorch_model.bin")
    library = AutoencoderKL.from_pretrained(tmp_path, use_safetensors=not are_old)
    latents = torch.randn(1, 4, 4, 4)
    assert torch.equal(decode(load_any_vae(tmp_path), latents), decode(library, latents))


@torch.no_grad()
def test_the_demos_latents_of_mirrored_faces_are_nearly_its_mirrored_latents() -> None:
    frames = np.stack([shown.frame for shown in read_frames(DEMO_VIDEO, 0, 100)][::25])
    pixels, vae = frames_to_pixels(resize_frames(frames, 128)), load_any_vae(DEMO / "vae.safetensors")
    latents, mirrored = encode(vae, pixels), encode(vae, pixels.flip(-1)).flip(-1)
    assert 0 < (latents - mirrored).square().mean() < 0.05 * latents.var()


def renamed(key: str) -> str:
    for old, new in OLD_NAMES.items():
        key = key.replace(new, old)
    return key


def test_a_public_folder_that_is_damaged_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    reference = random_vae(CONFIGS["like the public one"])
    reference.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers_per_block": 1}))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_any_vae(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "norm_num_groups": 3}))
    with pytest.raises(CheckpointError, match="cannot be built"):
        load_any_vae(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_any_vae(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is neither in"):
        load_any_vae(tmp_path)


@torch.no_grad()
def test_the_small_decoder_is_diffusers_to_the_bit(tmp_path: Path) -> None:
    config = {"decoder_block_out_channels": [8] * 4, "num_decoder_blocks": [2, 1, 1, 1]}
    torch.manual_seed(4)
    reference = build_tiny_vae(config).eval()
    save_checkpoint(tmp_path / "tiny_vae.safetensors", reference.state_dict(), {"kind": KIND, "model": config})
    latents = torch.randn(2, 4, 6, 5)
    own = load_tiny_vae(tmp_path / "tiny_vae.safetensors")
    assert torch.equal(decode_tiny(own, latents), decode_tiny(reference, latents))
